# SPDX-License-Identifier: Apache-2.0
"""Picture files as arrays: whatever a camera or an editor wrote becomes 8-bit RGB with an optional alpha channel.

Pixels are taken as they are stored; turning them upright is the business of `recon.capture.photos`, since everything
after it works on upright files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError

if TYPE_CHECKING:
    from PIL import Image

LARGEST_PICTURE_PIXELS = 300_000_000
"""Pictures with more pixels are refused before they are decoded; the largest phone sensors have 200 million."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels.

    Attributes:
        rgb: [H, W, 3] uint8.
        alpha: [H, W] uint8, or None where the file has no transparency.
    """

    rgb: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.uint8] | None = None


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Opens a picture without decoding it; errors of any decoder inside the block become a `ReconError`.

    Raises:
        ReconError: no such file, not a picture, cut short, or absurdly large.
    """
    from PIL import Image, UnidentifiedImageError

    doing = f"reading the picture {path}"
    try:
        with warnings.catch_warnings():
            # Pillow warns at its own limit and about odd metadata; ours is checked right below.
            warnings.simplefilter("ignore")
            Image.MAX_IMAGE_PIXELS = LARGEST_PICTURE_PIXELS
            with Image.open(path) as image:
                if image.width * image.height > LARGEST_PICTURE_PIXELS:
                    raise Image.DecompressionBombError(f"it has {image.width}×{image.height} pixels")
                yield image
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except UnidentifiedImageError as error:
        found = "the file is empty" if Path(path).stat().st_size == 0 else "it is not a picture"
        raise ReconError(doing, found, "a JPEG, PNG, TIFF, WebP or MPO file") from error
    except Image.DecompressionBombError as error:
        raise ReconError(
            doing, f"it is too large ({error})", f"at most {LARGEST_PICTURE_PIXELS // 10**6} million pixels"
        ) from error
    except MemoryError as error:
        raise ReconError(doing, "its pixels do not fit into memory", "a smaller picture") from error
    except (OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, KeyError, ArithmeticError) as error:
        # Pillow's decoders raise any of these for damaged files.
        raise ReconError(doing, f"it is damaged ({error})", "a whole picture") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Returns width and height as stored, from the header alone."""
    with opened(path) as image:
        return image.width, image.height


def read_picture(path: Path, reduction: int = 1) -> Picture:
    """Decodes a picture as stored (no EXIF orientation).

    Args:
        path: the file.
        reduction: 1, 2, 4 or 8: averages squares of so many pixels, which a JPEG's decoder does on its way, at a
            fraction of the time.  A picture whose sides are no multiples of it is returned at its full size.

    Raises:
        ReconError: see `opened`.
    """
    with opened(path) as image:
        width, height = image.size
        if reduction == 1 or width % reduction or height % reduction:
            return decoded(image)
        small = (width // reduction, height // reduction)
        image.draft(None, small)
        picture = decoded(image)
    if (picture.rgb.shape[1], picture.rgb.shape[0]) == small:
        return picture
    import cv2

    def shrink(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return Picture(shrink(picture.rgb), None if picture.alpha is None else shrink(picture.alpha))


def decoded(image: Image.Image) -> Picture:
    """Returns the pixels of an open picture: 16 bits become 8, palettes, greys and CMYK become RGB."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        gray = _deep_gray_as_bytes(np.asarray(image), image.mode)
        return Picture(np.repeat(gray[..., None], 3, axis=2))
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
        if (alpha == 255).all():
            alpha = None
    return Picture(np.array(image.convert("RGB")), alpha)


def _deep_gray_as_bytes(values: np.ndarray, mode: str) -> npt.NDArray[np.uint8]:
    if mode == "F":
        # Floating-point greys have no fixed range: 0 to 1 where they stay inside, the picture's own maximum otherwise.
        values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
        return (np.clip(values / max(1.0, float(values.max(initial=0.0))), 0, 1) * 255).astype(np.uint8)
    if mode == "I" and values.max(initial=0) < 256:
        return np.clip(values, 0, 255).astype(np.uint8)
    return np.clip(values // 256, 0, 255).astype(np.uint8)


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a mask as [H, W] uint8: 0 where the file is black (or its palette index is 0), 255 elsewhere.

    Raises:
        ReconError: see `opened`.
    """
    with opened(path) as image:
        values = np.asarray(image)
    if values.ndim == 3:
        # Transparency says nothing about what a mask means; only its colours do.
        values = values[..., : 3 if values.shape[2] >= 3 else 1].max(axis=2)
    return np.where(values != 0, 255, 0).astype(np.uint8)
