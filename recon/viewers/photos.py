# SPDX-License-Identifier: Apache-2.0
"""Photographs beside the picture that was rendered: laid over it, and compared with it through the rendered depth."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.render import Renderer, RenderOptions
from recon.scene import Scene, Similarity, View

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatImage = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

PHOTO_PX = 1280
"""Longest side of the photographs that are laid over pictures."""

DEPTH_PX = 640
"""Longest side of the depth that says what a photograph can see."""

MOST_PHOTOS = 6
"""So many photographs are kept in memory."""

OCCLUSION_TOLERANCE = 0.03
"""What lies so much behind the depth that the photograph sees, in parts of it, is hidden from it."""


@dataclass(frozen=True, eq=False)
class Reprojection:
    """A photograph as seen from another camera.

    Attributes:
        colors: [H, W, 3] float32 in 0..1; of no meaning where it is not seen.
        seen: [H, W] bool, where the photograph sees the surface and counts.
    """

    colors: FloatImage
    seen: npt.NDArray[np.bool_]


class Photos:
    """The undistorted photographs of a scene, loaded when they are asked for."""

    def __init__(self, scene: Scene) -> None:
        # Without a root nothing is written into the scene's cache: looking changes no files.
        self._scene = replace(scene, root=None)
        self._lock = Lock()
        self._views: OrderedDict[int, View | None] = OrderedDict()
        self._depths: OrderedDict[int, tuple[Renderer, Camera, FloatImage | None]] = OrderedDict()
        self.cameras: Sequence[Camera] = [frame.camera for frame in scene.frames]
        self.names = [frame.name for frame in scene.frames]

    def __len__(self) -> int:
        return len(self.cameras)

    def set_world(self, new_from_opened: Similarity) -> None:
        """Moves the photographs' cameras from where they were opened."""
        frames = self._scene.frames
        poses = [new_from_opened.apply_to_pose(frame.camera.cam_from_world) for frame in frames]
        with self._lock:
            self.cameras = [frame.camera.with_pose(pose) for frame, pose in zip(frames, poses)]
            self._depths.clear()

    def view(self, index: int) -> View | None:
        """Returns photograph `index` undistorted, in its present pose; None where it cannot be read."""
        from recon.views import load_views

        with self._lock:
            if index not in self._views:
                try:
                    self._views[index] = load_views(self._scene, PHOTO_PX, names=[self.names[index]])[0]
                except ReconError:
                    self._views[index] = None
                if len(self._views) > MOST_PHOTOS:
                    self._views.popitem(last=False)
            self._views.move_to_end(index)
            view = self._views[index]
            return None if view is None else replace(view, camera=view.camera.with_pose(self._pose(index)))

    def nearest(self, camera: Camera, scale: float) -> int:
        """Returns the photograph that was taken most nearly from a camera's place and in its direction.

        Args:
            camera: where one stands.
            scale: the distance that is as bad as looking the opposite way, in world units.
        """
        centers = np.array([other.center_in_world for other in self.cameras])
        directions = np.array([other.forward_in_world for other in self.cameras])
        away = np.linalg.norm(centers - camera.center_in_world, axis=1) / max(scale, 1e-9)
        return int(np.argmin(away + 0.5 * (1 - directions @ camera.forward_in_world)))

    def laid_over(self, index: int, camera: Camera, tolerance: float) -> Reprojection | None:
        """Returns photograph `index` as a camera at the same place sees it; None from anywhere else.

        From one place, pictures in any two directions differ by a homography, whatever the scene.

        Args:
            index: the photograph.
            camera: a PINHOLE camera.
            tolerance: how far apart the two may stand, in world units.
        """
        import cv2

        if np.linalg.norm(self.cameras[index].center_in_world - camera.center_in_world) > tolerance:
            return None
        view = self.view(index)
        if view is None:
            return None
        turn = view.camera.cam_from_world[:3, :3] @ camera.cam_from_world[:3, :3].T
        # Our pixel centres lie at +0.5, those of OpenCV at 0.
        half = np.array([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        photo_from_picture = (
            np.linalg.inv(half) @ view.camera.intrinsic_matrix @ turn @ np.linalg.inv(camera.intrinsic_matrix) @ half
        )
        if turn[2, 2] <= 0:
            return None
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (camera.width, camera.height)
        colors = cv2.warpPerspective(view.image, photo_from_picture, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        counts = np.full(view.image.shape[:2], 255, np.uint8)
        seen = cv2.warpPerspective(counts, photo_from_picture, size, flags=flags) > 127
        return Reprojection(np.divide(colors, 255, dtype=np.float32), seen)

    def reprojected(
        self, index: int, camera: Camera, depth: FloatImage, solid: npt.NDArray[np.bool_], renderer: Renderer
    ) -> Reprojection | None:
        """Returns photograph `index` moved into another view over the surface that was rendered there.

        Args:
            index: the photograph.
            camera: the view, a PINHOLE camera.
            depth: [H, W] of the surface along z.
            solid: [H, W], where there is any.
            renderer: tells what the photograph sees, so that nothing is painted onto what is hidden from it.
        """
        import cv2

        view = self.view(index)
        if view is None:
            return None
        other = view.camera
        photo_from_view = other.cam_from_world @ np.linalg.inv(camera.cam_from_world)
        x = ((np.arange(camera.width) + 0.5 - camera.cx) / camera.fx).astype(np.float32)[None, :]
        y = ((np.arange(camera.height) + 0.5 - camera.cy) / camera.fy).astype(np.float32)[:, None]
        rows = photo_from_view[:3].astype(np.float32)
        px, py, pz = ((row[0] * x + row[1] * y + row[2]) * depth + row[3] for row in rows)
        ahead = solid & (pz > 1e-6)
        pz = np.where(ahead, pz, 1.0)
        u = np.where(ahead, other.fx * px / pz + other.cx, -1e4).astype(np.float32)
        v = np.where(ahead, other.fy * py / pz + other.cy, -1e4).astype(np.float32)
        colors = cv2.remap(view.image, u - 0.5, v - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen = ahead & (u >= 0.5) & (v >= 0.5) & (u <= other.width - 0.5) & (v <= other.height - 0.5)
        if view.mask is not None:
            seen &= cv2.remap(view.mask, u - 0.5, v - 0.5, cv2.INTER_NEAREST) > 127
        nearest = self._depth_of(index, other, renderer)
        if nearest is not None:
            scale = np.float32(nearest.shape[1] / other.width)
            limit = cv2.remap(nearest, u * scale - 0.5, v * scale - 0.5, cv2.INTER_NEAREST)
            seen &= (limit <= 0) | (pz <= limit * (1 + OCCLUSION_TOLERANCE))
        return Reprojection(np.divide(colors, 255, dtype=np.float32), seen)

    def _pose(self, index: int) -> npt.NDArray[np.float64]:
        return self.cameras[index].cam_from_world

    def _depth_of(self, index: int, camera: Camera, renderer: Renderer) -> FloatImage | None:
        """Returns the depth of a photograph's view; kept until what is rendered changes."""
        kept = self._depths.get(index)
        if kept is not None and kept[0] is renderer and np.array_equal(kept[1].cam_from_world, camera.cam_from_world):
            return kept[2]
        output = renderer.render(camera.fitted(DEPTH_PX), RenderOptions(depth=True))
        chosen = output.depth if output.depth is not None else output.median_depth
        depth = None if chosen is None else chosen.float().cpu().numpy()
        with self._lock:
            self._depths[index] = (renderer, camera, depth)
            if len(self._depths) > MOST_PHOTOS:
                self._depths.popitem(last=False)
        return depth
