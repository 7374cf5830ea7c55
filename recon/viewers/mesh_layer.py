# SPDX-License-Identifier: Apache-2.0
"""The mesh in the browser: in its own colours, shaded, or as a wireframe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from recon.progress import SILENT, Progress
from recon.surface.mesh import Mesh
from recon.viewers.layers import NodeLayer, move_node
from recon.viewers.stage import Stage

if TYPE_CHECKING:
    import viser

MOST_FACES = 1_000_000

Style = Literal["colors", "shaded", "wireframe"]
STYLES: dict[str, Style] = {"Vertex colours": "colors", "Shaded": "shaded", "Wireframe": "wireframe"}

PLAIN_COLOR = (190, 190, 195)
WIRE_COLOR = (150, 200, 255)


class MeshLayer(NodeLayer):
    """The mesh, simplified where it has too many faces."""

    def __init__(
        self,
        server: viser.ViserServer,
        stage: Stage,
        mesh: Mesh,
        progress: Progress = SILENT,
        limit: int = MOST_FACES,
    ) -> None:
        super().__init__(server, stage)
        if len(mesh.faces) > limit:
            progress.log(f"The browser gets the mesh with {limit:,} of its {len(mesh.faces):,} triangles.")
            mesh = simplified(mesh, limit)
        self._mesh = mesh
        self._vertices = np.asarray(mesh.vertices, dtype=np.float32) * np.float32(stage.scale)
        self._style: Style = "shaded" if mesh.colors is None else "colors"
        self._add()

    @property
    def styles(self) -> dict[str, Style]:
        """What there is to choose from, by label."""
        return {label: style for label, style in STYLES.items() if style != "colors" or self._mesh.colors is not None}

    @property
    def style(self) -> Style:
        """How the mesh is drawn."""
        return self._style

    @style.setter
    def style(self, style: Style) -> None:
        self._style = style
        self._add()

    @property
    def opacity(self) -> float:
        """0..1."""
        return self._opacity

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._opacity = opacity
        if self._style == "colors":
            self._later.ask()
        else:
            self.handle.opacity = None if opacity >= 1 else opacity

    def _add(self) -> None:
        scene, mesh = self._server.scene, self._mesh
        if self._style == "colors":
            assert mesh.colors is not None
            data = unlit_glb(self._vertices, mesh.faces, mesh.colors, self._opacity)
            self.handle = scene.add_glb("/mesh", data, visible=self._visible, cast_shadow=False, receive_shadow=False)
        else:
            is_wire = self._style == "wireframe"
            self.handle = scene.add_mesh_simple(
                "/mesh",
                self._vertices,
                mesh.faces,
                color=WIRE_COLOR if is_wire else PLAIN_COLOR,
                wireframe=is_wire,
                opacity=None if self._opacity >= 1 else self._opacity,
                side="double",
                cast_shadow=False,
                receive_shadow=False,
                visible=self._visible,
            )
        move_node(self.handle, self._world, self._stage)


def unlit_glb(
    vertices: npt.NDArray[np.float32],
    faces: npt.NDArray[np.integer],
    colors: npt.NDArray[np.uint8],
    opacity: float = 1.0,
) -> bytes:
    """Returns a GLB whose vertex colours are shown as they are: photographs carry their light already."""
    import trimesh

    # glTF takes vertex colours for linear light; photographs are sRGB.
    srgb = colors / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    alpha = np.full((len(colors), 1), 255)
    visual = trimesh.visual.TextureVisuals(material=trimesh.visual.material.PBRMaterial(doubleSided=True))
    visual.vertex_attributes["color"] = np.concatenate([255 * linear, alpha], 1).round().astype(np.uint8)
    scene = trimesh.Trimesh(vertices, faces, visual=visual, process=False).scene()

    def make_unlit(tree: dict[str, Any]) -> None:
        tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
        for material in tree["materials"]:
            material["extensions"] = {"KHR_materials_unlit": {}}
            if opacity < 1:
                material["alphaMode"] = "BLEND"
                material.setdefault("pbrMetallicRoughness", {})["baseColorFactor"] = [1, 1, 1, opacity]

    return bytes(trimesh.exchange.gltf.export_glb(scene, tree_postprocessor=make_unlit))


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """Returns the mesh with about `faces` triangles; colours are taken from the nearest old vertex."""
    import fast_simplification
    from scipy.spatial import cKDTree

    vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float32)
    reduction = float(np.clip(1 - faces / len(mesh.faces), 0, 0.999))
    kept, triangles = fast_simplification.simplify(vertices, np.ascontiguousarray(mesh.faces, np.int32), reduction)
    colors = None
    if mesh.colors is not None:
        colors = mesh.colors[cKDTree(vertices).query(kept)[1]]
    return Mesh(kept.astype(np.float64), triangles.astype(np.int32), colors)
