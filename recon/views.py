# SPDX-License-Identifier: Apache-2.0
"""Frames made ready for training and scoring: undistorted once, downscaled once, cached.

Everything after this module knows pinhole cameras only.  Each photograph is resampled onto the largest upright
rectangle of directions that its lens covers completely, at the photograph's own resolution, and then averaged
down to the working size (area), so that pixels are neither interpolated twice nor aliased.  Where the working size is a
quarter of the photograph's or less, squares of pixels are averaged first, the lens is taken out at twice the working
size, and squares are averaged again: the same pictures to the eye at a quarter of the time.  Frames that share a lens
share the new camera, and the principal point stays where the lens puts it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera, CameraModel
from recon.capture.pictures import picture_size, read_mask, read_picture
from recon.errors import ReconError
from recon.files import file_fingerprint, fingerprint, read_arrays, remove_leftovers, write_arrays
from recon.progress import SILENT, Progress
from recon.scene import Frame, Scene, View

CACHE_VERSION = 3
WIDEST_HALF_ANGLE_RAD = np.radians(60.0)
"""A fisheye is cut to this field of view on each side of the axis; beyond, a plane stretches pixels over four times."""

BORDER_SAMPLES = 65
RAY_SAMPLES = 64
COUNTED_SHARE = 250
"""A working pixel counts if at least 250/255 of its area does: a pixel that mixes in a masked object is no good."""

_OVERSAMPLING = 2
_LARGEST_REDUCTION = 8


@dataclass(frozen=True, eq=False)
class Undistortion:
    """How pictures of one lens become pinhole pictures.

    Attributes:
        full: the pinhole camera at the photograph's own resolution, in the photograph's pose.
        map_x, map_y: [H, W] float32, where each of its pixels lies in the photograph, with OpenCV's convention (the
            centre of the top left pixel is 0); None where the photograph is used as it is.
        inside: [H, W] uint8, 255 where that place lies inside the photograph; None where all do.
    """

    full: Camera
    map_x: npt.NDArray[np.float32] | None = None
    map_y: npt.NDArray[np.float32] | None = None
    inside: npt.NDArray[np.uint8] | None = None


def load_views(
    scene: Scene,
    long_side: int | None,
    progress: Progress = SILENT,
    names: Iterable[str] | None = None,
) -> list[View]:
    """Returns the scene's frames as undistorted pictures in memory, in the scene's order.

    Args:
        scene: the scene; with a `root`, finished pictures are kept in its `cache` folder.
        long_side: longer side of the result in pixels; None keeps the photographs' resolution.  Never enlarges.
        progress: told about each picture.
        names: frames to load; None takes all.

    Raises:
        ReconError: a photograph or mask is missing, damaged or of another shape than its camera; an unknown name.
    """
    frames = list(enumerate(scene.frames))
    if names is not None:
        wanted = set(names)
        unknown = wanted - {frame.name for frame in scene.frames}
        if unknown:
            raise ReconError("loading views", f"no frame is named {sorted(unknown)[0]}", "names of the scene's frames")
        frames = [(index, frame) for index, frame in frames if frame.name in wanted]
    if long_side is not None and long_side < 1:
        raise ReconError("loading views", f"the long side is {long_side}", "at least 1 pixel")
    cache = None if scene.root is None else scene.root / "cache" / f"views-{long_side or 'full'}"
    if cache is not None:
        remove_leftovers(cache)
    lenses = _Lenses()

    def make(item: tuple[int, Frame]) -> View:
        return _view(*item, lenses, long_side, cache)

    views = []
    with progress.stage("Undistorting photos", len(frames), "photos") as stage, ThreadPoolExecutor(2) as pool:
        for view in pool.map(make, frames):
            views.append(view)
            stage.advance()
    return views


def undistorted_camera(camera: Camera) -> Camera:
    """Returns the pinhole camera that `load_views` gives a frame at full resolution, in the same pose.

    It keeps the focal lengths, and its picture is the largest upright rectangle of directions inside of the
    photograph (and inside of 120° by 120°).

    Raises:
        ReconError: a camera that sees all around, or a lens that covers nothing.
    """
    if camera.is_pinhole:
        return camera
    doing = f"undistorting a picture of a {camera.model.value} camera"
    if camera.model is CameraModel.EQUIRECTANGULAR:
        raise ReconError(
            doing,
            "a panorama fits on no plane",
            "pictures of perspective or fisheye cameras",
            "cut each panorama into perspective pictures first",
        )
    left, top, right, bottom = _valid_rectangle(camera)
    width, height = round((right - left) * camera.fx), round((bottom - top) * camera.fy)
    if width < 2 or height < 2 or width > 4 * camera.width or height > 4 * camera.height:
        raise ReconError(
            doing,
            f"its lens {[round(k, 4) for k in camera.distortion]} leaves a picture of {width}×{height} pixels",
            "a lens that maps most of the picture one to one",
            "the calibration is probably wrong: give a better one, or let recon estimate it",
        )
    return replace(
        camera,
        width=width,
        height=height,
        cx=-left * camera.fx,
        cy=-top * camera.fy,
        model=CameraModel.PINHOLE,
        distortion=(),
    )


def undistortion(camera: Camera, onto: Camera | None = None) -> Undistortion:
    """Returns the resampling maps of a lens, onto the given pinhole camera or onto `undistorted_camera`."""
    full = onto or undistorted_camera(camera)
    if onto is None:
        if camera.is_pinhole:
            return Undistortion(full)
        if not any(camera.distortion) and camera.model is not CameraModel.OPENCV_FISHEYE:
            return Undistortion(camera_without_lens(camera))
    identity = camera.with_pose(np.eye(4))
    map_x = np.empty((full.height, full.width), np.float32)
    map_y = np.empty_like(map_x)
    u = (np.arange(full.width) + 0.5 - full.cx) / full.fx
    for row in range(full.height):  # Row by row, because float64 temporaries of a large photo take gigabytes.
        v = np.full(full.width, (row + 0.5 - full.cy) / full.fy)
        pixels, _ = identity.project_from_cam(np.stack([u, v, np.ones_like(u)], -1))
        map_x[row], map_y[row] = pixels[:, 0] - 0.5, pixels[:, 1] - 0.5
    # Half a pixel over the edge is still the photograph: its outermost pixels extend that far.
    inside = (map_x >= -0.5) & (map_x <= camera.width - 0.5) & (map_y >= -0.5) & (map_y <= camera.height - 0.5)
    return Undistortion(full, map_x, map_y, None if inside.all() else np.where(inside, 255, 0).astype(np.uint8))


def camera_without_lens(camera: Camera) -> Camera:
    """Returns the pinhole camera with the same intrinsics."""
    return replace(camera, model=CameraModel.PINHOLE, distortion=())


class _Lenses:
    """Computes what each lens needs once, although two threads ask for it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.cameras: dict[str, Camera] = {}
        self.maps: dict[str, Undistortion] = {}

    def undistorted_camera(self, camera: Camera) -> Camera:
        key = fingerprint(_lens(camera))
        with self.lock:
            if key not in self.cameras:
                self.cameras[key] = undistorted_camera(camera)
            return self.cameras[key].with_pose(camera.cam_from_world)

    def undistortion(self, camera: Camera, onto: Camera | None = None) -> Undistortion:
        key = fingerprint(_lens(camera), None if onto is None else _lens(onto))
        with self.lock:
            if key not in self.maps:
                # Photos of many different lenses would otherwise keep all of their maps in memory.
                if len(self.maps) >= 4:
                    self.maps.pop(next(iter(self.maps)))
                self.maps[key] = undistortion(camera, onto)
            return self.maps[key]


def _lens(camera: Camera) -> list[object]:
    return [
        camera.model.value,
        camera.width,
        camera.height,
        camera.fx,
        camera.fy,
        camera.cx,
        camera.cy,
        list(camera.distortion),
    ]


def _view(index: int, frame: Frame, lenses: _Lenses, long_side: int | None, cache: Path | None) -> View:
    for path in (frame.image_path, frame.mask_path):
        if path is not None and not path.is_file():
            raise ReconError(f"loading the view {frame.name}", f"there is no file {path}", "the photograph in place")
    camera = lenses.undistorted_camera(frame.camera)
    if long_side is not None:
        camera = camera.fitted(long_side)
    if cache is None:
        return View(frame.name, index, camera, *_pixels(frame, camera, lenses))
    mask = file_fingerprint(frame.mask_path) if frame.mask_path is not None else None
    key = fingerprint(CACHE_VERSION, file_fingerprint(frame.image_path), mask, _lens(frame.camera), _lens(camera))
    file = cache / f"{fingerprint(frame.name)}-{key}.safetensors"
    found = _cached(file, camera)
    if found is not None:
        return View(frame.name, index, camera, *found)
    image, counted = _pixels(frame, camera, lenses)
    _keep(file, image, counted)
    return View(frame.name, index, camera, image, counted)


Pixels = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]


def _cached(file: Path, camera: Camera) -> Pixels | None:
    """Returns what a cache file holds, or None where there is none or it is damaged."""
    if not file.is_file():
        return None
    try:
        arrays = read_arrays(file)
    except ReconError:
        return None
    image, mask, checksum = arrays.get("image"), arrays.get("mask"), arrays.get("checksum")
    size = (camera.height, camera.width)
    if image is None or checksum is None or image.shape != (*size, 3) or image.dtype != np.uint8:
        return None
    if mask is not None and (mask.shape != size or mask.dtype != np.uint8):
        return None
    return (image, mask) if checksum.tolist() == _checksum(image, mask) else None


def _keep(file: Path, image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8] | None) -> None:
    """Writes a cache file in place of older ones of the same frame; a cache that cannot be written is no error."""
    arrays: dict[str, np.ndarray] = {"image": image, "checksum": np.array(_checksum(image, mask), np.int64)}
    if mask is not None:
        arrays["mask"] = mask
    try:
        for old in file.parent.glob(f"{file.name.split('-')[0]}-*.safetensors"):
            if old != file:
                old.unlink(missing_ok=True)
        write_arrays(file, arrays)
    except (ReconError, OSError):
        return


def _checksum(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8] | None) -> list[int]:
    arrays = [np.ascontiguousarray(array) for array in (image, mask) if array is not None]
    return [zlib.crc32(array.data) for array in arrays]


def _pixels(frame: Frame, camera: Camera, lenses: _Lenses) -> Pixels:
    """Resamples one photograph and what masks it onto the pinhole `camera`."""
    import cv2

    source = frame.camera
    reduction = _reduction(frame, lenses.undistorted_camera(source), camera)
    picture = read_picture(frame.image_path, reduction)
    height, width = picture.rgb.shape[:2]
    if (width, height) != (source.width, source.height):
        if abs(width * source.height - height * source.width) > 0.02 * width * source.height:
            raise ReconError(
                f"loading the view {frame.name}",
                f"the photograph has {width}×{height} pixels",
                f"{source.width}×{source.height} as its camera says, or the same shape at another size",
                "process the photos again, or put back the ones that were posed",
            )
        source = source.resized(width, height)
    counted = picture.alpha
    if counted is not None:
        counted = np.where(counted >= 128, 255, 0).astype(np.uint8)
    if frame.mask_path is not None:
        mask = _mask_of_size(frame, width, height)
        counted = mask if counted is None else np.minimum(counted, mask)
    onto = None
    if reduction > 1:
        onto = camera.resized(_OVERSAMPLING * camera.width, _OVERSAMPLING * camera.height)
    maps = lenses.undistortion(source, onto)
    rgb = picture.rgb
    if maps.map_x is not None and maps.map_y is not None:
        # The outermost half pixel of the photograph is extended; `inside` says where that would be too much.
        edge = cv2.BORDER_REPLICATE
        # Averaging over two pixels or more hides what Lanczos does better than a cubic, at four times the cost.
        kernel = cv2.INTER_CUBIC if 2 * camera.width <= maps.full.width else cv2.INTER_LANCZOS4
        rgb = _as_bytes(cv2.remap(rgb, maps.map_x, maps.map_y, kernel, borderMode=edge))
        if counted is not None:
            counted = _as_bytes(cv2.remap(counted, maps.map_x, maps.map_y, cv2.INTER_LINEAR, borderMode=edge))
        if maps.inside is not None:
            counted = maps.inside if counted is None else np.minimum(counted, maps.inside)
    size = (camera.width, camera.height)
    if (rgb.shape[1], rgb.shape[0]) != size:
        rgb = _as_bytes(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
        if counted is not None:
            counted = _as_bytes(cv2.resize(counted, size, interpolation=cv2.INTER_AREA))
    if counted is not None:
        counted = np.where(counted >= COUNTED_SHARE, 255, 0).astype(np.uint8)
        counted = None if counted.all() else counted
    return rgb, counted


def _reduction(frame: Frame, full: Camera, camera: Camera) -> int:
    """Returns by how much a photograph may be averaged before its lens is taken out; 1 for not at all.

    Args:
        frame: whose photograph may be stored at another size than its camera's.
        full: the undistorted camera at full resolution.
        camera: the one that is wanted.
    """
    width, height = picture_size(frame.image_path)
    # A tenth less than twice the working size is still far from the working size's own limit.
    widest = full.width * width / frame.camera.width / (0.9 * _OVERSAMPLING * camera.width)
    reduction = 1
    while reduction < _LARGEST_REDUCTION and 2 * reduction <= widest:
        if width % (2 * reduction) or height % (2 * reduction):
            break
        reduction *= 2
    return reduction


def _mask_of_size(frame: Frame, width: int, height: int) -> npt.NDArray[np.uint8]:
    import cv2

    assert frame.mask_path is not None
    mask = read_mask(frame.mask_path)
    if mask.shape == (height, width):
        return mask
    if abs(mask.shape[1] * height - mask.shape[0] * width) > 0.02 * mask.shape[1] * height:
        raise ReconError(
            f"loading the view {frame.name}",
            f"its mask has {mask.shape[1]}×{mask.shape[0]} pixels",
            f"{width}×{height} like the photograph, or the same shape",
        )
    return _as_bytes(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST))


def _as_bytes(array: object) -> npt.NDArray[np.uint8]:
    return np.asarray(array, dtype=np.uint8)


def _valid_rectangle(camera: Camera) -> tuple[float, float, float, float]:
    """Returns left, top, right, bottom in normalised coordinates of the largest rectangle that the lens covers.

    Rays from the principal point to the picture's border are followed as long as the lens is invertible and the
    field of view bounded; the rectangle lies inside of where they end.
    """
    center = np.array([np.clip(camera.cx, 0, camera.width), np.clip(camera.cy, 0, camera.height)])
    steps = np.linspace(0.0, 1.0, BORDER_SAMPLES)
    width, height = float(camera.width), float(camera.height)
    sides = [
        np.stack([np.zeros_like(steps), steps * height], -1),
        np.stack([steps * width, np.zeros_like(steps)], -1),
        np.stack([np.full_like(steps, width), steps * height], -1),
        np.stack([steps * width, np.full_like(steps, height)], -1),
    ]
    ends = [_last_valid(camera, center, side) for side in sides]
    return (
        float(ends[0][:, 0].max()),
        float(ends[1][:, 1].max()),
        float(ends[2][:, 0].min()),
        float(ends[3][:, 1].min()),
    )


def _last_valid(camera: Camera, center: npt.NDArray[np.float64], border: npt.NDArray[np.float64]) -> np.ndarray:
    """Returns, for each border pixel [B, 2], the normalised coordinates [B, 2] of the last valid place towards it."""
    share = np.linspace(0.0, 1.0, RAY_SAMPLES)[:, None, None]
    pixels = center + share * (border - center)
    directions = camera.ray_directions_in_cam(pixels)
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = directions[..., :2] / directions[..., 2:]
        # A place is valid where projecting its direction leads back to it.
        back, _ = camera.project_from_cam(directions)
        error = np.linalg.norm(back - pixels, axis=-1)
    limit = np.tan(WIDEST_HALF_ANGLE_RAD)
    fits = (error < 0.1) & (directions[..., 2] > 0) & np.isfinite(normalised).all(-1)
    # Past the fold of a polynomial the inverse jumps to another branch, so radii must also grow along the ray.
    radius = np.linalg.norm(normalised - normalised[:1], axis=-1)
    fits[1:] &= np.diff(radius, axis=0) > -1e-9
    last = np.cumprod(fits, axis=0).sum(0) - 1
    return np.clip(normalised[np.maximum(last, 0), np.arange(len(border))], -limit, limit)
