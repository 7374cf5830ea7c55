# SPDX-License-Identifier: Apache-2.0
"""Files on their way to a browser, and names of files that a browser may ask for.

viser's own way takes the whole file into memory, twice.  Here it is read in pieces, and the next ones are read when the
browser has received those before, so that a slow browser costs no memory either.
"""

from __future__ import annotations

import mimetypes
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recon.errors import ReconError
from recon.film.saved import clean_name

PART_BYTES = 1 << 20
PARTS_ON_THE_WAY = 8
ANSWER_S = 120.0
"""How long a browser may take for the parts on the way before it counts as gone."""

LARGEST_DOWNLOAD = 2 << 30
"""A browser keeps what it receives in memory."""


def send_file(
    client: Any, path: Path, name: str | None = None, on_part: Callable[[float], None] = lambda share: None
) -> None:
    """Sends a file to a browser, which stores it where it stores downloads; returns when all of it is there.

    Args:
        client: the browser.
        path: the file.
        name: what it is called there; None takes its own name.
        on_part: told what share has arrived; what it raises ends the sending.

    Raises:
        ReconError: the file is gone or larger than browsers bear, or the browser has left.
    """
    from viser import _messages as messages

    doing = f"sending {path.name} to the browser"
    try:
        size, file = path.stat().st_size, path.open("rb")
    except OSError as error:
        raise ReconError(doing, f"it cannot be read ({error.strerror})", "the file in place") from error
    with file:
        if size > LARGEST_DOWNLOAD:
            raise ReconError(doing, f"it has {size >> 20} MiB", f"at most {LARGEST_DOWNLOAD >> 20}", f"copy {path}")
        if size == 0:
            raise ReconError(doing, "it is empty")
        send = client._websock_connection.queue_message
        transfer, parts = secrets.token_hex(16), -(-size // PART_BYTES)
        kind = mimetypes.guess_type(path.name, strict=False)[0] or "application/octet-stream"
        send(messages.FileTransferStartDownload(True, transfer, name or path.name, kind, parts, size))
        for index in range(parts):
            # A file that shrinks meanwhile would leave the browser waiting for the rest.
            content = file.read(PART_BYTES).ljust(min(PART_BYTES, size - index * PART_BYTES), b"\0")
            send(messages.FileTransferPart(None, transfer, index, content[: size - index * PART_BYTES]))
            if index % PARTS_ON_THE_WAY == PARTS_ON_THE_WAY - 1 or index == parts - 1:
                _wait_for(client, doing)
                on_part((index + 1) / parts)


def _wait_for(client: Any, doing: str) -> None:
    """Returns when the browser has received what was sent before."""
    try:
        # Any question will do: messages keep their order, so the answer comes after the parts.
        client.local_storage.get_item("recon", timeout=ANSWER_S)
    except TimeoutError as error:
        raise ReconError(doing, "the browser no longer answers", "a browser that stays open") from error
    except RuntimeError as error:
        # A browser that has no storage answers as well.
        if "disconnected" in str(error):
            raise ReconError(doing, "the browser has left", "a browser that stays open") from error


class ExportsFolder:
    """Where files go that browsers ask for: `exports/` in the run, else a folder that lives as long as the viewer."""

    def __init__(self, run_path: Path | None) -> None:
        self._run_path = run_path
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the files stay when the viewer is closed."""
        return self._run_path is not None

    def path(self, name: str, suffix: str) -> Path:
        """Returns the place of a file; of the name only what is harmless is taken.

        Raises:
            ReconError: nothing of the name is left.
        """
        if self._run_path is not None:
            return self._run_path / "exports" / (clean_name(name) + suffix)
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="recon-exports-")
        return Path(self._temporary.name) / (clean_name(name) + suffix)

    def close(self) -> None:
        """Deletes what is not kept."""
        if self._temporary is not None:
            self._temporary.cleanup()
