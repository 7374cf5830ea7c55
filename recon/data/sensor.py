# SPDX-License-Identifier: Apache-2.0
"""What camera and file format do to a picture: exposure, vignetting, noise, rounding, JPEG, EXIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.data.config import CaptureConfig
from recon.data.photograph import develop

Picture = npt.NDArray[np.float32]
FULL_FRAME_WIDTH_MM = 36.0
SENSOR_WIDTH_MM = 6.4


def exposures_log2(config: CaptureConfig) -> npt.NDArray[np.float64]:
    """Returns the exposure of each photograph in stops; their mean is 0, their deviation as configured."""
    rng = np.random.default_rng([config.seed, 11])
    # A camera's automatic exposure drifts along the walk; it does not jump from photograph to photograph.
    steps = rng.standard_normal(config.views + 4)
    smooth = np.convolve(steps, np.ones(5), "valid")
    return config.exposure_stops * (smooth - smooth.mean()) / max(float(smooth.std()), 1e-9)


def sensed(
    linear: Picture, camera: Camera, exposure_log2: float, config: CaptureConfig, number: int
) -> npt.NDArray[np.uint8]:
    """Returns the 8-bit photograph [H, W, 3] of linear light.

    Args:
        linear: [H, W, 3] light.
        camera: for the optical centre of the vignetting.
        exposure_log2: in stops.
        config: vignetting, noise and seed.
        number: of the photograph, which decides its noise.
    """
    light = linear * np.float32(2.0**exposure_log2)
    if config.vignetting > 0:
        offset = camera.pixel_grid() - (camera.cx, camera.cy)
        radius = np.linalg.norm(offset, axis=-1) / np.hypot(camera.width / 2, camera.height / 2)
        light = light * (1 - config.vignetting * np.clip(radius, 0, 1.2) ** 2)[..., None].astype(np.float32)
    if config.noise > 0:
        # Shot noise grows with the root of the light; `noise` is its size at mid grey, where the
        # response has a slope of 1.19.
        rng = np.random.default_rng([config.seed, 13, number])
        scale = config.noise * np.sqrt(np.maximum(light, 0.002) / np.float32(0.18)) * np.float32(0.84)
        light = light + scale * rng.standard_normal(light.shape, dtype=np.float32)
    values = develop(np.maximum(light, 0))
    return np.clip(np.round(values * 255), 0, 255).astype(np.uint8)


def write_photo(photo: npt.NDArray[np.uint8], path: Path, camera: Camera, config: CaptureConfig) -> None:
    """Writes a photograph in the format of its configuration; the folder is complete when it is renamed."""
    from PIL import Image

    image = Image.fromarray(photo)
    if config.photo_format == "png":
        image.save(path, compress_level=4)
        return
    exif = _exif(camera) if config.exif else b""
    image.save(path, quality=config.jpeg_quality, subsampling=0 if config.jpeg_quality >= 90 else 2, exif=exif)


def _exif(camera: Camera) -> bytes:
    """Focal length in mm and as the 35 mm equivalent, for a sensor 6.4 mm wide."""
    from PIL import ExifTags, Image
    from PIL.TiffImagePlugin import IFDRational

    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "recon"
    exif[ExifTags.Base.Model] = "synthetic camera"
    exif[ExifTags.Base.Orientation] = 1
    details = exif.get_ifd(ExifTags.IFD.Exif)
    focal_mm = camera.fx / camera.width * SENSOR_WIDTH_MM
    details[ExifTags.Base.FocalLength] = IFDRational(round(focal_mm * 1000), 1000)
    details[ExifTags.Base.FocalLengthIn35mmFilm] = round(camera.fx / camera.width * FULL_FRAME_WIDTH_MM)
    return exif.tobytes()
