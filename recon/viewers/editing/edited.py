# SPDX-License-Identifier: Apache-2.0
"""What films and exports are made of: the splats as edited, not as they are lit up while somebody edits them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.rasterization import SplatRenderer
from recon.viewers.editing.panel import EditPanel

if TYPE_CHECKING:
    from recon.render import Renderer
    from recon.splats import Splats
    from recon.viewers.viewer import Viewer


def edited_splats(viewer: Viewer) -> Splats | None:
    """Returns the splats with their edits: hidden ones are there, deleted ones are gone.

    While a training runs they are those of the last picture.

    Raises:
        ReconError: edits that do not fit, or cannot be read.
    """
    content = viewer.content
    if content.splats is None:
        renderer = viewer.exact.renderer
        return renderer.splats if isinstance(renderer, SplatRenderer) else None
    session = next((panel.session for panel in viewer.panels if isinstance(panel, EditPanel)), None)
    if session is not None:
        return session.state.edited
    if content.edits_path is None or not content.edits_path.is_file():
        return content.splats
    from recon.edits import apply_edits, read_edits

    return apply_edits(content.splats, read_edits(content.edits_path))


def edited_renderer(viewer: Viewer) -> Renderer | None:
    """Returns a renderer of what `edited_splats` gives, of its own, so that pictures in the browsers need not wait."""
    splats = edited_splats(viewer)
    if splats is not None and len(splats):
        return SplatRenderer(splats)
    return viewer.exact.renderer if splats is None else None
