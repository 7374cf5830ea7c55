# SPDX-License-Identifier: Apache-2.0
"""How a tab shows a job: a bar, a line of text, a button that cancels."""

from __future__ import annotations

from typing import Any

from recon.viewers.jobs import Job


class JobControls:
    """A bar, a line of text and a button that cancels; for a tab that starts jobs."""

    def __init__(self, gui: Any) -> None:
        self.text = gui.add_markdown("", visible=False)
        self._bar = gui.add_progress_bar(0.0, visible=False)
        self._cancel = gui.add_button("Cancel", icon="x", color="gray", visible=False)
        self._cancel.on_click(lambda event: self._job.cancel() if self._job is not None else None)
        self._job: Job | None = None

    def show(self, job: Job, done: str = "") -> None:
        """Shows how far a job is, or how it ended; `done` is said when it ended well."""
        self._job = job
        running = job.state == "running"
        self._bar.visible = running
        self._bar.animated = job.share is None
        self._bar.value = 100.0 if job.share is None else 100.0 * job.share
        self._cancel.visible = running
        self.text.visible = True
        if running:
            left = f", {duration(job.left_s)} left" if job.left_s is not None and job.share else ""
            share = f" {100 * job.share:.0f} %" if job.share is not None else ""
            self.text.content = f"{plain(job.stage_name or job.title)}{share}{left}"
        elif job.state == "failed":
            self.text.content = f"**It failed.** {plain(job.problem)}"
        elif job.state == "cancelled":
            self.text.content = "Cancelled. Nothing was written."
        else:
            self.text.content = done


def plain(text: str) -> str:
    """Returns text so that markdown shows it as it is."""
    return "".join(letter if letter.isalnum() or letter in " .,:;-\n()" else f"\\{letter}" for letter in text[:600])


def duration(seconds: float) -> str:
    """Returns a duration as people say it."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60} min"


def file_size(count: int) -> str:
    """Returns a number of bytes as people say it."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"
