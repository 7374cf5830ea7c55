# SPDX-License-Identifier: Apache-2.0
"""The layers of the viewer: splats, sparse points, mesh, and cameras with their photographs."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.progress import SILENT, Progress
from recon.scene import Frame, Scene, Similarity, SparsePoints
from recon.surface.mesh import Mesh
from recon.viewers.browser_splats import browser_splats
from recon.viewers.stage import Stage

if TYPE_CHECKING:
    import viser

    from recon.splats import Splats

MOST_POINTS = 500_000
MOST_FACES = 1_000_000
MOST_SPLATS = 1_000_000
MOST_THUMBNAILS = 400
THUMBNAIL_PX = 128

NEAR_SIZES = 5.0
"""Frusta nearer than so many of their sizes are hidden."""

CAMERA_COLOR = (120, 170, 255)


class SplatLayer:
    """The browser's own splats; every browser has its own copy, so that each may hide it behind an exact picture."""

    def __init__(
        self,
        server: viser.ViserServer,
        stage: Stage,
        splats: Splats,
        cameras: list[Camera],
        progress: Progress = SILENT,
        limit: int = MOST_SPLATS,
    ) -> None:
        self._stage, self._cameras, self._limit = stage, cameras, limit
        self.prepared = browser_splats(splats, cameras, limit)
        self._visible = True
        self._covered: set[int] = set()
        self._clients: dict[int, Any] = {}
        self.handles: dict[int, Any] = {}
        if self.prepared.left_out:
            shown = len(self.prepared.centers)
            progress.log(
                f"The browser gets the {shown:,} most visible of {shown + self.prepared.left_out:,} splats; "
                "the exact picture uses all of them."
            )
        server.on_client_connect(self._connected)
        server.on_client_disconnect(lambda client: self._disconnected(client.client_id))

    def _connected(self, client: Any) -> None:
        prepared = self.prepared
        self._clients[client.client_id] = client
        self.handles[client.client_id] = client.scene.add_gaussian_splats(
            "/splats",
            prepared.centers,
            prepared.covariances,
            prepared.colors,
            prepared.opacities,
            scale=prepared.node_scale * self._stage.scale,
            visible=self._visible and client.client_id not in self._covered,
        )

    def _disconnected(self, client_id: int) -> None:
        self.handles.pop(client_id, None)
        self._clients.pop(client_id, None)
        self._covered.discard(client_id)

    def replace(self, splats: Splats) -> None:
        """Shows other splats, in every browser."""
        self.prepared = browser_splats(splats, self._cameras, self._limit)
        for client in list(self._clients.values()):
            self._connected(client)

    @property
    def visible(self) -> bool:
        """Whether the layer is seen where no exact picture covers it."""
        return self._visible

    @visible.setter
    def visible(self, visible: bool) -> None:
        self._visible = visible
        for client_id in list(self.handles):
            self._apply(client_id)

    def cover(self, client_id: int, covered: bool) -> None:
        """Hides the splats of one browser, or gives them back."""
        (self._covered.add if covered else self._covered.discard)(client_id)
        self._apply(client_id)

    def _apply(self, client_id: int) -> None:
        handle = self.handles.get(client_id)
        if handle is not None:
            handle.visible = self._visible and client_id not in self._covered


def add_points(
    server: viser.ViserServer, stage: Stage, points: SparsePoints, progress: Progress = SILENT, limit: int = MOST_POINTS
) -> Any:
    """Adds the sparse points and returns their handle."""
    positions, colors = points.positions, points.colors
    if len(points) > limit:
        progress.log(f"The browser gets {limit:,} of {len(points):,} sparse points.")
        chosen = np.sort(np.random.default_rng(0).choice(len(points), limit, replace=False))
        positions, colors = positions[chosen], colors[chosen]
    return server.scene.add_point_cloud(
        "/points",
        (positions * stage.scale).astype(np.float32),
        colors,
        point_size=0.004 * stage.extent * stage.scale,
        precision="float32",
        point_shape="circle",
        point_shading="flat",
    )


def add_mesh(
    server: viser.ViserServer, stage: Stage, mesh: Mesh, progress: Progress = SILENT, limit: int = MOST_FACES
) -> Any:
    """Adds the mesh, simplified where it has too many faces, and returns its handle."""
    if len(mesh.faces) > limit:
        progress.log(f"The browser gets the mesh with {limit:,} of its {len(mesh.faces):,} triangles.")
        mesh = simplified(mesh, limit)
    vertices = np.asarray(mesh.vertices, dtype=np.float32) * np.float32(stage.scale)
    if mesh.colors is None:
        return server.scene.add_mesh_simple("/mesh", vertices, mesh.faces, color=(190, 190, 195), side="double")
    return server.scene.add_glb("/mesh", unlit_glb(vertices, mesh.faces, mesh.colors))


def unlit_glb(
    vertices: npt.NDArray[np.float32], faces: npt.NDArray[np.integer], colors: npt.NDArray[np.uint8]
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


class CameraLayer:
    """The frusta of a scene's cameras; a click on one flies there, thumbnails arrive in the background.

    Those that are so near to the eye that they would fill the window are hidden.  (The scene is one for all browsers,
    so the one that moved last decides.)
    """

    def __init__(self, server: viser.ViserServer, stage: Stage, scene: Scene, progress: Progress = SILENT) -> None:
        self._stage, self._scene = stage, scene
        self._visible = True
        self._near: frozenset[int] = frozenset()
        self._size = frustum_scale(scene) * stage.scale
        self.cameras = [frame.camera for frame in scene.frames]
        self.handles = [self._frustum(server, index, camera) for index, camera in enumerate(self.cameras)]
        self._positions = scene.camera_centers * stage.scale
        self._hide_near(stage.eye * stage.scale)
        server.on_client_connect(self._watch)
        chosen = np.arange(len(self.handles))
        if len(chosen) > MOST_THUMBNAILS:
            progress.log(f"{MOST_THUMBNAILS} of {len(chosen)} cameras get a thumbnail.")
            chosen = np.linspace(0, len(chosen) - 1, MOST_THUMBNAILS).round().astype(int)
        self._stop = threading.Event()
        frames = [(scene.frames[i], self.handles[i]) for i in chosen]
        self._thread = threading.Thread(target=_load_thumbnails, args=(frames, self._stop), daemon=True)
        self._thread.start()

    def _frustum(self, server: viser.ViserServer, index: int, camera: Camera) -> Any:
        handle = server.scene.add_camera_frustum(
            f"/cameras/{index:05d}",
            fov=2 * math.atan(0.5 * camera.height / camera.fy),
            aspect=camera.width / camera.height,
            scale=self._size,
            color=CAMERA_COLOR,
            thickness=0.02 * self._size,
            wxyz=quaternion_wxyz(camera.world_from_cam[:3, :3]),
            position=camera.center_in_world * self._stage.scale,
            cast_shadow=False,
            receive_shadow=False,
        )

        @handle.on_click
        def _(event: Any) -> None:
            self.enter(event.client, index)

        return handle

    def enter(self, client: Any, index: int) -> None:
        """Flies a browser into camera `index`."""
        fly_to(client, self._stage, self.cameras[index])

    def _watch(self, client: Any) -> None:
        client.camera.on_update(lambda view: self._hide_near(np.asarray(view.position)))

    def _hide_near(self, eye: npt.NDArray[np.float64]) -> None:
        distances = np.linalg.norm(self._positions - eye, axis=1)
        near = frozenset(np.flatnonzero(distances < NEAR_SIZES * self._size).tolist())
        changed, self._near = near ^ self._near, near
        for index in changed:
            self.handles[index].visible = self._visible and index not in near

    @property
    def visible(self) -> bool:
        """Whether the cameras that are not too near are seen."""
        return self._visible

    def set_world(self, new_from_opened: Similarity) -> None:
        """Moves all cameras from where they were opened."""
        scene = moved_scene(self._scene, new_from_opened)
        self._size = frustum_scale(scene) * self._stage.scale
        self.cameras = [frame.camera for frame in scene.frames]
        self._positions = scene.camera_centers * self._stage.scale
        for handle, camera, position in zip(self.handles, self.cameras, self._positions):
            handle.wxyz = quaternion_wxyz(camera.world_from_cam[:3, :3])
            handle.position = position
            handle.scale = self._size

    def set_visible(self, visible: bool) -> None:
        """Shows or hides all cameras."""
        self._visible = visible
        for index, handle in enumerate(self.handles):
            handle.visible = visible and index not in self._near

    def close(self) -> None:
        """Stops loading thumbnails."""
        self._stop.set()
        self._thread.join(timeout=5)


def frustum_scale(scene: Scene) -> float:
    """Returns a frustum size in world units that leaves neighbouring cameras apart."""
    centers = scene.camera_centers
    if len(centers) < 2:
        return 0.1
    from scipy.spatial import cKDTree

    spacing = float(np.median(cKDTree(centers).query(centers, k=2)[0][:, 1]))
    return float(np.clip(0.6 * spacing, 0.02 * scene.extent, 0.05 * scene.extent))


def thumbnail(frame: Frame, long_side: int = THUMBNAIL_PX) -> npt.NDArray[np.uint8] | None:
    """Returns a small version of the frame's photograph, [h, w, 3], None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(frame.image_path) as photograph:
            # JPEG can be decoded at an eighth of its size for a tenth of the time.
            photograph.draft("RGB", (2 * long_side, 2 * long_side))
            small = photograph.convert("RGB")
            small.thumbnail((long_side, long_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
            return np.asarray(small)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _load_thumbnails(frames: list[tuple[Frame, Any]], stop: threading.Event) -> None:
    for frame, handle in frames:
        if stop.is_set():
            return
        picture = thumbnail(frame)
        if picture is not None and not stop.is_set():
            handle.image = picture


def move_node(handle: Any, new_from_opened: Similarity, stage: Stage) -> None:
    """Moves a node whose vertices are in the opened world's browser units."""
    handle.wxyz = quaternion_wxyz(np.asarray(new_from_opened.rotation))
    handle.position = np.asarray(new_from_opened.translation) * stage.scale
    handle.scale = new_from_opened.scale


def moved_scene(scene: Scene, new_from_opened: Similarity) -> Scene:
    """Returns the cameras and points of a scene in another world."""
    frames = tuple(
        replace(frame, camera=frame.camera.with_pose(new_from_opened.apply_to_pose(frame.camera.cam_from_world)))
        for frame in scene.frames
    )
    points = replace(scene.points, positions=new_from_opened.apply(scene.points.positions))
    return replace(scene, frames=frames, points=points)


def fly_to(client: Any, stage: Stage, camera: Camera, seconds: float = 0.6) -> None:
    """Moves a browser's camera to a photograph's pose in a short flight; its window shows all of the photograph."""
    from scipy.spatial.transform import Rotation, Slerp

    view = client.camera
    start_position, target_position = np.array(view.position), camera.center_in_world * stage.scale
    ends = np.array([view.wxyz, quaternion_wxyz(camera.world_from_cam[:3, :3])])
    turn = Slerp([0.0, 1.0], Rotation.from_quat(ends[:, [1, 2, 3, 0]]))
    start_fov, target_fov = view.fov, fov_to_show(camera, view.aspect)
    # The point to orbit about afterwards lies before the camera, at the distance of the scene's focus.
    distance = max(float(np.linalg.norm(stage.focus - camera.center_in_world)), 0.1 * stage.extent) * stage.scale
    frames = max(1, round(seconds * 30))
    for index in range(1, frames + 1):
        share = index / frames
        share = share * share * (3 - 2 * share)
        x, y, z, w = turn(share).as_quat()
        with client.atomic():
            view.wxyz = (w, x, y, z)
            view.position = (1 - share) * start_position + share * target_position
            view.fov = (1 - share) * start_fov + share * target_fov
        if index < frames:
            time.sleep(1 / 30)
    view.look_at = target_position + distance * camera.forward_in_world
    client.flush()


def fov_to_show(camera: Camera, aspect: float) -> float:
    """Returns the vertical field of view in radians at which a window of `aspect` shows all of a photograph."""
    half = max(0.5 * camera.height / camera.fy, 0.5 * camera.width / camera.fx / max(aspect, 1e-3))
    return float(np.clip(2 * math.atan(half), math.radians(5), math.radians(120)))


def quaternion_wxyz(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Returns the unit quaternion of a 3×3 rotation."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat().tolist()
    return w, x, y, z
