# SPDX-License-Identifier: Apache-2.0
"""Work that a slider asks for many times a second and that is done once it rests."""

from __future__ import annotations

import threading
from collections.abc import Callable

WAIT_S = 0.25


class Later:
    """Calls `action` once, a moment after it was last asked for."""

    def __init__(self, action: Callable[[], None], wait_s: float = WAIT_S) -> None:
        self._action, self._wait_s = action, wait_s
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False

    def ask(self) -> None:
        """Asks for the action."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._closed:
                return
            self._timer = threading.Timer(self._wait_s, self._act)
            self._timer.daemon = True
            self._timer.start()

    def forget(self) -> None:
        """Forgets what was asked for, because something else has been done since."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def close(self) -> None:
        """Forgets what was asked for and takes no more."""
        self._closed = True
        self.forget()

    def _act(self) -> None:
        if not self._closed:
            self._action()
