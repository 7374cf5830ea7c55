# SPDX-License-Identifier: Apache-2.0
"""Masks that the user gives: found by the photo's name, checked against its size, written as COLMAP expects them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.capture.pictures import read_mask
from recon.errors import ReconError
from recon.files import atomic_path

NAMING = "<photo>.png, <photo without suffix>.png, or the photo's own name"


class MaskFolder:
    """A folder of masks; black (0) pixels are ignored in the photo of the same name."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ReconError(f"reading the masks {folder}", "there is no such folder", f"a folder of {NAMING}")

    def files(self) -> list[Path]:
        """Returns everything in the folder that may be a mask, for fingerprints."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))

    def find(self, *names: str) -> Path | None:
        """Returns the mask of a photo that goes by any of these names (relative, with suffix), or None."""
        for name in names:
            stem = name.rpartition(".")[0] or name
            for candidate in (f"{name}.png", f"{stem}.png", name):
                for place in (self.folder / candidate, self.folder / Path(candidate).name):
                    if place.is_file():
                        return place
        return None

    def mask_for(
        self, source_name: str, name: str, size: tuple[int, int], orientation: int
    ) -> npt.NDArray[np.uint8] | None:
        """Returns the mask of a photo at its upright size, [H, W] of 0 and 255, or None where there is none.

        Raises:
            ReconError: a mask of another shape than its photo.
        """
        import cv2

        path = self.find(source_name, name)
        if path is None:
            return None
        mask = read_mask(path)
        width, height = size
        if orientation in (5, 6, 7, 8) and mask.shape == (width, height) and width != height:
            # Drawn on the photo as it was stored, before it was turned upright.
            from recon.capture.photos import turned

            mask = turned(mask, orientation)
        if mask.shape == (height, width):
            return mask
        if abs(mask.shape[1] * height - mask.shape[0] * width) > 0.01 * mask.shape[1] * height:
            raise ReconError(
                f"reading the mask {path}",
                f"it has {mask.shape[1]}×{mask.shape[0]} pixels",
                f"{width}×{height} like the photo {source_name}, or the same shape",
            )
        return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)

    def none_fits(self, photo_name: str) -> ReconError:
        """Returns the error for a folder in which no photo finds its mask."""
        examples = ", ".join(path.name for path in self.files()[:3]) or "nothing"
        return ReconError(
            f"reading the masks {self.folder}",
            f"no mask belongs to any photo (it holds {examples}; the first photo is {photo_name})",
            NAMING,
        )


def write_mask(path: Path, mask: npt.NDArray[np.uint8]) -> None:
    """Writes a mask as an 8-bit grey PNG, atomically."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(mask).save(temporary, "PNG", compress_level=1)
