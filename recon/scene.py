# SPDX-License-Identifier: Apache-2.0
"""A scene: posed photographs of one place and the sparse points that posed them.

The world is right-handed with +Z up.  Importers bring other conventions here and exporters take them away; nothing
in between knows any other.  `recon.scene_io` reads and writes scene folders, `recon.views` turns frames into the
undistorted pictures that methods train on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Similarity:
    """x ↦ scale · rotation · x + translation."""

    scale: float = 1.0
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))
    translation: FloatArray = field(default_factory=lambda: np.zeros(3))

    def apply(self, points: FloatArray) -> FloatArray:
        """Transforms points [..., 3]."""
        return self.scale * np.asarray(points) @ np.asarray(self.rotation).T + self.translation

    def inverse(self) -> Similarity:
        """Returns the transform back."""
        rotation = np.asarray(self.rotation).T
        return Similarity(1.0 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def compose(self, first: Similarity) -> Similarity:
        """Returns the transform that applies `first` and then this one."""
        return Similarity(
            self.scale * first.scale,
            np.asarray(self.rotation) @ first.rotation,
            self.apply(np.asarray(first.translation)),
        )

    def apply_to_pose(self, cam_from_old: FloatArray) -> FloatArray:
        """Returns the 4×4 cam_from_new of a camera given by cam_from_old, when this maps old to new.

        Depths seen by the camera are multiplied by `scale`.
        """
        rotation = cam_from_old[:3, :3] @ np.asarray(self.rotation).T
        pose = np.eye(4)
        pose[:3, :3] = rotation
        pose[:3, 3] = self.scale * cam_from_old[:3, 3] - rotation @ self.translation
        return pose


@dataclass(frozen=True, eq=False)
class WorldFrame:
    """What the numbers of a scene mean.

    Attributes:
        world_from_source: how the poses as first recovered or imported became this scene's (+Z up) world.
        source: where they came from ("sfm", "colmap", "transforms.json", "synthetic").
        up_is_known: False where up was only guessed from the photos' own orientation.
        meters_per_unit: metric scale; None when unknown.
        origin: float64 position of the world's origin in the CRS; None unless georeferenced.
        crs: the coordinate reference system ("EPSG:4978"); None unless georeferenced.
    """

    world_from_source: Similarity = field(default_factory=Similarity)
    source: str = "sfm"
    up_is_known: bool = False
    meters_per_unit: float | None = None
    origin: tuple[float, float, float] | None = None
    crs: str | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One posed photograph.

    Attributes:
        name: unique path relative to the scene's `images/` folder, with forward slashes.
        image_path: the photograph, upright (EXIF orientation already applied).
        camera: its pose and its lens, at the photograph's own size.
        camera_id: frames with the same number share one physical camera and lens.
        mask_path: 8-bit picture of the same size, 0 where pixels are to be ignored; None means all count.
        depth_path: float32 depth along z in world units, 0 where unknown (a .npy file, H×W); None if there is none.
        exposure_log2: known exposure relative to the scene's mean, in stops; None if unknown.
        time_s: capture time in seconds since the first frame; None if unknown.
    """

    name: str
    image_path: Path
    camera: Camera
    camera_id: int = 0
    mask_path: Path | None = None
    depth_path: Path | None = None
    exposure_log2: float | None = None
    time_s: float | None = None


@dataclass(frozen=True, eq=False)
class SparsePoints:
    """Triangulated points.

    Attributes:
        positions: [N, 3] float64, world.
        colors: [N, 3] uint8.
        errors_px: [N] float32, mean reprojection error.
        track_lengths: [N] int32, number of photographs that see each.
    """

    positions: FloatArray
    colors: npt.NDArray[np.uint8]
    errors_px: npt.NDArray[np.float32]
    track_lengths: npt.NDArray[np.int32]

    @staticmethod
    def empty() -> SparsePoints:
        """Returns no points."""
        return SparsePoints(
            np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32), np.zeros(0, np.int32)
        )

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class Scene:
    """Posed frames, sparse points and the world they live in; `root` is the scene folder where it has one."""

    frames: tuple[Frame, ...]
    points: SparsePoints = field(default_factory=SparsePoints.empty)
    world: WorldFrame = field(default_factory=WorldFrame)
    root: Path | None = None

    @property
    def camera_centers(self) -> FloatArray:
        """Optical centres in the world, [F, 3]."""
        return np.array([frame.camera.center_in_world for frame in self.frames]).reshape(-1, 3)

    @property
    def extent(self) -> float:
        """1.1 times the largest distance of a camera from the cameras' mean: the length unit of step sizes (3DGS)."""
        centers = self.camera_centers
        if len(centers) < 2:
            return 1.0
        return max(1.1 * float(np.linalg.norm(centers - centers.mean(0), axis=1).max()), 1e-6)


@dataclass(frozen=True, eq=False)
class View:
    """A frame ready for training or scoring: undistorted, at working resolution, in memory.

    Attributes:
        name: the frame's name.
        index: the frame's place in the scene, for per-image parameters.
        camera: PINHOLE, at the picture's size; the principal point may be off-centre.
        image: [H, W, 3] uint8, sRGB as in the photograph.
        mask: [H, W] uint8, 255 where the pixel counts, 0 where it is masked or was outside the photograph before
            undistortion; None means all count.
    """

    name: str
    index: int
    camera: Camera
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8] | None = None


def held_out_names(names: list[str], every: int = 8) -> list[str]:
    """Returns the names that are never trained on: each `every`-th, from the first, of the names in sorted order.

    This is the protocol of Mip-NeRF 360 and 3DGS (index % 8 == 0).  With fewer than `every` names the first is held
    out; 0 holds none out.
    """
    return sorted(names)[::every] if every > 0 else []
