# SPDX-License-Identifier: Apache-2.0
"""The tab "View": what is drawn, and where one stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recon.viewers.viewer import level

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer


class ViewPanel:
    """Switches of the layers and of the picture."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._boxes: dict[str, Any] = {}
        self._dropdown: Any = None
        gui, layers = viewer.server.gui, viewer.layers
        choices = viewer.pictures()
        with viewer.tabs["View"]:
            if len(choices) > 1:
                self._dropdown = gui.add_dropdown(
                    "Picture",
                    tuple(choices),
                    hint="The browser draws splats fast but without view-dependent colour; the exact picture, "
                    "rendered by recon, shows what was trained.",
                )
                self._dropdown.on_update(lambda event: viewer.set_picture(choices[event.target.value]))
            for name in ("cameras", "points", "mesh"):
                if name in layers:
                    self._boxes[name] = gui.add_checkbox(name.capitalize(), bool(layers[name].visible))
                    self._boxes[name].on_update(self._switched(name))
            if "points" in layers:
                size = gui.add_slider("Point size", 0.2, 5.0, 0.1, 1.0)
                base = layers["points"].point_size
                size.on_update(lambda event: setattr(layers["points"], "point_size", base * event.target.value))
            gui.add_button("Level the horizon").on_click(lambda event: level(event.client))
        viewer.on_switch(self._show)
        self._show()

    def close(self) -> None:
        """Nothing runs in the background."""

    def _switched(self, name: str) -> Callable[[Any], None]:
        return lambda event: self._viewer.set_layer(name, event.target.value)

    def _show(self) -> None:
        """Brings the switches to what is so."""
        for name, box in self._boxes.items():
            if box.value != self._viewer.layers[name].visible:
                box.value = self._viewer.layers[name].visible
        label = next((text for text, value in self._viewer.pictures().items() if value == self._viewer.picture), None)
        if self._dropdown is not None and label is not None and self._dropdown.value != label:
            self._dropdown.value = label
