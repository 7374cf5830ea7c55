# SPDX-License-Identifier: Apache-2.0
"""What the input of `recon process` is: photos, a video, or photos that have poses already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon.capture.photos import PHOTO_SUFFIXES, FoundPhoto, find_photos
from recon.capture.video import is_video
from recon.errors import ReconError
from recon.formats.colmap import find_model
from recon.scene_io import is_scene

SourceKind = Literal["photos", "video", "scene", "colmap", "transforms.json"]


@dataclass(frozen=True, eq=False)
class Source:
    """What the input is: its kind, the file or folder to read, and for photos the files found."""

    kind: SourceKind
    path: Path
    photos: tuple[FoundPhoto, ...] = ()


def identify_source(path: Path, out: Path, ignore_poses: bool = False) -> Source:
    """Returns what the input is; folders under `out` are not looked into.

    Raises:
        ReconError: nothing that can be processed.
    """
    doing = f"looking at the input {path}"
    if not path.exists():
        raise ReconError(doing, "there is no such file or folder", "a folder of photos, or a video")
    if path.is_file():
        if is_video(path):
            return Source("video", path)
        if path.suffix.lower() == ".json":
            return Source("transforms.json", path)
        if path.suffix.lower() in PHOTO_SUFFIXES:
            raise ReconError(doing, "it is one photo", "a folder of photos", f"give its folder, {path.parent}")
        raise ReconError(doing, "it is neither a video nor a transforms.json", "a folder of photos, or a video")
    if not ignore_poses:
        if is_scene(path):
            return Source("scene", path)
        if find_model(path) is not None:
            return Source("colmap", path)
        if (path / "transforms.json").is_file():
            return Source("transforms.json", path / "transforms.json")
    photos = find_photos(path, leave_out=out)
    if photos:
        return Source("photos", path, tuple(photos))
    videos = sorted(entry for entry in path.iterdir() if entry.is_file() and is_video(entry))
    if len(videos) == 1:
        return Source("video", videos[0])
    if videos:
        names = ", ".join(video.name for video in videos[:5])
        raise ReconError(doing, f"it holds {len(videos)} videos ({names})", "photos, or one video", "name one of them")
    entries = sorted(entry.name for entry in path.iterdir())
    found = f"it holds no photos (only {', '.join(entries[:5])})" if entries else "the folder is empty"
    raise ReconError(doing, found, "photos (JPEG, PNG, TIFF, WebP, MPO) or a video")


def check_apart(source: Path, out: Path) -> None:
    """Refuses an output folder that would put results among the user's own photos."""
    source_folder = source.resolve() if source.is_dir() else None
    if source_folder is not None and source_folder in (out.resolve(), out.resolve() / "images"):
        raise ReconError(
            f"choosing the output folder {out}",
            "it is the folder of the input",
            "another folder, so that your photos stay as they are",
            f"give --out {out.with_name(out.name + '_scene')}",
        )
