# SPDX-License-Identifier: Apache-2.0
"""A folder of photos made ready: upright, in a format that every tool reads, grouped by camera, masks beside them.

A photo that is upright already and is a plain JPEG or PNG is linked as it is, so nothing is lost and no space is taken.
Any other is decoded, turned and written anew.  What cannot be read is left out and reported, never fatal as long as
two photos remain.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.capture.exif import ORIENTATION, PhotoFacts, read_facts
from recon.capture.masks import MaskFolder, write_mask
from recon.capture.pictures import decoded, opened
from recon.capture.prepared import Known, Prepared, PreparedPhoto, SkippedFile
from recon.errors import ReconError
from recon.files import TEMPORARY_MARK, atomic_path
from recon.progress import SILENT, Progress
from recon.scene_io import link_or_copy
from recon.sfm.contracts import CameraPrior

if TYPE_CHECKING:
    from PIL import Image

READ_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".webp", ".mpo", ".bmp", ".avif"}
HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
RAW_SUFFIXES = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"}
PHOTO_SUFFIXES = READ_SUFFIXES | HEIC_SUFFIXES | RAW_SUFFIXES

NOT_PHOTO_FOLDERS = {
    "masks", "mask", "depths", "depth", "sparse", "dense", "cache", "report", "work", "thumbnails", "__macosx",
}  # fmt: skip
SMALLEST_SIDE_PX = 32
JPEG_QUALITY = 97


@dataclass(frozen=True)
class FoundPhoto:
    """A file that looks like a photo: its path and its name relative to the input folder."""

    path: Path
    name: str


@dataclass(frozen=True, eq=False)
class _Placed:
    """A photo in the scene folder with what its file said."""

    photo: PreparedPhoto
    facts: PhotoFacts


def find_photos(folder: Path, leave_out: Path | None = None) -> list[FoundPhoto]:
    """Returns everything under `folder` that is named like a photo, in natural order of the names.

    Hidden files, folders of masks, depth maps and results, and everything under `leave_out` are passed over.  Where all
    photos are in a subfolder `images`, names begin below it.
    """
    found: list[FoundPhoto] = []
    pending = [folder]
    skipped = leave_out.resolve() if leave_out is not None else None
    while pending:
        directory = pending.pop()
        try:
            entries = sorted(directory.iterdir())
        except OSError as error:
            raise ReconError(f"looking for photos in {directory}", f"it cannot be opened ({error.strerror})") from error
        for entry in entries:
            if entry.name.startswith(".") or (skipped is not None and entry.resolve() == skipped):
                continue
            if entry.is_dir():
                if not entry.is_symlink() and entry.name.lower() not in NOT_PHOTO_FOLDERS:
                    pending.append(entry)
            elif entry.suffix.lower() in PHOTO_SUFFIXES:
                found.append(FoundPhoto(entry, entry.relative_to(folder).as_posix()))
    if found and all(photo.name.startswith("images/") for photo in found):
        found = [FoundPhoto(photo.path, photo.name.removeprefix("images/")) for photo in found]
    return sorted(found, key=lambda photo: natural_key(photo.name))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts img2 before img10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), part) if part.isascii() and part.isdecimal() else (1, 0, part) for part in parts]


def prepare_photos(
    found: list[FoundPhoto],
    out: Path,
    known: Known | None = None,
    progress: Progress = SILENT,
) -> Prepared:
    """Puts photos into `out/images` and their masks into `out/masks`.

    Raises:
        ReconError: fewer than two usable photos, masks or a calibration that fit none, or a folder that cannot be
            written.
    """
    known = known or Known()
    names = _target_names(found)
    copies = _copies(found)
    placed: list[_Placed] = []
    skipped: list[SkippedFile] = []

    def place(item: tuple[FoundPhoto, str]) -> _Placed | SkippedFile:
        photo, name = item
        if photo.path in copies:
            return SkippedFile(photo.name, f"it is the same file as {copies[photo.path]}")
        return _place(photo, name, out, known.masks)

    with progress.stage("Preparing photos", len(found), "photos") as stage, ThreadPoolExecutor(2) as pool:
        for result in pool.map(place, zip(found, names)):
            if isinstance(result, _Placed):
                placed.append(result)
            else:
                skipped.append(result)
                progress.log(f"Left out {result.name}: {result.reason}")
            stage.advance()
    if len(placed) < 2:
        raise _too_few(placed, skipped)
    notes = []
    if known.masks is not None:
        count = sum(item.photo.masked for item in placed)
        if not count:
            raise known.masks.none_fits(placed[0].photo.source)
        notes.append(f"{count} of {len(placed)} photos have a mask")
    photos, cameras = _with_cameras(placed, known)
    return Prepared(_with_times(photos, placed), cameras, tuple(skipped), "photos", tuple(notes))


def _too_few(placed: list[_Placed], skipped: list[SkippedFile]) -> ReconError:
    reasons = "; ".join(f"{file.name}: {file.reason}" for file in skipped[:5])
    found = "no photo can be used" if not placed else f"only one photo can be used, {placed[0].photo.source}"
    more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return ReconError(
        "preparing the photos",
        found + (f" (left out: {reasons}{more})" if skipped else ""),
        "at least 2 photos, better 20 or more, that overlap",
        "walk around the scene and take photos from many places, each overlapping the last by two thirds",
    )


def _target_names(found: Iterable[FoundPhoto]) -> list[str]:
    """Returns a unique name without a suffix for each photo; the suffix is settled when the file has been looked at."""
    taken: set[str] = set()
    names = []
    for photo in found:
        stem = photo.name[: -len(photo.path.suffix)]
        # a.png beside a.jpg would both become a.jpg.
        while stem.lower() in taken:
            stem += f"_{photo.path.suffix[1:].lower()}"
        taken.add(stem.lower())
        names.append(stem)
    return names


def _copies(found: list[FoundPhoto]) -> dict[Path, str]:
    """Returns the files that are byte for byte the same as an earlier one, with that one's name."""
    by_size: dict[int, list[FoundPhoto]] = {}
    for photo in found:
        try:
            by_size.setdefault(photo.path.stat().st_size, []).append(photo)
        except OSError:
            continue
    copies: dict[Path, str] = {}
    for size, photos in by_size.items():
        if len(photos) < 2 or size == 0:
            continue
        first: dict[bytes, str] = {}
        for photo in photos:
            digest = hashlib.sha256(photo.path.read_bytes()).digest()
            if first.setdefault(digest, photo.name) != photo.name:
                copies[photo.path] = first[digest]
    return copies


def _place(photo: FoundPhoto, stem: str, out: Path, masks: MaskFolder | None) -> _Placed | SkippedFile:
    """Looks at one photo, puts it into the scene folder and writes its mask."""
    suffix = photo.path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return SkippedFile(photo.name, "it is a raw photo; export it as JPEG or TIFF")
    if suffix in HEIC_SUFFIXES and not _heic_support():
        return SkippedFile(
            photo.name, "it is a HEIC photo; `pip install pillow-heif`, or convert it with `heif-convert FILE FILE.jpg`"
        )
    rgb = None
    try:
        with opened(photo.path) as image:
            facts = read_facts(image)
            if min(image.size) < SMALLEST_SIDE_PX:
                return SkippedFile(photo.name, f"it has only {image.width}×{image.height} pixels")
            keep_as = _suffix_kept(image, facts, photo.path.suffix)
            if keep_as is not None:
                alpha, size = _verified(image)
            else:
                rgb, alpha = _upright(image)
                size = (rgb.shape[1], rgb.shape[0])
    except ReconError as error:
        return SkippedFile(photo.name, error.found)
    # Outside of the block above, so that a full disk is not taken for a damaged photo.
    if rgb is None:
        name = f"{stem}{keep_as}"
        _link(photo.path, out / "images" / name)
    else:
        name = stem + _write(image, rgb, out / "images", stem)
    counted = masks.mask_for(photo.name, name, size, facts.orientation) if masks is not None else None
    if alpha is not None:
        opaque = np.where(alpha >= 128, 255, 0).astype(np.uint8)
        counted = opaque if counted is None else np.minimum(opaque, counted)
    if counted is not None:
        write_mask(out / "masks" / f"{name}.png", counted)
    record = PreparedPhoto(name, photo.name, size[0], size[1], masked=counted is not None)
    return _Placed(record, facts)


def _heic_support() -> bool:
    """Whether the optional HEIC decoder is installed; it is switched on here."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _suffix_kept(image: Image.Image, facts: PhotoFacts, suffix: str) -> str | None:
    """Returns the suffix under which a photo can stay as it is, or None where it must be written anew."""
    if facts.orientation != 1:
        return None
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        # A multi-picture file begins with an ordinary JPEG, and readers of JPEG stop at its end.
        return suffix if suffix.lower() in (".jpg", ".jpeg") else ".jpg"
    if image.format == "PNG" and image.mode in ("RGB", "RGBA", "L", "LA") and "transparency" not in image.info:
        return suffix if suffix.lower() == ".png" else ".png"
    return None


def _verified(image: Image.Image) -> tuple[npt.NDArray[np.uint8] | None, tuple[int, int]]:
    """Decodes a photo that is kept as it is, to find damage; returns its alpha channel and its size."""
    size = image.size
    if image.format in ("JPEG", "MPO"):
        # An eighth of the size reads every byte of the file all the same, three times as fast.
        image.draft(image.mode, (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        return None, size
    return decoded(image).alpha, size


def _upright(image: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
    # Pillow turns TIFF files by itself while it decodes them, so what is left to do is asked for afterwards.
    image.load()
    orientation = read_facts(image).orientation
    picture = decoded(image)
    alpha = None if picture.alpha is None else turned(picture.alpha, orientation)
    return turned(picture.rgb, orientation), alpha


def turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Returns [H, W, ...] pixels as EXIF's orientation 1 to 8 wants them shown."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _write(image: Image.Image, rgb: npt.NDArray[np.uint8], folder: Path, stem: str) -> str:
    """Writes an upright photo, as JPEG where it was lossy before and as PNG otherwise; returns the suffix."""
    from PIL import Image as PillowImage

    lossy = image.format in ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")
    suffix = ".jpg" if lossy else ".png"
    profile = image.info.get("icc_profile") if image.mode == "RGB" else None
    exif = b""
    if lossy:
        try:
            block = image.getexif()
            block[ORIENTATION] = 1
            exif = block.tobytes()
        except Exception:  # Damaged EXIF is dropped; the facts were taken from it before.
            exif = b""
    with atomic_path(folder / (stem + suffix)) as temporary:
        output = PillowImage.fromarray(rgb)
        if lossy:
            output.save(temporary, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=exif, icc_profile=profile)
        else:
            output.save(temporary, "PNG", compress_level=1, icc_profile=profile)
    return suffix


def _link(source: Path, target: Path) -> None:
    """Puts a file into the scene folder in one step, whatever was there before."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{target.name}")
    with atomic_path(target) as staged:
        link_or_copy(source, temporary)
        temporary.replace(staged)


def _with_cameras(placed: list[_Placed], known: Known) -> tuple[list[PreparedPhoto], tuple[CameraPrior, ...]]:
    """Gives photos of one camera, lens, focal length and size one prior."""
    groups: dict[tuple, int] = {}
    members: list[list[_Placed]] = []
    photos = []
    for index, item in enumerate(placed):
        size = (item.photo.width, item.photo.height)
        key: tuple = (size, item.facts.camera, round(item.facts.focal_mm or 0.0, 1))
        key = {"auto": key, "single": (size,), "per-image": (index,)}[known.grouping]
        camera = groups.setdefault(key, len(groups))
        if camera == len(members):
            members.append([])
        members[camera].append(item)
        photos.append(replace(item.photo, camera=camera))
    return photos, tuple(_prior(group, known) for group in members)


def _prior(group: list[_Placed], known: Known) -> CameraPrior:
    focals = [item.facts.focal_px for item in group if item.facts.focal_px is not None]
    first = group[0].photo
    return known.prior(first.width, first.height, float(np.median(focals)) if focals else None, first.source)


def _with_times(photos: list[PreparedPhoto], placed: list[_Placed]) -> tuple[PreparedPhoto, ...]:
    """Makes capture times relative to the first photo and exposures relative to their mean."""
    times = [item.facts.taken_s for item in placed if item.facts.taken_s is not None]
    exposures = [item.facts.exposure_log2 for item in placed if item.facts.exposure_log2 is not None]
    first = min(times, default=0.0)
    # A mean over some of the photos would mean nothing for the others.
    mean = float(np.mean(exposures)) if len(exposures) == len(placed) else None
    result = []
    for photo, item in zip(photos, placed, strict=True):
        taken, exposure = item.facts.taken_s, item.facts.exposure_log2
        result.append(
            replace(
                photo,
                time_s=None if taken is None else taken - first,
                exposure_log2=None if mean is None or exposure is None else exposure - mean,
            )
        )
    return tuple(result)


def verify_photo(path: Path) -> tuple[int, int] | str:
    """Returns the size of a photo as stored, or why it cannot be used."""
    try:
        with opened(path) as image:
            return _verified(image)[1]
    except ReconError as error:
        return error.found
