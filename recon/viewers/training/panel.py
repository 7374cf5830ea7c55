# SPDX-License-Identifier: Apache-2.0
"""The tab "Training": numbers, curves, buttons, and options that may change while it runs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from recon.errors import ReconError
from recon.progress import label_of, shown_number
from recon.viewers.training.metrics import COMMON, Metrics, curve_label

if TYPE_CHECKING:
    from recon.viewers.training.live import LiveViewer
    from recon.viewers.viewer import Viewer

TELL_EVERY_S = 0.2
CURVE_COLOR = "#6ea3ff"


class Option(Protocol):
    """An option that may change: its name with its group, its value and range, whether it is a share of all steps."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def is_fraction(self) -> bool: ...


class Adjustable(Protocol):
    """The options of a training that may change while it runs."""

    def options(self) -> Sequence[Option]:
        """Returns them with their present values."""

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuses with a ReconError what the training would refuse."""


class Watch:
    """What a hook remembers between steps."""

    def __init__(self, steps: int, metrics: Metrics | None, adjustable: Adjustable | None = None) -> None:
        self.steps = steps
        self.metrics = metrics
        self.adjustable = adjustable
        self.status_due_s = 0.0
        self.snapshot_due_s = 0.0
        self.snapshot_step = -1
        self.first: tuple[float, int] | None = None


class TrainingPanel:
    """The tab's controls.  A thread of its own writes them: the training's only leaves notes."""

    def __init__(self, viewer: Viewer, live: LiveViewer) -> None:
        self._live = live
        self._tab = viewer.tabs["Training"]
        self._gui: Any = viewer.server.gui
        self._note: tuple[int, Watch] | None = None
        self._changed = threading.Event()
        self._closing = False
        self._changes: _Changes | None = None
        self._plots: dict[str, Any] = {}
        with self._tab:
            self._text = self._gui.add_markdown("Waiting for the first step.")
            self._bar: Any = self._gui.add_progress_bar(0.0)
            self._add_plots()
            self._pause = self._gui.add_button("Pause")
            self._save = self._gui.add_button("Save a checkpoint")
            self._stop = self._gui.add_button("Stop and keep", hint="Ends training; the checkpoint can be resumed.")
        self._pause.on_click(self._noted(lambda: live.pause(not live.paused)))
        self._save.on_click(self._noted(live.save))
        self._stop.on_click(self._noted(live.stop))
        self._thread = threading.Thread(target=self._write, name="training panel", daemon=True)
        self._thread.start()

    def tell(self, step: int, watch: Watch) -> None:
        """Leaves a note of the present step; called by the training's thread."""
        self._note = (step, watch)
        self._changed.set()

    def close(self) -> None:
        """Ends the thread."""
        self._closing = True
        self._changed.set()
        self._thread.join(timeout=5)

    def _noted(self, action: Callable[[], None]) -> Callable[[Any], None]:
        def act(_event: Any) -> None:
            action()
            self._changed.set()

        return act

    def _add_plots(self) -> None:
        self._which = self._gui.add_dropdown("Curve", tuple(COMMON.values()), visible=False)
        self._which.on_update(lambda _event: self._choose_plot())
        for name in COMMON:
            self._add_plot(name)

    def _add_plot(self, name: str) -> None:
        empty = np.zeros(1)
        scales: dict[str, Any] = {"x": {"time": False}, "y": {"distr": 3} if name == "loss" else {"auto": True}}
        self._plots[name] = self._gui.add_uplot(
            (empty, empty),
            ({"label": "step"}, {"label": curve_label(name), "stroke": CURVE_COLOR, "width": 1.5}),
            scales=scales,
            aspect=1.8,
            order=self._which.order + 1e-3 * (1 + len(self._plots)),
            visible=False,
        )

    def _choose_plot(self) -> None:
        for name, plot in self._plots.items():
            plot.visible = self._which.visible and curve_label(name) == self._which.value

    def _write(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._closing:
                return
            if self._note is not None:
                self._show(*self._note)
            # A browser shows no more than this, whatever the speed of the training.
            time.sleep(TELL_EVERY_S)

    def _show(self, step: int, watch: Watch) -> None:
        self._text.content = "  \n".join(self._words(step, watch))
        self._bar.value = 100.0 * step / max(watch.steps, 1)
        self._pause.label = "Resume" if self._live.paused else "Pause"
        self._stop.disabled = self._save.disabled = self._pause.disabled = self._live.stopped
        if watch.adjustable is not None:
            if self._changes is None:
                with self._tab:
                    self._changes = _Changes(self._gui, self._live, watch.adjustable, watch.steps)
            self._changes.show(step)

    def _words(self, step: int, watch: Watch) -> list[str]:
        """Returns the lines about the present step; brings the curves up to date."""
        now = time.monotonic()
        if watch.first is None or self._live.paused:
            watch.first = (now, step)
        since_s, since_step = watch.first
        lines = [f"Step **{step:,}** of {watch.steps:,}"]
        if step > since_step:
            pace_s = (now - since_s) / (step - since_step)
            lines.append(f"{pace_s * 1000:.0f} ms a step, {duration((watch.steps - step) * pace_s)} left")
        if watch.metrics is not None:
            lines += self._numbers(watch.metrics)
        if self._live.stopped:
            lines.append("**stopped**")
        elif self._live.paused:
            lines.append("**paused**")
        return lines

    def _numbers(self, metrics: Metrics) -> list[str]:
        if metrics.update() and len(metrics.series["loss"]) > 1:
            self._add_own_plots(metrics)
            for name, plot in self._plots.items():
                if len(metrics.series[name]) > 1:
                    plot.data = metrics.curve(name)
            if not self._which.visible:
                self._which.visible = True
                self._choose_plot()
        loss, score = metrics.last("loss"), metrics.last("held_out_psnr_db")
        words = []
        if loss is not None:
            words.append(f"loss {loss:.4f}" + (f", held out {score:.2f} dB" if score is not None else ""))
        for name in metrics.series:
            value = metrics.last(name)
            if name not in COMMON and value is not None:
                words.append(f"{label_of(name)}: {shown_number(value)}")
        return words

    def _add_own_plots(self, metrics: Metrics) -> None:
        """Makes the curves of the method's own numbers once there are any."""
        fresh = [name for name in metrics.series if name not in self._plots]
        if not fresh:
            return
        with self._tab:
            for name in fresh:
                self._add_plot(name)
        self._which.options = tuple(curve_label(name) for name in self._plots)


class _Changes:
    """Numbers that may change while the training runs; made inside the tab."""

    def __init__(self, gui: Any, live: LiveViewer, adjustable: Adjustable, steps: int) -> None:
        self._live, self._adjustable, self._steps = live, adjustable, steps
        self._inputs: dict[str, Any] = {}
        self._switches: dict[str, Any] = {}
        self._values: dict[str, float] = {}
        self._before_off: dict[str, float] = {}
        self._step = 0
        options = adjustable.options()
        if not options:
            return
        with gui.add_folder("While it runs", expand_by_default=False):
            for option in options:
                self._add(gui, option)
            apply = gui.add_button("Apply", hint="From the next step on; recorded in the run's changes.jsonl.")
        apply.on_click(lambda event: self._apply(event.client))

    def show(self, step: int) -> None:
        """Brings the numbers to what the training uses; those that a person is changing stay."""
        self._step = step
        for option in self._adjustable.options():
            if self._values.get(option.name) != option.value:
                self._values[option.name] = option.value
                self._inputs[option.name].value = self._shown(option)
                if option.name in self._switches:
                    self._switches[option.name].value = self._shown(option) > step

    def _add(self, gui: Any, option: Option) -> None:
        group, _, member = option.name.rpartition(".")
        self._values[option.name] = option.value
        if option.is_fraction:
            switch = gui.add_checkbox(f"{group.capitalize()} control", True)
            switch.on_update(lambda event: self._switch(option, event.target.value))
            self._switches[option.name] = switch
            self._inputs[option.name] = gui.add_number("… until step", self._shown(option), min=0, max=self._steps)
            return
        words = member.replace("_", " ")
        label = f"{words.capitalize()} {group.rstrip('s')}" if group else words.capitalize()
        whole = isinstance(option.value, int)
        # Three digits of whatever size the number is of.
        step = 1 if whole else 10.0 ** (math.floor(math.log10(max(option.value, 1e-6))) - 2)
        high = None if math.isinf(option.high) else option.high
        self._inputs[option.name] = gui.add_number(label, option.value, min=option.low, max=high, step=step)

    def _shown(self, option: Option) -> float:
        return round(option.value * self._steps) if option.is_fraction else option.value

    def _switch(self, option: Option, on: bool) -> None:
        """Ends what a fraction of the run ends now, or gives it its time back."""
        until = self._inputs[option.name].value
        if (until > self._step) == on:
            return
        if on:
            value = self._before_off.get(option.name, 1.0)
            value = value if value * self._steps > self._step else 1.0
        else:
            self._before_off[option.name] = self._values[option.name]
            value = self._step / self._steps
        self._live.change({option.name: value})

    def _apply(self, client: Any) -> None:
        values: dict[str, float] = {}
        for option in self._adjustable.options():
            given = self._inputs[option.name].value
            if given != self._shown(option):
                values[option.name] = given / self._steps if option.is_fraction else given
        if not values:
            return
        try:
            self._adjustable.check(values)
        except ReconError as error:
            client.add_notification("Not changed", str(error), color="red", auto_close_seconds=8)
            return
        self._live.change(values)


def duration(seconds: float) -> str:
    """Returns a duration as people say it."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
