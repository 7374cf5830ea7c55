# SPDX-License-Identifier: Apache-2.0
"""The tab "View": what is drawn, how, from where, and beside which photograph.

Layers and the choice of renderer are one for all browsers; what the exact picture shows, and the photograph that it is
compared with, are each browser's own, as its camera is.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recon.viewers.exact import camera_of
from recon.viewers.looks import SHOWS, Compare, Legend, Show
from recon.viewers.server import has_left
from recon.viewers.viewer import level

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

COMPARES: dict[str, Compare] = {"Off": "off", "Blend": "blend", "Swipe": "swipe"}
PREVIOUS, THERE, NEXT = "‹ Previous", "Go there", "Next ›"
LAYER_NAMES = ("splats", "mesh", "points", "cameras")


class ViewPanel:
    """Switches of the layers and of the picture."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._lock = threading.Lock()
        self._boxes: dict[str, Any] = {}
        self._sliders: dict[str, Any] = {}
        self._own: dict[int, _OwnControls] = {}
        self._dropdown: Any = None
        gui = viewer.server.gui
        choices = viewer.pictures()
        with viewer.tabs["View"]:
            if len(choices) > 1:
                self._dropdown = gui.add_dropdown(
                    "Renderer",
                    tuple(choices),
                    order=3,
                    hint="The browser draws splats fast but without view-dependent colour; the exact picture, "
                    "rendered by recon, shows what was trained.",
                )
                self._dropdown.on_update(lambda event: viewer.set_picture(choices[event.target.value]))
            if viewer.layers:
                with gui.add_folder("Layers", order=20):
                    self._add_layers(gui)
            gui.add_button("Level the horizon", order=30).on_click(lambda event: level(event.client))
        viewer.on_switch(self._show)
        viewer.exact.on_legend = self._set_legend
        viewer.server.on_client_connect(self._connected)
        viewer.server.on_client_disconnect(self._disconnected)
        self._show()

    def close(self) -> None:
        """Nothing runs in the background."""

    def _add_layers(self, gui: Any) -> None:
        layers = self._viewer.layers
        for name in LAYER_NAMES:
            if name not in layers:
                continue
            if name != "splats":
                self._boxes[name] = gui.add_checkbox(name.capitalize(), bool(layers[name].visible))
                self._boxes[name].on_update(self._switched(name))
            label = "Splats" if name == "splats" else "Opacity"
            self._sliders[name] = gui.add_slider(label, 0.0, 1.0, 0.05, 1.0, hint=f"How solid the {name} are.")
            self._sliders[name].on_update(self._faded(name))
            if name == "mesh":
                self._add_styles(gui)
            if name == "points":
                self._size = gui.add_slider("Point size", 0.2, 5.0, 0.1, 1.0)
                self._size.on_update(lambda event: setattr(layers["points"], "size", event.target.value))

    def _add_styles(self, gui: Any) -> None:
        mesh = self._viewer.layers["mesh"]
        initial = next(label for label, style in mesh.styles.items() if style == mesh.style)
        self._style = gui.add_dropdown("Style", tuple(mesh.styles), initial_value=initial)
        self._style.on_update(lambda event: setattr(mesh, "style", mesh.styles[event.target.value]))

    def _switched(self, name: str) -> Callable[[Any], None]:
        return lambda event: self._viewer.set_layer(name, event.target.value)

    def _faded(self, name: str) -> Callable[[Any], None]:
        return lambda event: self._viewer.set_opacity(name, event.target.value)

    def _connected(self, client: Any) -> None:
        if self._viewer.exact.renderer is None and self._viewer.photos is None:
            return
        # A tab is entered by one thread at a time.
        with self._lock, self._viewer.tabs["View"]:
            try:
                self._own[client.client_id] = _OwnControls(self._viewer, client)
            except Exception:
                # Whoever leaves while controls are made takes half of them along.
                if not has_left(self._viewer.server, client):
                    raise
        if has_left(self._viewer.server, client):
            self._disconnected(client)

    def _disconnected(self, client: Any) -> None:
        self._own.pop(client.client_id, None)

    def _set_legend(self, client_id: int, legend: Legend | None) -> None:
        own = self._own.get(client_id)
        if own is not None:
            own.set_legend(legend)

    def _show(self) -> None:
        """Brings the switches to what is so."""
        layers = self._viewer.layers
        for name, box in self._boxes.items():
            _set(box, "value", layers[name].visible)
        for name, slider in self._sliders.items():
            _set(slider, "value", layers[name].opacity)
            _set(slider, "visible", name == "splats" or layers[name].visible)
        if "points" in self._boxes:
            _set(self._size, "visible", layers["points"].visible)
        if "mesh" in self._boxes:
            _set(self._style, "visible", layers["mesh"].visible)
        label = next((text for text, value in self._viewer.pictures().items() if value == self._viewer.picture), None)
        if self._dropdown is not None and label is not None:
            _set(self._dropdown, "value", label)
        for own in list(self._own.values()):
            own.show_photo()


class _OwnControls:
    """What each browser has for itself; made inside the tab."""

    def __init__(self, viewer: Viewer, client: Any) -> None:
        self._viewer, self._client = viewer, client
        gui = client.gui
        self._legend: Legend | None = None
        if viewer.exact.renderer is not None:
            shows = {label: show for label, show in SHOWS.items() if self._is_offered(show)}
            what = gui.add_dropdown("Show", tuple(shows), order=0)
            self._legend_html = gui.add_html("", order=1, visible=False)
            sigma = gui.add_slider("Size (σ)", 0.3, 3.0, 0.1, 1.0, order=2, visible=False)

            @what.on_update
            def _(_event: Any) -> None:
                sigma.visible = shows[what.value] == "ellipsoids"
                viewer.exact.set_look(client.client_id, show=shows[what.value])
                if shows[what.value] == "color":
                    self.set_legend(None)

            sigma.on_update(lambda _event: viewer.exact.set_look(client.client_id, sigma=sigma.value))
        if viewer.photos is not None:
            with gui.add_folder("Photo", order=10):
                self._add_photo(gui)

    def _is_offered(self, show: Show) -> bool:
        content = self._viewer.content
        if show == "ellipsoids":
            # A renderer that somebody brought may be one of splats; that of a run without splats is not.
            return content.splats is not None or content.awaits_splats
        return show != "error" or self._viewer.photos is not None

    def _add_photo(self, gui: Any) -> None:
        viewer, client = self._viewer, self._client
        self._name = gui.add_markdown("Click a camera, or:")
        where = gui.add_button_group("", (PREVIOUS, THERE, NEXT))
        where.on_click(lambda event: self._go(event.target.value))
        if viewer.exact.renderer is None:
            return
        how = gui.add_dropdown("Compare", tuple(COMPARES), hint="Lays the photograph over the exact picture.")
        share = gui.add_slider("Photo", 0.0, 1.0, 0.01, 0.5, visible=False)

        @how.on_update
        def _(_event: Any) -> None:
            compare = COMPARES[how.value]
            share.visible = compare != "off"
            viewer.exact.set_look(client.client_id, compare=compare)
            if compare != "off" and viewer.exact.look(client.client_id).photo is None:
                self._go(THERE)

        share.on_update(lambda _event: viewer.exact.set_look(client.client_id, share=share.value))

    def _go(self, where: str) -> None:
        """Flies to the photograph before or after the present one, or to it; to the nearest where there is none."""
        viewer, client = self._viewer, self._client
        photos, present = viewer.photos, viewer.exact.look(client.client_id).photo
        assert photos is not None
        if present is None:
            present = photos.nearest(camera_of(client, viewer.stage), viewer.stage.extent)
            where = THERE
        step = {PREVIOUS: -1, THERE: 0, NEXT: 1}[where]
        viewer.enter_photo(client, (present + step) % len(photos))

    def show_photo(self) -> None:
        """Names the photograph that this browser is at."""
        photos, index = self._viewer.photos, self._viewer.exact.look(self._client.client_id).photo
        if photos is not None and index is not None:
            name = html.escape(photos.names[index].rpartition("/")[2]).replace("_", "\\_").replace("*", "\\*")
            _set(self._name, "content", f"**{name}** · {index + 1} of {len(photos)}")

    def set_legend(self, legend: Legend | None) -> None:
        """Shows what the colours mean."""
        if legend == self._legend or self._viewer.exact.renderer is None:
            return
        self._legend = legend
        self._legend_html.visible = legend is not None
        if legend is not None:
            self._legend_html.content = legend_html(legend)


def legend_html(legend: Legend) -> str:
    """Returns a legend as the panel shows it."""
    parts = []
    if legend.colors:
        parts.append(
            f'<div style="height:10px;border-radius:3px;'
            f'background:linear-gradient(90deg,{",".join(legend.colors)})"></div>'
            f'<div style="display:flex;justify-content:space-between">'
            f"<span>{html.escape(legend.low)}</span><span>{html.escape(legend.high)}</span></div>"
        )
    if legend.note:
        parts.append(f'<div style="opacity:0.75">{html.escape(legend.note)}</div>')
    return f'<div style="font-size:0.8em;line-height:1.45;padding:0 0.85em 0.35em">{"".join(parts)}</div>'


def _set(handle: Any, name: str, value: Any) -> None:
    if getattr(handle, name) != value:
        setattr(handle, name, value)
