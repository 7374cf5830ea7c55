# SPDX-License-Identifier: Apache-2.0
"""Long work that a person starts in the browser: one piece at a time, in a thread of its own, cancellable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from recon.errors import ReconError

TELL_EVERY_S = 0.25

State = Literal["running", "done", "failed", "cancelled"]


class Cancelled(Exception):
    """Ends the work of a job that was cancelled, from within its progress."""


class Job:
    """One piece of work.

    It is also the `recon.progress.Progress` that the work reports to, which is how a cancellation reaches it.

    Attributes:
        title: what is being made, for people.
        state: whether it is under way, or how it ended.
        stage_name: the part of the work under way.
        share: how much of that is done, 0..1; None where nobody knows.
        left_s: about how long that part will still take; None where nobody knows.
        result: what the work returned.
        problem: why it failed.
    """

    def __init__(self, title: str, on_change: Callable[[Job], None], share_of_time: Callable[[], float]) -> None:
        self.title = title
        self.state: State = "running"
        self.stage_name = ""
        self.share: float | None = None
        self.left_s: float | None = None
        self.result: Any = None
        self.problem: str = ""
        self._on_change = on_change
        self._share_of_time = share_of_time
        self._cancelled = threading.Event()
        self._told_s = 0.0

    def cancel(self) -> None:
        """Asks the work to stop; it does so at its next sign of life."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Raises `Cancelled` where somebody asked the work to stop."""
        if self._cancelled.is_set():
            raise Cancelled(self.title)

    @contextmanager
    def stage(self, name: str, total: float | None = None, unit: str = "") -> Iterator[_Stage]:
        """As of `recon.progress.Progress`."""
        self.check()
        self.stage_name, self.share, self.left_s = name, None, None
        self.tell(at_once=True)
        yield _Stage(self, total)

    def log(self, message: str) -> None:
        """As of `recon.progress.Progress`."""

    def rest(self, worked_s: float) -> None:
        """Leaves the machine to a training that goes on beside it."""
        share = self._share_of_time()
        if share < 1:
            self._cancelled.wait(min(5.0, worked_s * (1 / share - 1)))

    def tell(self, at_once: bool = False) -> None:
        """Tells how far it is, not too often."""
        now = time.monotonic()
        if at_once or now - self._told_s >= TELL_EVERY_S:
            self._told_s = now
            self._on_change(self)


class _Stage:
    """A part of the work of a job."""

    def __init__(self, job: Job, total: float | None) -> None:
        self._job, self._total, self._done = job, total, 0.0
        self._began_s = self._last_s = time.monotonic()

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if self._total:
            self._job.share = min(self._done / self._total, 1.0)
            pace = (now - self._began_s) / max(self._done, 1e-9)
            self._job.left_s = pace * max(self._total - self._done, 0.0)
        self._job.check()
        self._job.tell()
        self._job.rest(now - self._last_s)
        self._last_s = time.monotonic()

    def set_total(self, total: float) -> None:
        self._total = total


class Jobs:
    """Runs one job at a time."""

    def __init__(self, share_of_time: Callable[[], float] = lambda: 1.0) -> None:
        """Starts idle.

        Args:
            share_of_time: how much of the time may be spent working, asked again and again.
        """
        self._share_of_time = share_of_time
        self._lock = threading.Lock()
        self._closed = False
        self._job: Job | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> Job | None:
        """The job under way."""
        job = self._job
        return job if job is not None and job.state == "running" else None

    def start(self, title: str, work: Callable[[Job], Any], on_change: Callable[[Job], None]) -> Job:
        """Starts a job and returns it at once.

        Args:
            title: what is being made.
            work: called with the job in another thread; what it returns becomes the job's result.
            on_change: called in that thread now and then, and at last when the state is no longer "running".

        Raises:
            ReconError: another job is under way.
        """
        with self._lock:
            if self._closed or self.running is not None:
                other = self._job.title if self._job is not None else "the viewer is closing"
                raise ReconError(
                    f"starting “{title}”", f"“{other}” is still under way", "one at a time", "wait for it, or cancel it"
                )
            job = Job(title, on_change, self._share_of_time)
            self._job = job
            self._thread = threading.Thread(target=self._run, args=(job, work), name=title, daemon=True)
            self._thread.start()
        return job

    def close(self) -> None:
        """Cancels what is under way and waits for its end."""
        with self._lock:
            self._closed = True
            job, thread = self._job, self._thread
        if job is not None:
            job.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=30)

    @staticmethod
    def _run(job: Job, work: Callable[[Job], Any]) -> None:
        try:
            job.result = work(job)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except ReconError as error:
            job.problem, job.state = str(error), "failed"
        except Exception as error:
            job.problem, job.state = f"{type(error).__name__}: {error}", "failed"
        job.tell(at_once=True)
