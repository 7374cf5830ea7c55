# SPDX-License-Identifier: Apache-2.0
"""Who gets into a viewer, and what a hostile one can do there: nothing."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from typing import Any

import msgspec.msgpack
import numpy as np
import pytest
import viser
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from recon.viewers import Content, Viewer
from recon.viewers.gate import MOST_MESSAGE_BYTES, cookie_name, is_acceptable
from recon.viewers.server import close_server, open_server, url_of
from tests.viewers.sockets import CAMERA, Client, wait_until

PROTOCOL = f"viser-v{viser.__version__}"


def get(port: int, path: str = "/", host: str = "127.0.0.1", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Asks for a page; returns status, text and headers."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace"), dict(answer.getheaders())


def greets(port: int, origin: str | None = None, protocol: str = PROTOCOL, query: str = "", **headers: str) -> bool:
    """Whether a socket is let in."""
    try:
        with connect(
            f"ws://127.0.0.1:{port}/{query}",
            origin=origin,  # type: ignore[arg-type]
            subprotocols=[protocol],  # type: ignore[list-item]
            additional_headers=headers,
        ):
            return True
    except InvalidStatus:
        return False


@pytest.fixture
def local() -> Iterator[viser.ViserServer]:
    server = open_server("127.0.0.1", 0, "recon")
    yield server
    close_server(server)


@pytest.fixture
def shared() -> Iterator[viser.ViserServer]:
    """One that other machines can reach."""
    server = open_server("0.0.0.0", 0, "recon")
    yield server
    close_server(server)


# Loopback ---------------------------------------------------------------------------------------------------------


def test_pages_of_other_origins_are_refused_and_the_relay_is_off(local: viser.ViserServer) -> None:
    port = local.get_port()
    for origin in ("http://evil.example", f"http://evil.example:{port}", "null", f"http://127.0.0.1:{port + 1}"):
        assert not greets(port, origin)
        assert get(port, Origin=origin)[0] == 403
    for own in (f"http://127.0.0.1:{port}", None):
        assert greets(port, own)
    assert local.request_share_url() is None


def test_names_that_only_point_here_are_refused(local: viser.ViserServer) -> None:
    port = local.get_port()
    assert get(port, Host=f"evil.example:{port}")[0] == 403
    assert get(port, Host="")[0] == 403
    assert get(port, Host="127.0.0.1:nonsense")[0] == 403
    # A tunnel may have another port at its near end.
    assert get(port, Host="localhost:9999")[0] == 200
    assert get(port, Host="[::1]:9999", Origin="http://[::1]:9999")[0] == 200


def test_loopback_is_not_reached_from_elsewhere(local: viser.ViserServer) -> None:
    addresses = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), 0, socket.AF_INET)}
    for address in addresses - {"127.0.0.1"}:
        with pytest.raises(OSError):
            socket.create_connection((str(address), local.get_port()), timeout=2)
    assert "token" not in url_of(local)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..\\..\\etc\\passwd",
        "//etc/passwd",
        "/.%00/x",
        "/index.html/../../_viser.py",
        "/" + "a" * 6000,
        "/http://127.0.0.1/etc/passwd",
    ],
)
def test_no_file_but_the_page_is_served(local: viser.ViserServer, path: str) -> None:
    try:
        status, text, _ = get(local.get_port(), path)
    except (http.client.HTTPException, OSError, ValueError):
        return  # refused even earlier
    assert status in (404, 414, 431)
    assert "root:" not in text
    assert "import" not in text


def test_framing_and_sniffing_are_refused(local: viser.ViserServer) -> None:
    headers = get(local.get_port())[2]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in headers


# With a token -----------------------------------------------------------------------------------------------------


def test_other_addresses_demand_the_token(shared: viser.ViserServer) -> None:
    port = shared.get_port()
    token = url_of(shared).partition("?token=")[2]
    assert len(token) >= 22  # 128 bits in base64 are 22 letters
    status, text, headers = get(port)
    assert status == 403
    assert "?token=" in text
    assert token not in text
    assert "Set-Cookie" not in headers
    assert get(port, "/?token=")[0] == get(port, f"/?token={token[:-1]}")[0] == get(port, f"/?token={token}x")[0] == 403
    assert get(port, "/index.html", Cookie=f"{cookie_name(port)}=nonsense")[0] == 403
    assert get(port, "/index.html", Cookie=f"{cookie_name(port)}=")[0] == 403
    assert not greets(port)
    assert not greets(port, query="?token=nonsense")

    status, _, headers = get(port, f"/?token={token}")
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert cookie.startswith(f"{cookie_name(port)}={token};")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    kept = cookie.partition(";")[0]
    # From now on the cookie opens pages and sockets; other origins stay out even so.
    assert get(port, "/index.html", Cookie=f"other=1; {kept}")[0] == 200
    assert greets(port, f"http://127.0.0.1:{port}", Cookie=kept)
    assert greets(port, query=f"?token={token}")
    assert not greets(port, "http://evil.example", Cookie=kept)


def test_each_viewer_has_a_token_of_its_own(shared: viser.ViserServer) -> None:
    other = open_server("0.0.0.0", 0, "recon")
    try:
        assert url_of(other).partition("?")[2] != url_of(shared).partition("?")[2]
        assert not greets(other.get_port(), query="?" + url_of(shared).partition("?")[2])
    finally:
        close_server(other)


@pytest.mark.browser
def test_a_browser_gets_in_with_the_printed_address_only(shared: viser.ViserServer, page: Any) -> None:
    port, token = shared.get_port(), url_of(shared).partition("?token=")[2]
    assert page.goto(f"http://127.0.0.1:{port}/").status == 403
    assert "needs its token" in page.inner_text("body")
    page.goto(f"http://127.0.0.1:{port}/?token={token}")
    wait_until(lambda: bool(shared.get_clients()), "the browser has connected", 60)
    # Scripts cannot read what stands for the token.
    assert token not in page.evaluate("document.cookie")
    assert page.goto(f"http://127.0.0.1:{port}/").status == 200


# Hostile messages -------------------------------------------------------------------------------------------------


def hostile_messages() -> list[bytes | str]:
    generator = np.random.default_rng(0)
    pack = msgspec.msgpack.encode
    camera = {**CAMERA, "wxyz": [0.0, 0.0, 0.0, 0.0]}
    found: list[bytes | str] = ["text", b"", b"\xc1", pack(7), pack([]), pack({}), pack({"type": 3})]
    found += [generator.bytes(int(size)) for size in generator.integers(1, 400, 40)]
    found += [pack({"type": kind}) for kind in ("Nonsense", "Message", "__class__", "RunJavascriptMessage")]
    found += [pack(camera), pack({**CAMERA, "image_width": 10**9}), pack({**CAMERA, "image_width": -1})]
    found += [pack({**CAMERA, "position": ["a", "b", "c"]}), pack({**CAMERA, "fov": float("nan")})]
    found += [pack({"type": "GuiUpdateMessage", "uuid": "x", "updates": {"update_cb": []}})]
    nested: Any = 1.0
    for _ in range(2000):
        nested = [nested]
    found.append(b"".join([b"\x91" * 3000, b"\x01"]))
    return found


def test_hostile_messages_end_their_connection_and_nothing_else(world: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with Viewer(Content("a", world.splats, world.scene), port=0, picture="exact") as viewer:
        good = Client(viewer.server.get_port())
        wait_until(lambda: good.pictures > 0, "an honest browser has its picture")
        capfd.readouterr()
        for message in hostile_messages():
            with connect(
                f"ws://127.0.0.1:{viewer.server.get_port()}",
                subprotocols=[PROTOCOL],
                max_size=None,  # type: ignore[list-item]
            ) as hostile:
                hostile.send(message)
                with pytest.raises(ConnectionClosed):
                    while True:
                        hostile.recv(timeout=10)
        with (
            connect(
                f"ws://127.0.0.1:{viewer.server.get_port()}",
                subprotocols=[PROTOCOL],
                max_size=None,  # type: ignore[list-item]
            ) as hostile,
            pytest.raises(ConnectionClosed),
        ):
            hostile.send(b"\x00" * (MOST_MESSAGE_BYTES + 1))
            while True:
                hostile.recv(timeout=10)
        before = good.pictures
        good.move(0.3)
        wait_until(lambda: good.pictures > before, "the honest browser still gets pictures")
        wait_until(lambda: len(viewer.server.get_clients()) == 1, "nobody else is left")
        good.close()
    said = capfd.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err


def test_only_the_value_of_a_control_can_be_set() -> None:
    assert is_acceptable({"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": 3}})
    assert not is_acceptable({"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": 3, "removed": True}})
    assert not is_acceptable({"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": float("inf")}})
    assert is_acceptable(CAMERA)
    assert not is_acceptable({**CAMERA, "up_direction": [0, 0, 1e300]})
    assert not is_acceptable({"type": "FileTransferStartUpload", "size_bytes": 10**12, "part_count": 1})


def test_pages_of_another_version_are_refused_silently(local: viser.ViserServer, capfd: Any) -> None:
    assert not greets(local.get_port(), protocol="viser-v0.0.1")
    assert capfd.readouterr().out == ""


def test_there_is_a_most_of_connections(local: viser.ViserServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.viewers.gate.MOST_CONNECTIONS", 3)
    clients = [Client(local.get_port()) for _ in range(3)]
    wait_until(lambda: len(local.get_clients()) == 3, "three are in")
    address = f"ws://127.0.0.1:{local.get_port()}"
    with connect(address, subprotocols=[PROTOCOL]) as fourth, pytest.raises(ConnectionClosed):  # type: ignore[list-item]
        fourth.recv(timeout=10)
    clients.pop().close()
    wait_until(lambda: len(local.get_clients()) == 2, "one has left")
    again = Client(local.get_port())
    wait_until(lambda: len(local.get_clients()) == 3, "another is in")
    for client in [*clients, again]:
        client.close()
