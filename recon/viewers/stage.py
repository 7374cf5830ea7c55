# SPDX-License-Identifier: Apache-2.0
"""Where the viewer stands: the part of the world that matters, and how it maps to the browser's units.

viser clips at fixed distances (0.01 and 1000), sends the exact picture's depth with 167 units at most, and its controls
are made for scenes of a few units.  So the world is scaled until its extent is about ten units; nothing is moved or
turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.film.paths import scene_focus
from recon.scene import Similarity
from recon.viewers.content import Content

FloatArray = npt.NDArray[np.float64]

WANTED_EXTENT = 10.0


@dataclass(frozen=True, eq=False)
class Stage:
    """The viewer's units and first view.

    Attributes:
        scale: browser units per world unit.
        focus: what is looked at first and orbited, world, [3].
        eye: where the first view stands, world, [3].
        fov_rad: its vertical field of view.
        extent: radius of what matters about the focus, world units.
    """

    scale: float
    focus: FloatArray
    eye: FloatArray
    fov_rad: float
    extent: float

    def camera(self, wxyz: FloatArray, position: FloatArray, fov_rad: float, width: int, height: int) -> Camera:
        """Returns the world's camera for a browser's camera: world_from_cam rotation, position in browser units."""
        from scipy.spatial.transform import Rotation

        w, x, y, z = np.asarray(wxyz, dtype=np.float64)
        rotation = Rotation.from_quat([x, y, z, w]).as_matrix().T
        pose = np.eye(4)
        pose[:3, :3] = rotation
        pose[:3, 3] = -rotation @ (np.asarray(position, dtype=np.float64) / self.scale)
        focal = 0.5 * height / math.tan(fov_rad / 2)
        return Camera(width, height, focal, focal, width / 2, height / 2, cam_from_world=pose)

    def moved(self, new_from_old: Similarity, zoom: float = 1.0) -> Stage:
        """Returns the stage of a scene that was moved, with `zoom` times as many browser units per world unit."""
        return Stage(
            self.scale * zoom,
            new_from_old.apply(self.focus),
            new_from_old.apply(self.eye),
            self.fov_rad,
            self.extent * new_from_old.scale,
        )


def find_stage(content: Content) -> Stage:
    """Returns the stage of what is shown: by its cameras where it has some, else by where its parts lie."""
    cameras = [frame.camera for frame in content.scene.frames] if content.scene else []
    return find_stage_of(cameras, np.zeros((0, 3)) if cameras else _positions(content))


def find_stage_of(cameras: Sequence[Camera], positions: FloatArray) -> Stage:
    """Returns the stage of cameras or, where there are none, of positions [N, 3]."""
    if cameras:
        focus = scene_focus(cameras)
        centers = np.array([camera.center_in_world for camera in cameras])
        extent = max(float(np.percentile(np.linalg.norm(centers - focus, axis=1), 90)), 1e-6)
        first = cameras[clearest_camera(cameras, focus)]
        fov_rad = 2 * math.atan(0.5 * first.height / first.fy)
        eye = first.center_in_world
    else:
        focus, extent = _middle_of(positions)
        fov_rad = math.radians(50)
        eye = focus + extent * np.array([1.6, -1.6, 0.9])
    if np.linalg.norm(eye - focus) < 1e-9:
        eye = focus + extent * np.array([1.0, 0.0, 0.3])
    # A power of two, and one for scenes of usual size, so that the numbers in the browser stay the world's.
    scale = 1.0 if 0.5 <= extent <= 40 else float(2.0 ** np.round(np.log2(WANTED_EXTENT / extent)))
    return Stage(scale, focus, eye, float(np.clip(fov_rad, math.radians(35), math.radians(80))), extent)


def clearest_camera(cameras: Sequence[Camera], focus: FloatArray) -> int:
    """Returns the camera from which the others are least in the way, from about the usual side and distance.

    What another one covers goes with the square of its nearness; only what lies within 35° of the view counts.
    """
    centers = np.array([camera.center_in_world for camera in cameras])
    distances = np.linalg.norm(centers - focus, axis=1)
    usual = max(float(np.median(distances)), 1e-9)
    # Where photographs were taken from all sides this mean is short, and no side is the usual one.
    usual_side = ((centers - focus) / np.maximum(distances, 1e-9)[:, None]).mean(0)
    costs = []
    for index, center in enumerate(centers):
        ahead = (focus - center) / max(distances[index], 1e-9)
        offsets = np.delete(centers, index, axis=0) - center
        away = np.maximum(np.linalg.norm(offsets, axis=1), 1e-3 * usual)
        inside = (offsets @ ahead) / away > math.cos(math.radians(35))
        looks_elsewhere = 1 - float(cameras[index].forward_in_world @ ahead)
        unusual = abs(math.log(max(distances[index], 1e-9) / usual))
        covered = 0.04 * float(((usual / away[inside]) ** 2).sum())
        other_side = 2 * float(np.linalg.norm(usual_side) + usual_side @ ahead)
        costs.append(covered + unusual + looks_elsewhere + other_side)
    return int(np.argmin(costs))


def _positions(content: Content) -> FloatArray:
    """Returns where the parts of the content lie, [N, 3]."""
    if content.splats is not None and len(content.splats):
        solid = content.splats.opacities > 0.1
        chosen = content.splats.means[solid] if bool(solid.any()) else content.splats.means
        return np.asarray(chosen.detach().cpu().double().numpy())
    if content.mesh is not None:
        return np.asarray(content.mesh.vertices, dtype=np.float64)
    return content.scene.points.positions if content.scene is not None else np.zeros((0, 3))


def _middle_of(positions: FloatArray) -> tuple[FloatArray, float]:
    """Returns the middle of positions [N, 3] and the radius of the inner 90% of them."""
    if not len(positions):
        return np.zeros(3), 1.0
    middle = np.median(positions, axis=0)
    radius = float(np.percentile(np.linalg.norm(positions - middle, axis=1), 90))
    return middle, max(radius, 1e-6)
