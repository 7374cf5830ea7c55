# SPDX-License-Identifier: Apache-2.0
"""The tab "Measure": distances, angles and areas between points of the surface.

Clicks snap to the surface that is seen.  Values are in metres where the scale is known.  Measurements stand in the
scene for all browsers and are kept beside the edits; they stay on the surface when the scene is moved or scaled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon.edits.measurements import (
    POINTS_NEEDED,
    Kind,
    Measurement,
    measurements_path,
    read_measurements,
    write_measurements,
)
from recon.errors import ReconError
from recon.viewers.editing.pointer_tools import PointsTool, draw_line
from recon.viewers.editing.session import notify

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

FloatArray = npt.NDArray[np.float64]

COLOR = (64, 224, 208)
TITLES: dict[str, Kind] = {"Distance": "distance", "Angle": "angle", "Area": "area"}


class MeasurePanel:
    """Controls of the measurements; without anything to click on there is no such tab."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._lock = threading.RLock()
        self.measurements: tuple[Measurement, ...] = ()
        self._nodes: list[Any] = []
        self._rows: list[Any] = []
        if viewer.exact.renderer is None:
            return
        edits_file = viewer.content.edits_path
        self._file = None if edits_file is None else measurements_path(edits_file)
        gui = viewer.server.gui
        with viewer.tabs["Measure"]:
            try:
                self.measurements = () if self._file is None else read_measurements(self._file)
            except ReconError as error:
                # What cannot be read is not written over.
                gui.add_markdown(f"**The measurements cannot be read.** {error.found}")
                self._file = None
            tools = gui.add_button_group("Measure", tuple(TITLES), hint="Click on the surface; Escape stops")
            tools.on_click(lambda event: self.begin(event.client, TITLES[event.target.value]))
            more = gui.add_button_group("Then", ("Finish area", "Delete all"), hint="Enter finishes an area too")
            acts: dict[str, Callable[[Any], None]] = {
                "Finish area": viewer.pointer.finish,
                "Delete all": lambda client: self._change(client, ()),
            }
            more.on_click(lambda event: acts[event.target.value](event.client))
            self._note = gui.add_markdown("")
            self._list = gui.add_folder("Measurements")
        viewer.on_world(lambda moved: self._show())
        self._show()

    def close(self) -> None:
        """Nothing runs in the background."""

    def begin(self, client: Any, kind: Kind) -> None:
        """Has a browser's user click the points of a measurement."""
        count = {"distance": 2, "angle": 3, "area": None}[kind]
        title = {"distance": "Distance", "angle": "Angle: its corner is the second point", "area": "Area"}[kind]

        def done(clicked_by: Any, points: list[FloatArray]) -> None:
            made = Measurement.of(kind, np.array(points), self._viewer.world)
            self._change(clicked_by, (*self.measurements, made))

        self._viewer.pointer.take(client, PointsTool(self._viewer, title, count, done, POINTS_NEEDED[kind]))

    def delete(self, client: Any, index: int) -> None:
        """Deletes one measurement."""
        self._change(client, self.measurements[:index] + self.measurements[index + 1 :])

    def texts(self) -> list[str]:
        """Returns the values as they are shown."""
        return [entry.text(self._viewer.world, self._viewer.meters_per_unit) for entry in self.measurements]

    def _change(self, client: Any, measurements: tuple[Measurement, ...]) -> None:
        with self._lock:
            if self._file is not None:
                try:
                    measurements = self._with_others(client, self._file, measurements)
                    write_measurements(self._file, measurements)
                except ReconError as error:
                    notify(client, "The measurements could not be saved", error.found, "red")
                    return
            self.measurements = measurements
        self._show()

    def _with_others(self, client: Any, file: Path, measurements: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
        """Returns the measurements with those that another viewer has made in the file since."""
        found = read_measurements(file)
        others = tuple(entry for entry in found if entry not in self.measurements)
        if others:
            notify(client, "Somebody else has measured", "Their measurements were loaded.", "yellow")
        return (*others, *measurements)

    def _show(self) -> None:
        """Draws the measurements and lists them."""
        with self._lock:
            for node in (*self._nodes, *self._rows):
                node.remove()
            self._nodes, self._rows = [], []
            texts = self.texts()
            for index, (entry, text) in enumerate(zip(self.measurements, texts, strict=True)):
                self._draw(index, entry, text)
            self._fill_list(texts)
            known = self._viewer.meters_per_unit is not None
            self._note.content = (
                "The scale is known: values are metric."
                if known
                else "The scale is not known, so values are in units of the scene. To measure in metres set the scale: "
                "*Edit, Ground, up and scale*."
            )

    def _fill_list(self, texts: list[str]) -> None:
        gui = self._viewer.server.gui
        self._list.visible = bool(texts)
        with self._list:
            for index, (entry, text) in enumerate(zip(self.measurements, texts, strict=True)):
                # A field of text, because that can be marked and copied.
                self._rows.append(gui.add_text(f"{index + 1} {entry.kind.capitalize()}", text))
                button = gui.add_button_group("", (f"Delete {index + 1}",))
                button.on_click(self._deleter(index))
                self._rows.append(button)

    def _deleter(self, index: int) -> Callable[[Any], None]:
        return lambda event: self.delete(event.client, index)

    def _draw(self, index: int, entry: Measurement, text: str) -> None:
        scene, stage = self._viewer.server.scene, self._viewer.stage
        corners = entry.placed(self._viewer.world) * stage.scale
        name = f"/measure/{index}"
        radius = 0.005 * stage.extent * stage.scale
        for number, corner in enumerate(corners):
            self._nodes.append(
                scene.add_icosphere(f"{name}/point{number}", radius, COLOR, position=corner, cast_shadow=False)
            )
        way = np.concatenate([corners, corners[:1]]) if entry.kind == "area" else corners
        self._nodes.append(draw_line(scene, f"{name}/line", way, COLOR))
        place = corners[1] if entry.kind == "angle" else corners.mean(0)
        self._nodes.append(
            scene.add_label(f"{name}/label", f"{index + 1}: {text}", position=place, anchor="bottom-center")
        )
