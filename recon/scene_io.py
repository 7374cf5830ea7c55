# SPDX-License-Identifier: Apache-2.0
"""Scene folders: a COLMAP project that every other tool opens, plus one file of ours.

    scene/  images/  masks/  depths/  sparse/0/{cameras,images,points3D}.bin  scene.json

Poses, lenses and points are in the COLMAP files, in the scene's own world (+Z up); scene.json says what that world is
and what COLMAP has no place for.  A save is prepared in a folder beside the old files, becomes valid by one rename, and
is then moved into place; a load first finishes a save that was killed after that rename.  So a killed save leaves the
old scene or the new one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from recon.cameras import Camera
from recon.errors import ReconError
from recon.files import (
    TEMPORARY_MARK,
    raise_for_os_error,
    read_arrays,
    read_json,
    remove_leftovers,
    write_arrays,
    write_json,
)
from recon.formats.colmap import STALE_COMPANIONS, ColmapImage, ColmapModel, find_model, read_model, write_model
from recon.scene import Frame, Scene, Similarity, WorldFrame
from recon.world import turned_upright

SCHEMA = 1
SCENE_FILE = "scene.json"
COMMITTED = ".recon-save"
"""Folder of a save that is valid but not yet moved into place."""

FRAME_KEYS = {"name", "camera_id", "mask", "depth", "exposure_log2", "time_s"}
WORLD_KEYS = {"world_from_source", "source", "up_is_known", "meters_per_unit", "origin", "crs", "up_axis"}
SIMILARITY_KEYS = {"scale", "rotation", "translation"}


def save_scene(scene: Scene, path: Path, model: ColmapModel | None = None) -> None:
    """Writes a scene folder; photos, masks and depth maps that are not in it yet are linked or copied into it.

    Args:
        scene: what to write; frames may lie anywhere.
        path: the folder; other files in it stay.
        model: the COLMAP model of the same images and points, for its keypoints and tracks.  Poses, lenses and point
            positions are taken from the scene.

    Raises:
        ReconError: a photo is missing, or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _finish_save(path)
        remove_leftovers(path)
        staging = path / f"{TEMPORARY_MARK}{secrets.token_hex(4)}-save"
        try:
            staging.mkdir()
            _stage(scene, path, staging, model)
            os.replace(staging, path / COMMITTED)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        _finish_save(path)
    except OSError as error:
        raise_for_os_error(f"saving the scene {path}", error)


def load_scene(path: Path) -> Scene:
    """Reads a scene folder, a COLMAP project or a folder with transforms.json.

    A COLMAP project has its model in sparse/0, sparse or the folder itself, as .bin or .txt.  What was not written by
    recon is turned so that +Z is up (`WorldFrame.world_from_source` says how).

    Raises:
        ReconError: nothing of these, or damaged files.
    """
    path = Path(path)
    doing = f"reading the scene {path}"
    if path.is_file() and path.suffix == ".json" and path.name != SCENE_FILE:
        from recon.formats.transforms_json import read_transforms

        return replace(read_transforms(path).scene, root=path.parent)
    if path.is_file() and path.name == SCENE_FILE:
        path = path.parent
    if not path.is_dir():
        raise ReconError(doing, "there is no such folder", "a scene folder", "make one with `recon process`")
    try:
        _finish_save(path)
    except OSError as error:
        raise_for_os_error(doing, error)
    if (path / SCENE_FILE).is_file():
        return _load_own(path)
    if find_model(path) is not None:
        return _load_colmap(path)
    if (path / "transforms.json").is_file():
        return load_scene(path / "transforms.json")
    raise ReconError(
        doing,
        "it is no scene",
        "scene.json, a COLMAP model under sparse/0, or transforms.json",
        f"make a scene of photos with `recon process {path} --out SCENE`",
    )


def is_scene(path: Path) -> bool:
    """Whether `path` is a folder that `save_scene` wrote."""
    return (Path(path) / SCENE_FILE).is_file() or (Path(path) / COMMITTED / SCENE_FILE).is_file()


def _stage(scene: Scene, path: Path, staging: Path, model: ColmapModel | None) -> None:
    """Writes everything that is new about the scene into `staging`, laid out as it will be in `path`."""
    entries: list[dict[str, Any]] = []
    for frame in scene.frames:
        _stage_file(frame.image_path, path, staging, Path("images", frame.name))
        entry: dict[str, Any] = {"name": frame.name, "camera_id": frame.camera_id}
        if frame.mask_path is not None:
            # COLMAP's name for a mask: the whole name of the photo, and .png after it.
            entry["mask"] = f"masks/{frame.name}.png"
            _stage_file(frame.mask_path, path, staging, Path(entry["mask"]))
        if frame.depth_path is not None:
            entry["depth"] = f"depths/{frame.name}{frame.depth_path.suffix}"
            _stage_file(frame.depth_path, path, staging, Path(entry["depth"]))
        if frame.exposure_log2 is not None:
            entry["exposure_log2"] = float(frame.exposure_log2)
        if frame.time_s is not None:
            entry["time_s"] = float(frame.time_s)
        entries.append(entry)
    full = _colmap_model(scene, model)
    write_model(full, staging / "sparse" / "0")
    if not np.array_equal(np.diff(full.track_offsets), scene.points.track_lengths):
        # Points without tracks would come back with length 0, so the lengths are kept beside them.
        write_arrays(staging / "sparse" / "track_lengths.safetensors", {"track_lengths": scene.points.track_lengths})
    world = {"up_axis": "+z", **asdict(scene.world)}
    write_json(staging / SCENE_FILE, {"world": world, "frames": entries}, SCHEMA)


def _stage_file(source: Path, path: Path, staging: Path, relative: Path) -> None:
    target = path / relative
    if not Path(source).is_file():
        raise ReconError(f"saving the scene {path}", f"there is no file {source}", "every frame's photo in place")
    if target.exists() and os.path.samefile(source, target):
        return
    link_or_copy(Path(source), staging / relative)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source` where the file system allows it, and a flushed copy of it otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as copied:
            os.fsync(copied.fileno())


def _finish_save(path: Path) -> None:
    """Moves a valid save into place; every step may be repeated, by several processes at once even."""
    committed = path / COMMITTED
    if not committed.is_dir():
        return
    for name in STALE_COMPANIONS:
        (path / "sparse" / "0" / name).unlink(missing_ok=True)
    if (committed / "sparse" / "0" / "points3D.bin").is_file():
        (path / "sparse" / "track_lengths.safetensors").unlink(missing_ok=True)
    files = sorted(file for file in committed.rglob("*") if file.is_file())
    for file in files:
        target = path / file.relative_to(committed)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # Another process has moved it already.
            os.replace(file, target)
    shutil.rmtree(committed, ignore_errors=True)


def colmap_model(scene: Scene) -> ColmapModel:
    """Returns the cameras and points of a scene as a COLMAP model without tracks."""
    return _colmap_model(scene, None)


def _colmap_model(scene: Scene, model: ColmapModel | None) -> ColmapModel:
    """Returns the scene as a COLMAP model, with the tracks of `model` where one is given."""
    numbers = _camera_numbers(scene)
    cameras: dict[int, Camera] = {}
    old = {image.name: image for image in model.images} if model is not None else {}
    unused = max((image.image_id for image in old.values()), default=0) + 1
    images = []
    for index, (frame, number) in enumerate(zip(scene.frames, numbers, strict=True)):
        cameras[number] = frame.camera
        before = old.get(frame.name)
        images.append(
            ColmapImage(
                image_id=before.image_id if before is not None else unused + index,
                name=frame.name,
                camera_id=number,
                cam_from_world=frame.camera.cam_from_world,
                keypoints_px=before.keypoints_px if before is not None else np.zeros((0, 2)),
                point_ids=before.point_ids if before is not None else np.zeros(0, np.int64),
            )
        )
    count = len(scene.points)
    if model is None:
        return ColmapModel(
            cameras,
            tuple(images),
            scene.points,
            np.arange(1, count + 1),
            np.zeros(count + 1, np.int64),
            np.zeros((0, 2), np.int32),
        )
    assert len(model.points) == count
    assert set(old) <= {frame.name for frame in scene.frames}
    return ColmapModel(cameras, tuple(images), scene.points, model.point_ids, model.track_offsets, model.tracks)


def _camera_numbers(scene: Scene) -> list[int]:
    """Returns COLMAP's camera number of each frame: the scene's own where they serve, new ones otherwise.

    They do not serve where a number is below 1, or where frames with one number have different lenses.
    """
    lens_of: dict[int, tuple] = {}
    fits = True
    lenses = []
    for frame in scene.frames:
        camera = frame.camera
        lens = (camera.model, camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        lenses.append((frame.camera_id, *lens, camera.distortion))
        fits &= frame.camera_id >= 1 and lens_of.setdefault(frame.camera_id, lenses[-1]) == lenses[-1]
    if fits:
        return [frame.camera_id for frame in scene.frames]
    numbers: dict[tuple, int] = {}
    return [numbers.setdefault(lens, len(numbers) + 1) for lens in lenses]


def _load_own(path: Path) -> Scene:
    file = path / SCENE_FILE
    doing = f"reading {file}"
    document = read_json(file, SCHEMA, ("world", "frames"))
    model = read_model(path / "sparse" / "0")
    images = {image.name: image for image in model.images}
    frames = []
    entries = document.get("frames")
    if not isinstance(entries, list):
        raise ReconError(doing, "it has no list of frames", "a file that recon wrote")
    for entry in entries:
        frames.append(_frame(doing, path, entry, images, model))
    points = model.points
    lengths = path / "sparse" / "track_lengths.safetensors"
    if lengths.is_file():
        stored = read_arrays(lengths).get("track_lengths")
        if stored is None or stored.shape != (len(points),):
            raise ReconError(f"reading {lengths}", "it does not fit the points", f"{len(points)} lengths")
        points = replace(points, track_lengths=stored.astype(np.int32))
    return Scene(tuple(frames), points, _world(doing, document.get("world")), root=path)


def _frame(doing: str, path: Path, entry: Any, images: dict[str, ColmapImage], model: ColmapModel) -> Frame:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or set(entry) - FRAME_KEYS:
        raise ReconError(doing, f"a frame is {str(entry)[:200]}", f"an object with the keys {sorted(FRAME_KEYS)}")
    image = images.get(entry["name"])
    if image is None:
        raise ReconError(
            doing,
            f"the frame {entry['name']} is not in sparse/0/images.bin",
            "the model that was saved with it",
            "delete scene.json to read the folder as a plain COLMAP project",
        )
    for key in ("mask", "depth"):
        value = entry.get(key)
        if value is not None and (not isinstance(value, str) or value.startswith("/") or ".." in Path(value).parts):
            raise ReconError(doing, f"the {key} of {image.name} is {value!r}", "a path inside of the scene")
    for key, kinds in (("exposure_log2", (int, float)), ("time_s", (int, float)), ("camera_id", (int,))):
        if not isinstance(entry.get(key, 0), kinds):
            raise ReconError(doing, f"{key} of {image.name} is {entry[key]!r}", "a number")
    return Frame(
        name=image.name,
        image_path=path / "images" / image.name,
        camera=model.cameras[image.camera_id].with_pose(image.cam_from_world),
        camera_id=entry.get("camera_id", image.camera_id),
        mask_path=path / entry["mask"] if entry.get("mask") else None,
        depth_path=path / entry["depth"] if entry.get("depth") else None,
        exposure_log2=entry.get("exposure_log2"),
        time_s=entry.get("time_s"),
    )


def _world(doing: str, document: Any) -> WorldFrame:
    if not isinstance(document, dict) or set(document) - WORLD_KEYS:
        raise ReconError(doing, f"its world is {str(document)[:300]}", f"an object with the keys {sorted(WORLD_KEYS)}")
    try:
        similarity = document.get("world_from_source", {})
        rotation = np.array(similarity.get("rotation", np.eye(3)), dtype=np.float64).reshape(3, 3)
        translation = np.array(similarity.get("translation", np.zeros(3)), dtype=np.float64).reshape(3)
        meters, origin = document.get("meters_per_unit"), document.get("origin")
        return WorldFrame(
            world_from_source=Similarity(float(similarity.get("scale", 1.0)), rotation, translation),
            source=str(document.get("source", "sfm")),
            up_is_known=bool(document.get("up_is_known", False)),
            meters_per_unit=None if meters is None else float(meters),
            origin=None if origin is None else (float(origin[0]), float(origin[1]), float(origin[2])),
            crs=document.get("crs"),
        )
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ReconError(doing, f"its world cannot be read ({error})", "a file that recon wrote") from error


def _load_colmap(path: Path) -> Scene:
    """Reads a plain COLMAP project; images that are not there are left out."""
    folder = find_model(path)
    assert folder is not None
    model = read_model(folder)
    places = [path / "images", folder.parent / "images", folder.parent.parent / "images", path]
    frames, missing = [], []
    for image in sorted(model.images, key=lambda image: image.name):
        image_path = next((place / image.name for place in places if (place / image.name).is_file()), None)
        if image_path is None:
            missing.append(image.name)
            continue
        masks = [path / "masks" / f"{image.name}.png", path / "masks" / Path(image.name).with_suffix(".png")]
        frames.append(
            Frame(
                name=image.name,
                image_path=image_path,
                camera=model.cameras[image.camera_id].with_pose(image.cam_from_world),
                camera_id=image.camera_id,
                mask_path=next((mask for mask in masks if mask.is_file()), None),
            )
        )
    if not frames:
        raise ReconError(
            f"reading the COLMAP project {path}",
            f"none of its {len(model.images)} images exists"
            + (f" (the first is {missing[0]}, looked for under {path / 'images'})" if missing else ""),
            "the images that the model was made of, in a folder named images beside it",
        )
    scene = Scene(tuple(frames), model.points, WorldFrame(source="colmap"), root=path)
    return turned_upright(scene)
