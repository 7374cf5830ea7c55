# SPDX-License-Identifier: Apache-2.0
"""A browser without a picture: speaks viser's protocol over a socket, moves its camera, counts what it is sent."""

from __future__ import annotations

import math
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec.msgpack
import viser
import zstandard
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PROTOCOL = f"viser-v{viser.__version__}"

CAMERA: dict[str, Any] = {
    "type": "ViewerCameraMessage",
    "wxyz": [0.0, 1.0, 0.0, 0.0],
    "position": [3.0, 0.0, 1.5],
    "fov": 0.9,
    "near": 0.01,
    "far": 1000.0,
    "image_height": 360,
    "image_width": 640,
    "look_at": [0.0, 0.0, 0.3],
    "up_direction": [0.0, 0.0, 1.0],
}


class Client:
    """A connected browser; a thread reads what it is sent, unless it is one that reads nothing.

    Attributes:
        size, reads: of its window, and whether it reads what it is sent.
        pictures: how many background pictures it was sent.
        bytes: how much it was sent in all.
    """

    def __init__(self, port: int, reads: bool = True, size: tuple[int, int] = (640, 360), query: str = "") -> None:
        connection = socket.socket()
        if not reads:
            # A small buffer, so that one who does not read is noticed soon.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        self._socket = connect(
            f"ws://127.0.0.1:{port}/{query}",
            sock=connection,
            subprotocols=[PROTOCOL],  # type: ignore[list-item]
            max_size=None,
            compression=None,
            max_queue=None if reads else 1,
            ping_interval=None,
        )
        self.size, self.reads = size, reads
        self.pictures = 0
        self.bytes = 0
        self._decompressor = zstandard.ZstdDecompressor()
        self._thread = threading.Thread(target=self._read, daemon=True)
        if reads:
            self._thread.start()
        self.move(0.0)

    def move(self, angle_rad: float, radius: float = 3.3, height: float = 1.6) -> None:
        """Stands on a circle about the world's axis and looks at its middle."""
        from recon.cameras import look_at
        from recon.viewers.layers import quaternion_wxyz

        eye = [radius * math.cos(angle_rad), radius * math.sin(angle_rad), height]
        import numpy as np

        pose = look_at(np.array(eye), np.array(CAMERA["look_at"]), np.array([0.0, 0.0, 1.0]))
        width, height_px = self.size
        message = {
            **CAMERA,
            "position": eye,
            "wxyz": list(quaternion_wxyz(pose[:3, :3].T)),
            "image_width": width,
            "image_height": height_px,
        }
        self._socket.send(msgspec.msgpack.encode(message))

    def send(self, message: dict[str, Any]) -> None:
        """Sends any message."""
        self._socket.send(msgspec.msgpack.encode(message))

    def close(self) -> None:
        """Leaves as a browser does."""
        self._socket.close()

    def vanish(self) -> None:
        """Goes without a word."""
        self._socket.socket.shutdown(socket.SHUT_RDWR)
        # The library's thread of one who does not read waits for its reader, not for the connection.
        self._socket.recv_messages.close()
        self._socket.socket.close()

    def _read(self) -> None:
        try:
            while True:
                raw = self._socket.recv()
                assert isinstance(raw, bytes)
                self.bytes += len(raw)
                compressed = int.from_bytes(raw[8:16], "little")
                document = msgspec.msgpack.decode(self._decompressor.decompress(raw[16 : 16 + compressed]))
                for message in document["messages"]:
                    if message["type"] == "BackgroundImageMessage" and message["rgb_data"] is not None:
                        self.pictures += 1
        except (ConnectionClosed, OSError):
            pass


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Waits for something to become so.

    Raises:
        AssertionError: it did not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.05)


def come_and_go(port: int, seconds: float, most: int) -> int:
    """Has up to `most` browsers come, look around and leave, some of them rudely; returns how many there were."""
    chance, clients, count = random.Random(0), [], 0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or count < most:
        if len(clients) < most and chance.random() < 0.5:
            clients.append(Client(port, reads=chance.random() > 0.1, size=(320, 180)))
            count += 1
        for client in clients:
            client.move(chance.random() * 6)
        if clients and chance.random() < 0.35:
            leaving = clients.pop(chance.randrange(len(clients)))
            (leaving.vanish if chance.random() < 0.3 or not leaving.reads else leaving.close)()
        time.sleep(0.03)
    for client in clients:
        (client.close if client.reads else client.vanish)()
    return count


if __name__ == "__main__":
    print(come_and_go(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
