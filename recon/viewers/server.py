# SPDX-License-Identifier: Apache-2.0
"""A viser server that only those talk to who may.

viser binds every interface, greets any web page that opens a socket to it, offers to publish the scene through a
public relay, and prints to standard output.  Here it binds loopback unless told otherwise, every request and message
passes a `Gate`, there is no relay, and it is silent.  What other machines can reach demands a random token; it is not
encrypted, so it is for networks that one trusts.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import secrets
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from recon.errors import ReconError
from recon.progress import SILENT, Progress
from recon.viewers.gate import LOOPBACK_NAMES, MOST_MESSAGE_BYTES, Gate

if TYPE_CHECKING:
    import viser

PORTS_TRIED = 100
TOKEN_BYTES = 24

BACKGROUNDS = {True: (20 / 255, 20 / 255, 20 / 255), False: (1.0, 1.0, 1.0)}
"""What the page shows where there is nothing, RGB in 0..1, when it is dark and when it is light."""

_construction = threading.Lock()
_log = logging.getLogger("recon.viewers.socket")
_log.addHandler(logging.NullHandler())
_log.propagate = False

_at_exit: dict[viser.ViserServer, Callable[[], None]] = {}
_tokens: WeakKeyDictionary[viser.ViserServer, str] = WeakKeyDictionary()


def open_server(host: str, port: int, label: str, progress: Progress = SILENT) -> viser.ViserServer:
    """Starts a server on `port` or the next free one, which `progress` is told; 0 takes any free port.

    Args:
        host: a name of loopback; any other address of this machine demands a token, which `url_of` carries.
        port: 0 to 65535.
        label: what stands above the panel.
        progress: hears when the port is taken.

    Raises:
        ReconError: the host is no address of this machine, or no port is free.
    """
    doing = f"opening the viewer on {host}:{port}"
    if not 0 <= port <= 65535:
        raise ReconError(doing, f"the port is {port}", "0 to 65535")
    free = _free_port(host, port, doing)
    if port not in (0, free):
        progress.log(f"Port {port} is taken; the viewer is on {free}.")
    import viser

    # What was on its way to a browser that has just left; viser warns of each.
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    token = None if host in LOOPBACK_NAMES else secrets.token_urlsafe(TOKEN_BYTES)
    # Standard output belongs to the command's own report.
    with _construction, contextlib.redirect_stdout(io.StringIO()), _behind(Gate(token)):
        server = viser.ViserServer(host=host, port=free, label=label, verbose=False)
    if token is not None:
        _tokens[server] = token
    # At exit viser would stop the server by itself, with a line on standard output.
    atexit.unregister(server.stop)
    _at_exit[server] = atexit.register(partial(close_server, server))
    server.request_share_url = _refuse_to_share  # type: ignore[method-assign]
    loop = server._event_loop
    loop.call_soon_threadsafe(loop.set_exception_handler, _note)
    set_theme(server, dark=True)
    server.scene.set_up_direction("+z")
    return server


def set_theme(server: viser.ViserServer, dark: bool) -> None:
    """Makes the page dark or light in every browser."""
    server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=dark)


def close_server(server: viser.ViserServer) -> None:
    """Stops a server; sockets are closed when this returns."""
    closer = _at_exit.pop(server, None)
    if closer is not None:
        atexit.unregister(closer)
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


def url_of(server: viser.ViserServer) -> str:
    """Returns the address to open in a browser, with the token where one is needed."""
    host, token = server.get_host(), _tokens.get(server)
    if host in ("0.0.0.0", "::", ""):
        host = _own_address()
    address = f"http://{f'[{host}]' if ':' in host else host}:{server.get_port()}"
    return address if token is None else f"{address}/?token={token}"


def has_left(server: viser.ViserServer, client: Any) -> bool:
    """Whether a browser is gone.

    Who is told of connections by a thread of viser's may hear of the end first; so it asks once it has remembered the
    browser, and forgets it again.
    """
    return client.client_id not in server.get_clients()


def _own_address() -> str:
    """Returns the address by which other machines most likely reach this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the system only chooses the interface.  The address is one that no network has.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _free_port(host: str, port: int, doing: str) -> int:
    """Returns the first port from `port` on that can be bound."""
    try:
        family, *_, place = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((place[0], 0))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no address"
        raise ReconError(
            doing, f"this machine has no such address ({reason})", "an address of this machine", "keep 127.0.0.1"
        ) from error
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server does, so that a port of a viewer closed a moment ago counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((place[0], candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ReconError(doing, f"ports {port} to {port + PORTS_TRIED - 1} are taken", "a free port", "give another --port")


@contextlib.contextmanager
def _behind(gate: Gate) -> Iterator[None]:
    """While a server is made, puts its socket library behind a gate."""
    import websockets.asyncio.server as library

    original = library.serve

    def serve(handler: Any, host: str, port: int, **options: Any) -> Any:
        answer = options["process_request"]

        def process(connection: Any, request: Any) -> Any:
            refused = gate.check(request)
            if refused is not None:
                return refused
            response = answer(connection, request)
            return None if response is None else gate.dress(request, response)

        changed = {"process_request": process, "max_size": MOST_MESSAGE_BYTES, "logger": _log}
        changed["close_timeout"] = 1.0  # nobody waits for a browser that does not answer
        return original(gate.watch(handler), host, port, **{**options, **changed})

    library.serve = serve  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        library.serve = original  # type: ignore[misc]


def _note(_loop: Any, context: dict[str, Any]) -> None:
    """Keeps what a browser's message made fail from the terminal."""
    _log.debug("%s", context.get("message"), exc_info=context.get("exception"))


def _refuse_to_share(verbose: bool = True) -> None:
    """Stands in for viser's public relay."""
    return None
