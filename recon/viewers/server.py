# SPDX-License-Identifier: Apache-2.0
"""A viser server that only this machine's own browser can talk to.

viser binds every interface, greets any web page that opens a socket to it, offers to publish the scene through a
public relay, and prints to standard output.  Here it binds loopback only, refuses sockets that other web pages open
(by their Origin header, which browsers set and pages cannot forge; it also stops DNS rebinding), has no relay, and is
silent.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError
from recon.progress import SILENT, Progress

if TYPE_CHECKING:
    import viser

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
PORTS_TRIED = 100

BACKGROUNDS = {True: (20 / 255, 20 / 255, 20 / 255), False: (1.0, 1.0, 1.0)}
"""What the page shows where there is nothing, RGB in 0..1, when it is dark and when it is light."""

_construction = threading.Lock()

_at_exit: dict[viser.ViserServer, Callable[[], None]] = {}


def open_server(host: str, port: int, label: str, progress: Progress = SILENT) -> viser.ViserServer:
    """Starts a server on `port` or the next free one, which `progress` is told; 0 takes any free port.

    Args:
        host: a name of loopback.
        port: 0 to 65535.
        label: what stands above the panel.
        progress: hears when the port is taken.

    Raises:
        ReconError: the host is not loopback, or no port is free.
    """
    doing = f"opening the viewer on {host}:{port}"
    if host not in LOOPBACK_HOSTS:
        raise ReconError(
            doing,
            f"{host} can be reached from other machines, and the viewer has no passwords yet",
            "127.0.0.1, localhost or ::1",
            "keep 127.0.0.1 and tunnel to it: ssh -L 8080:127.0.0.1:8080 THIS_MACHINE",
        )
    if not 0 <= port <= 65535:
        raise ReconError(doing, f"the port is {port}", "0 to 65535")
    free = _free_port(host, port, doing)
    if port not in (0, free):
        progress.log(f"Port {port} is taken; the viewer is on {free}.")
    import viser

    # Standard output belongs to the command's own report.
    with _construction, contextlib.redirect_stdout(io.StringIO()), _own_pages_only():
        server = viser.ViserServer(host=host, port=free, label=label, verbose=False)
    # At exit viser would stop the server by itself, with a line on standard output.
    atexit.unregister(server.stop)
    _at_exit[server] = atexit.register(partial(close_server, server))
    server.request_share_url = _refuse_to_share  # type: ignore[method-assign]
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
    """Returns the address to open in a browser."""
    host = server.get_host()
    return f"http://{f'[{host}]' if ':' in host else host}:{server.get_port()}"


def _free_port(host: str, port: int, doing: str) -> int:
    """Returns the first port from `port` on that can be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server does, so that a port of a viewer closed a moment ago counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ReconError(doing, f"ports {port} to {port + PORTS_TRIED - 1} are taken", "a free port", "give another --port")


@contextlib.contextmanager
def _own_pages_only() -> Iterator[None]:
    """While a server is made, has its socket library refuse sockets that pages of other origins open."""
    import websockets.asyncio.server as library

    original = library.serve

    def serve(handler: Any, host: str, port: int, **options: Any) -> Any:
        # None is what programs send, which have no origin; a page in a browser cannot.
        origins = [None, *(f"http://{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))]
        return original(handler, host, port, **{**options, "origins": origins})

    library.serve = serve  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        library.serve = original  # type: ignore[misc]


def _refuse_to_share(verbose: bool = True) -> None:
    """Stands in for viser's public relay."""
    return None
