# SPDX-License-Identifier: Apache-2.0
"""Writes the page: one HTML file that holds the scene, or a folder whose page fetches the scene's parts.

The file asks nothing of the network: its content security policy forbids every load (a folder's page may fetch from
where it came from), and lets only the scripts that stand in it run.  Whatever users give is shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.files import atomic_directory, write_text
from recon.film.paths import CameraPath
from recon.viewers.share.annotations import Annotation
from recon.viewers.share.packing import BLOCK, PackedSplats
from recon.viewers.stage import find_stage_of
from recon.viewers.summary.parts import escaped

SCHEMA = 1
PAGE_MODULES = (
    "vectors", "view", "shaders", "renderer", "unpacking", "loading", "navigator", "controls", "path", "annotations",
    "quality", "interface", "page",
)  # fmt: skip
WORKER_MODULES = ("unpacking", "sorting", "worker")
CHUNK_FOLDER = "splats"
MOST_VIEWS = 400
MOST_POSES = 1200
POSTER_LONG_SIDE = 1280
WIDEST_START_RAD = np.radians(50.0)

_MODULE_WORDS = re.compile(r"^(?:import\b[^;]*;\n|export (?=const |function |class |async ))", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class SharedFilm:
    """A camera path to play; `loop` goes on from the end to the beginning."""

    path: CameraPath
    loop: bool = False


@dataclass(frozen=True, eq=False)
class SharedScene:
    """What the page shows.

    Attributes:
        splats: packed.
        title, credits: plain text; the credits may have several lines.
        cameras: names and pinhole cameras of the photographs, which tell where to look first.
        offers_views: whether the page lists these photographs to fly to.
        film: a camera path to play.
        annotations: points with text.
        background: RGB in 0..1; None follows the page's theme.
        poster: [H, W, 3] uint8, shown until the splats are there.
        positions: [M, 3] of splats, which tell where to look where there are no cameras.
    """

    splats: PackedSplats
    title: str
    credits: str = ""
    cameras: Sequence[tuple[str, Camera]] = ()
    film: SharedFilm | None = None
    annotations: Sequence[Annotation] = ()
    background: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
    poster: npt.NDArray[np.uint8] | None = None
    positions: npt.NDArray[np.float64] | None = None
    offers_views: bool = True


def write_shared_page(path: Path, scene: SharedScene) -> int:
    """Writes one file that holds everything, whole or not at all, and returns its size in bytes.

    Raises:
        ReconError: the file cannot be written.
    """
    blocks = "\n".join(
        f'<script type="text/plain" id="block-{index}">{_base64(block.data)}</script>'
        for index, block in enumerate(scene.splats.blocks)
    )
    text = page_html(scene, blocks, None)
    write_text(Path(path), text)
    return len(text.encode("utf-8"))


def write_shared_folder(path: Path, scene: SharedScene) -> int:
    """Writes index.html and the parts that it fetches, and returns their size in bytes; replaces the folder.

    Raises:
        ReconError: the folder cannot be written.
    """
    total = 0
    with atomic_directory(Path(path)) as temporary:
        (temporary / CHUNK_FOLDER).mkdir()
        for index, block in enumerate(scene.splats.blocks):
            (temporary / CHUNK_FOLDER / _block_name(index)).write_bytes(block.data)
            total += len(block.data)
        text = page_html(scene, "", CHUNK_FOLDER)
        (temporary / "index.html").write_text(text, encoding="utf-8")
        total += len(text.encode("utf-8"))
    return total


def page_html(scene: SharedScene, blocks: str, folder: str | None) -> str:
    """Returns the page with these elements of blocks, or with those of a folder to fetch."""
    script = bundled(PAGE_MODULES)
    worker = bundled(WORKER_MODULES)
    assert "</script" not in script + worker, "a script would end too early"
    connect = "connect-src 'self'; " if folder else ""
    # The worker is made from its text, as a blob; it inherits this policy.
    policy = (
        f"default-src 'none'; {connect}img-src data:; style-src 'unsafe-inline'; worker-src blob:; "
        f"script-src 'sha256-{_digest(script)}' blob:; base-uri 'none'; form-action 'none'"
    )
    values = {
        "policy": policy,
        "title": escaped(scene.title),
        "description": escaped(f"{scene.title}: a scene to look around in"),
        "credits": escaped(scene.credits),
        "facts": escaped(_facts(scene)),
        "style": _asset("page.css"),
        "poster": _poster(scene.poster),
        "scene": _json_text(scene_document(scene, folder)),
        "palette": _base64(scene.splats.harmonics.entries.tobytes()),
        "worker": worker,
        "script": script,
        "blocks": blocks,
    }
    return re.sub(r"{{(\w+)}}", lambda match: values[match[1]], _asset("page.html"))


def bundled(modules: Sequence[str]) -> str:
    """Returns the modules as one script, in this order and in one scope, so that they need no loading."""
    parts = [_MODULE_WORDS.sub("", _asset(f"{name}.js")) for name in modules]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def scene_document(scene: SharedScene, folder: str | None) -> dict[str, Any]:
    """Returns what the page's script reads of the scene."""
    packed = scene.splats
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "title": scene.title,
        "degree": packed.degree,
        "antialiased": packed.antialiased,
        "background": scene.background,
        "folder": folder,
        "commonBlocks": max(1, packed.count // 8 // BLOCK) if folder else len(packed.blocks),
        "blocks": [
            {
                "count": block.count,
                "low": _numbers(block.low),
                "high": _numbers(block.high),
                **({"file": _block_name(index)} if folder else {}),
            }
            for index, block in enumerate(packed.blocks)
        ],
        "palette": {
            "size": packed.harmonics.entries.shape[1],
            "units": [float(unit) for unit in packed.harmonics.units],
        },
        "annotations": [_annotation(annotation) for annotation in scene.annotations],
    }
    return {**document, **_stage(scene), "path": _film(scene.film)}


def first_camera(scene: SharedScene, long_side: int = POSTER_LONG_SIDE) -> Camera:
    """Returns a camera of the page's first view, 16:9, for the poster."""
    document = _stage(scene)["start"]
    height = max(2, 2 * round(long_side * 9 / 32))
    width = 2 * round(height * 8 / 9)
    tangent = np.tan(0.5 * document["fov"]) * max(1.0, document["aspect"] * height / width)
    focal = 0.5 * height / tangent
    rotation = _rotation_matrix(document["rotation"])
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -rotation.T @ np.array(document["eye"])
    return Camera(width, height, focal, focal, width / 2, height / 2, cam_from_world=pose)


def _stage(scene: SharedScene) -> dict[str, Any]:
    """Returns the first view, the extent, and the views to fly to."""
    from recon.cameras import look_at

    cameras = [camera for _, camera in scene.cameras]
    positions = scene.positions if scene.positions is not None else np.zeros((0, 3))
    stage = find_stage_of(cameras, positions)
    pose = look_at(stage.eye, stage.focus, np.array([0.0, 0.0, 1.0]))
    shapes = [camera.width / camera.height for camera in cameras]
    start = {
        "eye": _numbers(stage.eye),
        "rotation": _quaternion(pose),
        "distance": float(np.linalg.norm(stage.eye - stage.focus)),
        # The outer parts of wide photographs are what fewest of them saw.
        "fov": min(stage.fov_rad, WIDEST_START_RAD),
        # Tall photographs leave a wide window's sides free; wide ones shall not be cut by a tall window.
        "aspect": min(float(np.median(shapes)), 1.0) if shapes else 1.0,
    }
    count = len(scene.cameras) if scene.offers_views else 0
    chosen = np.unique(np.linspace(0, max(count - 1, 0), min(count, MOST_VIEWS)).round().astype(int))
    views = [_view(*scene.cameras[index]) for index in chosen]
    return {"start": start, "extent": stage.extent, "views": views}


def _view(name: str, camera: Camera) -> dict[str, Any]:
    return {
        "name": name,
        "eye": _numbers(camera.center_in_world),
        "rotation": _quaternion(camera.cam_from_world),
        "fov": round(float(2 * np.arctan(0.5 * camera.height / camera.fy)), 5),
        "aspect": round(camera.width / camera.height, 5),
    }


def _annotation(annotation: Annotation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "title": annotation.title,
        "text": annotation.text,
        "position": _numbers(annotation.position),
    }
    if annotation.cam_from_world is not None:
        rotation = annotation.cam_from_world[:3, :3]
        document["view"] = {
            "eye": _numbers(-rotation.T @ annotation.cam_from_world[:3, 3]),
            "rotation": _quaternion(annotation.cam_from_world),
            "fov": annotation.fov_rad,
            "aspect": 1.0,
        }
    return document


def _film(film: SharedFilm | None) -> dict[str, Any] | None:
    """Returns the path's poses at equal time steps, eight numbers each."""
    if film is None:
        return None
    cameras = film.path.cameras
    step = -(-len(cameras) // MOST_POSES)
    poses: list[float] = []
    for camera in cameras[::step]:
        fov = round(float(2 * np.arctan(0.5 * camera.height / camera.fy)), 5)
        poses += [*_numbers(camera.center_in_world), *_quaternion(camera.cam_from_world), fov]
    return {
        "fps": film.path.fps / step,
        "aspect": cameras[0].width / cameras[0].height,
        "loop": film.loop,
        "poses": poses,
    }


def _facts(scene: SharedScene) -> str:
    packed = scene.splats
    text = f"{packed.count:,} Gaussian splats, spherical harmonics of degree {packed.degree}"
    text += ", anti-aliased." if packed.antialiased else "."
    if packed.left_out:
        text += f" The {packed.left_out:,} least visible ones are left out."
    return text + " Made with recon."


def _numbers(values: npt.NDArray[np.floating]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def _quaternion(cam_from_world: npt.NDArray[np.float64]) -> list[float]:
    """Returns world_from_cam, wxyz."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(cam_from_world[:3, :3].T).as_quat()
    return _numbers(np.array([w, x, y, z]))


def _rotation_matrix(quaternion: Sequence[float]) -> npt.NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    w, x, y, z = quaternion
    matrix: npt.NDArray[np.float64] = Rotation.from_quat([x, y, z, w]).as_matrix()
    return matrix


def _block_name(index: int) -> str:
    return f"{index:05d}.bin"


def _poster(picture: npt.NDArray[np.uint8] | None) -> str:
    """Returns a data URL; one transparent pixel where there is no picture."""
    if picture is None:
        return "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80, optimize=True, progressive=True)
    return f"data:image/jpeg;base64,{_base64(file.getvalue())}"


def _json_text(document: Mapping[str, Any]) -> str:
    """Returns JSON that can stand within a script element, whatever its texts say."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _asset(name: str) -> str:
    return resources.files("recon.viewers.share").joinpath("assets", name).read_text(encoding="utf-8")
