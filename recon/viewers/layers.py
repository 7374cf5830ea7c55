# SPDX-License-Identifier: Apache-2.0
"""The layers of the viewer: splats, sparse points, mesh, and cameras with their photographs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.progress import SILENT, Progress
from recon.scene import Frame, Scene, Similarity, SparsePoints
from recon.viewers.browser_splats import browser_splats
from recon.viewers.later import Later
from recon.viewers.server import has_left
from recon.viewers.stage import Stage

if TYPE_CHECKING:
    import viser

    from recon.splats import Splats

MOST_POINTS = 500_000
MOST_SPLATS = 1_000_000
MOST_THUMBNAILS = 400
THUMBNAIL_PX = 128
POINT_SIZE = 0.004
"""Usual size of a point, in extents of the scene."""

NEAR_SIZES = 5.0
"""Frusta nearer than so many of their sizes are hidden."""

CAMERA_COLOR = (120, 170, 255)
CANVAS_COLOR = (20, 20, 20)
"""The browser's own background."""


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
        self._server, self._stage, self._cameras, self._limit = server, stage, cameras, limit
        self.prepared = browser_splats(splats, cameras, limit)
        self._visible, self._opacity = True, 1.0
        self._covered: set[int] = set()
        self._later = Later(self._resend)
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
        self._clients[client.client_id] = client
        if has_left(self._server, client):
            self._disconnected(client.client_id)
            return
        self._send(client)

    def _send(self, client: Any) -> None:
        prepared = self.prepared
        self.handles[client.client_id] = client.scene.add_gaussian_splats(
            "/splats",
            prepared.centers,
            prepared.covariances,
            prepared.colors,
            prepared.opacities * np.float32(self._opacity),
            scale=prepared.node_scale * self._stage.scale,
            visible=self._visible and client.client_id not in self._covered,
        )
        if has_left(self._server, client):
            self._disconnected(client.client_id)

    def _disconnected(self, client_id: int) -> None:
        self.handles.pop(client_id, None)
        self._clients.pop(client_id, None)
        self._covered.discard(client_id)

    def replace(self, splats: Splats) -> None:
        """Shows other splats, in every browser."""
        self.prepared = browser_splats(splats, self._cameras, self._limit)
        self._resend()

    def set_stage(self, stage: Stage, cameras: list[Camera]) -> None:
        """Takes up other units and other places of the cameras; splats that are already shown are as they were."""
        self._stage, self._cameras = stage, cameras

    def _resend(self) -> None:
        for client in list(self._clients.values()):
            self._send(client)

    @property
    def opacity(self) -> float:
        """What the splats' own opacities are multiplied by, 0..1."""
        return self._opacity

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._opacity = opacity
        self._later.ask()

    def close(self) -> None:
        """Drops what is still to be sent."""
        self._later.close()

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


class NodeLayer:
    """One node of the scene for all browsers, seen or not, that goes where the world goes.

    `_add` makes the node anew and sets `handle`; `_later` calls it, once a slider rests.
    """

    def __init__(self, server: viser.ViserServer, stage: Stage) -> None:
        self._server, self._stage = server, stage
        self._opacity, self._visible = 1.0, True
        self._world = Similarity()
        self._later = Later(self._add)
        self.handle: Any = None

    def _add(self) -> None:
        raise AssertionError("every layer makes its own node")

    @property
    def visible(self) -> bool:
        """Whether the layer is seen."""
        return self._visible

    @visible.setter
    def visible(self, visible: bool) -> None:
        self._visible = self.handle.visible = visible

    def set_world(self, new_from_opened: Similarity) -> None:
        """Moves the layer from where it was opened."""
        self._world = new_from_opened
        move_node(self.handle, new_from_opened, self._stage)

    def close(self) -> None:
        """Drops what is still to be sent."""
        self._later.close()


class PointLayer(NodeLayer):
    """The sparse points.  Opacity is a share of them that is shown: the browser draws points solid or not at all."""

    def __init__(
        self,
        server: viser.ViserServer,
        stage: Stage,
        points: SparsePoints,
        progress: Progress = SILENT,
        limit: int = MOST_POINTS,
    ) -> None:
        super().__init__(server, stage)
        count = min(len(points), limit)
        if count < len(points):
            progress.log(f"The browser gets {count:,} of {len(points):,} sparse points.")
        # In random order each first part of them is an even sample of the whole.
        chosen = np.random.default_rng(0).permutation(len(points))[:count]
        self._positions = (points.positions[chosen] * stage.scale).astype(np.float32)
        self._colors = points.colors[chosen]
        self._size = 1.0
        self._add()

    def _add(self) -> None:
        count = max(1, round(self._opacity * len(self._positions)))
        self.handle = self._server.scene.add_point_cloud(
            "/points",
            self._positions[:count],
            self._colors[:count],
            point_size=self._size * POINT_SIZE * self._stage.extent * self._stage.scale,
            precision="float32",
            point_shape="circle",
            point_shading="flat",
            visible=self._visible,
        )
        move_node(self.handle, self._world, self._stage)

    @property
    def opacity(self) -> float:
        """The share of the points that is seen, 0..1."""
        return self._opacity

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._opacity = opacity
        self._later.ask()

    @property
    def size(self) -> float:
        """Of the points, relative to the usual size."""
        return self._size

    @size.setter
    def size(self, size: float) -> None:
        self._size = size
        self.handle.point_size = size * POINT_SIZE * self._stage.extent * self._stage.scale


class CameraLayer:
    """The frusta of a scene's cameras; a click on one flies there, thumbnails arrive in the background.

    Those that are so near to the eye that they would fill the window are hidden.  (The scene is one for all browsers,
    so the one that moved last decides.)
    """

    def __init__(self, server: viser.ViserServer, stage: Stage, scene: Scene, progress: Progress = SILENT) -> None:
        self._stage, self._scene = stage, scene
        self._visible, self._opacity = True, 1.0
        self.on_click: Callable[[Any, int], None] = lambda client, index: None
        self._thumbnails: dict[int, npt.NDArray[np.uint8]] = {}
        self._later = Later(self._fade)
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
        self._thread = threading.Thread(target=self._load_thumbnails, args=(chosen.tolist(),), daemon=True)
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
            self.on_click(event.client, index)

        return handle

    def _load_thumbnails(self, chosen: list[int]) -> None:
        for index in chosen:
            if self._stop.is_set():
                return
            picture = thumbnail(self._scene.frames[index])
            if picture is not None and not self._stop.is_set():
                self._thumbnails[index] = picture
                self.handles[index].image = faded(picture, self._opacity)

    @property
    def opacity(self) -> float:
        """How much of the frusta is left of their fading into the background, 0..1."""
        return self._opacity

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._opacity = opacity
        self._later.ask()

    def _fade(self) -> None:
        red, green, blue = faded(np.array(CAMERA_COLOR, np.uint8), self._opacity).tolist()
        for index, handle in enumerate(self.handles):
            handle.color = (red, green, blue)
            if index in self._thumbnails:
                handle.image = faded(self._thumbnails[index], self._opacity)

    def _watch(self, client: Any) -> None:
        @client.camera.on_update
        async def _(view: Any) -> None:
            self._hide_near(np.asarray(view.position))

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

    @visible.setter
    def visible(self, visible: bool) -> None:
        self._visible = visible
        for index, handle in enumerate(self.handles):
            handle.visible = visible and index not in self._near

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

    def close(self) -> None:
        """Stops loading thumbnails."""
        self._later.close()
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


def faded(picture: npt.NDArray[np.uint8], opacity: float) -> npt.NDArray[np.uint8]:
    """Returns colours [..., 3] mixed with the background's."""
    return (opacity * picture + (1 - opacity) * np.array(CANVAS_COLOR)).round().astype(np.uint8)


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


def fly_to(
    client: Any, stage: Stage, camera: Camera, seconds: float = 0.6, goes_on: Callable[[], bool] = lambda: True
) -> None:
    """Moves a browser's camera to a photograph's pose in a short flight; its window shows all of the photograph.

    Args:
        client: the browser.
        stage: its units.
        camera: the photograph's.
        seconds: how long it takes.
        goes_on: asked on the way; False ends the flight, as when the next one begins.
    """
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
        if not goes_on():
            return
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
