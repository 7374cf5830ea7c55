# SPDX-License-Identifier: Apache-2.0
"""Cameras: where one stands, how it looks, and how a point lands on its picture.

Notation: a point `p` in the camera's frame has x to the right, y down and z forward (OpenCV axes).  For the
perspective models the normalised coordinates are (u, v) = (x/z, y/z), `distort` moves them to (u', v'), and the
pixel is (fx u' + cx, fy v' + cy), with the centre of the top left pixel at (0.5, 0.5).  Distortion polynomials
are those of OpenCV and COLMAP (https://docs.opencv.org calib3d; COLMAP src/colmap/sensor/models.h):

- OPENCV: k1 k2 p1 p2; with r² = u²+v², u' = u(1 + k1 r² + k2 r⁴) + 2 p1 uv + p2 (r² + 2u²), v' alike.
- FULL_OPENCV: k1 k2 p1 p2 k3 k4 k5 k6; radial factor (1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶).
- OPENCV_FISHEYE: k1..k4; θ = atan2(hypot(x, y), z), θ' = θ(1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸).
- EQUIRECTANGULAR: no parameters; the picture spans 360° by 180°.

COLMAP's simpler models are special cases and become these on import.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError

FloatArray = npt.NDArray[np.float64]


class CameraModel(str, Enum):
    """How directions become pixels."""

    PINHOLE = "PINHOLE"
    OPENCV = "OPENCV"
    FULL_OPENCV = "FULL_OPENCV"
    OPENCV_FISHEYE = "OPENCV_FISHEYE"
    EQUIRECTANGULAR = "EQUIRECTANGULAR"


DISTORTION_COUNT = {
    CameraModel.PINHOLE: 0,
    CameraModel.OPENCV: 4,
    CameraModel.FULL_OPENCV: 8,
    CameraModel.OPENCV_FISHEYE: 4,
    CameraModel.EQUIRECTANGULAR: 0,
}


def _identity() -> FloatArray:
    return np.eye(4)


@dataclass(frozen=True, eq=False)
class Camera:
    """One posed camera.

    Attributes:
        width, height: size of the picture in pixels.
        fx, fy, cx, cy: focal lengths and principal point in pixels.
        model: the projection.
        distortion: the model's coefficients, as many as `DISTORTION_COUNT` says.
        cam_from_world: 4×4 rigid transform, float64.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: CameraModel = CameraModel.PINHOLE
    distortion: tuple[float, ...] = ()
    cam_from_world: FloatArray = field(default_factory=_identity)

    def __post_init__(self) -> None:
        doing = "making a camera"
        object.__setattr__(self, "model", CameraModel(self.model))
        object.__setattr__(self, "distortion", tuple(float(k) for k in self.distortion))
        pose = np.array(self.cam_from_world, dtype=np.float64)
        pose.setflags(write=False)
        object.__setattr__(self, "cam_from_world", pose)
        if self.width < 1 or self.height < 1:
            raise ReconError(doing, f"its size is {self.width}×{self.height}", "at least 1×1 pixels")
        numbers = np.array([self.fx, self.fy, self.cx, self.cy, *self.distortion])
        if not np.isfinite(numbers).all() or self.fx <= 0 or self.fy <= 0:
            raise ReconError(doing, f"its intrinsics are {numbers.tolist()}", "finite numbers and positive focals")
        if len(self.distortion) != DISTORTION_COUNT[self.model]:
            raise ReconError(
                doing,
                f"{self.model.value} has {len(self.distortion)} distortion coefficients",
                f"{DISTORTION_COUNT[self.model]}",
            )
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise ReconError(doing, f"cam_from_world is {pose.tolist()}", "a finite 4×4 matrix")
        if np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() > 1e-4 or np.linalg.det(pose[:3, :3]) < 0:
            raise ReconError(doing, f"cam_from_world is {pose.tolist()}", "a rotation (orthonormal, no mirror)")

    @property
    def intrinsic_matrix(self) -> FloatArray:
        """The 3×3 matrix K."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def world_from_cam(self) -> FloatArray:
        """The inverse of `cam_from_world`, 4×4."""
        rotation = self.cam_from_world[:3, :3]
        inverse = np.eye(4)
        inverse[:3, :3] = rotation.T
        inverse[:3, 3] = -rotation.T @ self.cam_from_world[:3, 3]
        return inverse

    @property
    def center_in_world(self) -> FloatArray:
        """The optical centre, [3]."""
        return self.world_from_cam[:3, 3]

    @property
    def forward_in_world(self) -> FloatArray:
        """Unit vector along the optical axis, [3]."""
        return self.cam_from_world[2, :3].copy()

    @property
    def is_pinhole(self) -> bool:
        """Whether the camera has no distortion at all (its principal point may be anywhere)."""
        return self.model is CameraModel.PINHOLE

    def with_pose(self, cam_from_world: FloatArray) -> Camera:
        """Returns the same camera elsewhere."""
        return replace(self, cam_from_world=cam_from_world)

    def resized(self, width: int, height: int) -> Camera:
        """Returns the camera whose picture is this one's, scaled to `width` × `height`."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
        )

    def fitted(self, long_side: int) -> Camera:
        """Returns the camera scaled so that its longer side is at most `long_side` pixels; never enlarged."""
        scale = long_side / max(self.width, self.height)
        if scale >= 1.0:
            return self
        return self.resized(max(1, round(self.width * scale)), max(1, round(self.height * scale)))

    def project(self, points_in_world: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Projects points [..., 3] in the world to pixels [..., 2] and depths along z [...].

        Points at or behind the plane z = 0 get NaN pixels (for EQUIRECTANGULAR no point is behind, and the depth
        is the distance).
        """
        pose = self.cam_from_world
        points = np.asarray(points_in_world, dtype=np.float64) @ pose[:3, :3].T + pose[:3, 3]
        return self.project_from_cam(points)

    def project_from_cam(self, points_in_cam: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As `project`, for points [..., 3] in the camera's frame."""
        x, y, z = np.moveaxis(np.asarray(points_in_cam, dtype=np.float64), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.model is CameraModel.EQUIRECTANGULAR:
                distance = np.sqrt(x * x + y * y + z * z)
                px = (np.arctan2(x, z) / (2 * np.pi) + 0.5) * self.width
                py = (np.arcsin(np.clip(y / distance, -1, 1)) / np.pi + 0.5) * self.height
                return np.stack([px, py], -1), distance
            if self.model is CameraModel.OPENCV_FISHEYE:
                radius = np.hypot(x, y)
                theta = np.arctan2(radius, z)
                scale = np.where(radius > 0, _fisheye_radius(theta, self.distortion) / radius, 1.0 / z)
                u, v = x * scale, y * scale
            else:
                u, v = distort(self.model, self.distortion, x / z, y / z)
            pixels = np.stack([self.fx * u + self.cx, self.fy * v + self.cy], -1)
        return np.where((z > 0)[..., None], pixels, np.nan), z

    def ray_directions_in_cam(self, pixels: FloatArray) -> FloatArray:
        """Returns directions [..., 3] in the camera's frame for pixel positions [..., 2].

        Perspective directions have z = 1, so that depth times direction is the point; fisheye and equirectangular
        ones have unit length.
        """
        px, py = np.moveaxis(np.asarray(pixels, dtype=np.float64), -1, 0)
        if self.model is CameraModel.EQUIRECTANGULAR:
            longitude = (px / self.width - 0.5) * 2 * np.pi
            latitude = (py / self.height - 0.5) * np.pi
            cos = np.cos(latitude)
            return np.stack([np.sin(longitude) * cos, np.sin(latitude), np.cos(longitude) * cos], -1)
        u, v = (px - self.cx) / self.fx, (py - self.cy) / self.fy
        if self.model is CameraModel.OPENCV_FISHEYE:
            radius = np.hypot(u, v)
            theta = _fisheye_angle(radius, self.distortion)
            sin = np.where(radius > 0, np.sin(theta) / np.maximum(radius, 1e-12), 1.0)
            return np.stack([u * sin, v * sin, np.cos(theta)], -1)
        u, v = undistort(self.model, self.distortion, u, v)
        return np.stack([u, v, np.ones_like(u)], -1)

    def pixel_grid(self) -> FloatArray:
        """Returns the pixel centres, [H, W, 2]."""
        x, y = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return np.stack([x, y], -1)


def distort(
    model: CameraModel, distortion: tuple[float, ...], u: FloatArray, v: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Applies a perspective model's lens to normalised coordinates (any shape)."""
    if model is CameraModel.PINHOLE:
        return u, v
    k1, k2, p1, p2, *rational = distortion
    r2 = u * u + v * v
    radial = 1 + r2 * (k1 + r2 * k2)
    if rational:
        k3, k4, k5, k6 = rational
        radial = (radial + k3 * r2**3) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    du = 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
    dv = 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
    return u * radial + du, v * radial + dv


def undistort(
    model: CameraModel, distortion: tuple[float, ...], u: FloatArray, v: FloatArray, iterations: int = 30
) -> tuple[FloatArray, FloatArray]:
    """Inverts `distort` by Newton steps with a numeric Jacobian; exact to about 1e-12 inside the lens's valid field."""
    if model is CameraModel.PINHOLE or not any(distortion):
        return u, v
    a, b = np.array(u, dtype=np.float64), np.array(v, dtype=np.float64)
    step = 1e-6
    for _ in range(iterations):
        fu, fv = distort(model, distortion, a, b)
        ru, rv = fu - u, fv - v
        if max(np.abs(ru).max(initial=0.0), np.abs(rv).max(initial=0.0)) < 1e-13:
            break
        au, av = distort(model, distortion, a + step, b)
        bu, bv = distort(model, distortion, a, b + step)
        j11, j21, j12, j22 = (au - fu) / step, (av - fv) / step, (bu - fu) / step, (bv - fv) / step
        determinant = j11 * j22 - j12 * j21
        determinant = np.where(np.abs(determinant) < 1e-6, 1.0, determinant)
        # A step longer than 0.2 would leave the region where the polynomial is monotonic.
        a = a - np.clip((j22 * ru - j12 * rv) / determinant, -0.2, 0.2)
        b = b - np.clip((j11 * rv - j21 * ru) / determinant, -0.2, 0.2)
    return a, b


def _fisheye_radius(theta: FloatArray, distortion: tuple[float, ...]) -> FloatArray:
    k1, k2, k3, k4 = distortion
    t2 = theta * theta
    return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def _fisheye_angle(radius: FloatArray, distortion: tuple[float, ...]) -> FloatArray:
    """Inverts `_fisheye_radius` by Newton's method."""
    k1, k2, k3, k4 = distortion
    theta = np.minimum(np.array(radius, dtype=np.float64), np.pi)
    for _ in range(20):
        t2 = theta * theta
        slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
        residual = _fisheye_radius(theta, distortion) - radius
        theta = np.clip(theta - residual / np.where(np.abs(slope) < 1e-6, 1.0, slope), 0, np.pi)
    return theta


def look_at(eye: FloatArray, target: FloatArray, up: FloatArray) -> FloatArray:
    """Returns the 4×4 cam_from_world of a camera at `eye` that looks at `target`, with `up` upwards in the picture."""
    eye, target, up = (np.asarray(a, dtype=np.float64) for a in (eye, target, up))
    forward = target - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-9:
        right = np.cross(forward, [1.0, 0.0, 0.0] if abs(forward[0]) < 0.9 else [0.0, 1.0, 0.0])
    right = right / np.linalg.norm(right)
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, down, forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose
