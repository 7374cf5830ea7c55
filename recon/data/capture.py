# SPDX-License-Identifier: Apache-2.0
"""Synthetic captures: photographs of a set that exists only as numbers, and the truth about them.

On disk a capture is
```
photos/frame_0001.jpg ...          what a photographer would bring home
masks/frame_0001.jpg.png ...       0 where a distractor is (only with distractors)
truth/depth/frame_0001.npy ...     float32 [H, W] along z in metres, 0 where nothing is
truth/normals/frame_0001.npy ...   float16 [H, W, 3] in the world, towards the camera
truth/scene.ply                    the whole mesh
truth/object.ply                   the object's closed surface (object captures)
truth/object_seen.ply              those of its triangles that two photographs or more can see
capture.json                       configuration, cameras, exposures, bounds; written last
```
The world is metric with +Z up.  Depth and normals never show distractors.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.data.config import CaptureConfig, Kind
from recon.errors import ReconError
from recon.files import atomic_directory, ensure_output_directory, read_json, remove_leftovers, write_json
from recon.progress import SILENT, Progress
from recon.scene import Frame, Scene, SparsePoints, WorldFrame

if TYPE_CHECKING:
    from recon.data.photograph import Exposed
    from recon.data.stage import Set, Stage

FloatArray = npt.NDArray[np.float64]
SCHEMA = 1
# Raised whenever the same configuration would give other pictures than before.
LOOK = 4
_KEYS = ("kind", "look", "config", "frames", "object_bounds_m", "scene_bounds_m")


@dataclass(frozen=True, eq=False)
class SyntheticCapture:
    """A capture and its truth.

    Attributes:
        root: its folder.
        kind: "room" or "object".
        config: how it was made.
        scene: exact cameras; frames carry photographs, depths, masks and exposures.  It has no sparse points: see
            `sparse_points`.
        mesh_path: the whole mesh.
        object_mesh_path: the object's closed surface; None in a room.
        seen_object_mesh_path: the part of it that at least two photographs can see; None in a room.
        scene_bounds_m: [2, 3] least and greatest corner of the whole mesh.
        object_bounds_m: [2, 3] of the object; None in a room.
    """

    root: Path
    kind: Kind
    config: CaptureConfig
    scene: Scene
    mesh_path: Path
    object_mesh_path: Path | None
    seen_object_mesh_path: Path | None
    scene_bounds_m: FloatArray
    object_bounds_m: FloatArray | None

    @property
    def photos_dir(self) -> Path:
        """The folder of photographs, the input of `recon process`."""
        return self.root / "photos"

    @property
    def masks_dir(self) -> Path | None:
        """The folder of masks; None without distractors."""
        return self.root / "masks" if self.config.distractors else None

    def normals(self, name: str) -> npt.NDArray[np.float32]:
        """Returns the true normals [H, W, 3] of a frame by its name."""
        return np.load(self.root / "truth" / "normals" / f"{Path(name).stem}.npy").astype(np.float32)


def make_capture(
    kind: Kind, out: Path, config: CaptureConfig | None = None, progress: Progress = SILENT
) -> SyntheticCapture:
    """Makes a capture in the folder `out`, or loads it when the same one is already there.

    Args:
        kind: "room" (furnished, walked through) or "object" (a statue on a table, walked around).
        out: the folder; what another capture left there is replaced.
        config: how; the same configuration gives the same files, byte by byte, on the same machine.
        progress: told about painting, lighting and photographs.

    Raises:
        ReconError: an unknown kind, or a folder that cannot be written.
    """
    config = config or CaptureConfig()
    if kind not in get_args(Kind):
        raise ReconError("making a synthetic capture", f"kind is {kind!r}", " or ".join(get_args(Kind)))
    root = ensure_output_directory(Path(out), "making a synthetic capture in")
    found = _existing(root)
    if found is not None and (found.kind, found.config) == (kind, config):
        return found
    # Without its index the folder is no capture, so a killed run leaves nothing that looks finished.
    (root / "capture.json").unlink(missing_ok=True)
    remove_leftovers(root)
    document = _produce(kind, root, config, progress)
    if not config.distractors:
        (root / "masks").rmdir()
    write_json(root / "capture.json", document, SCHEMA)
    return load_capture(root)


def _existing(root: Path) -> SyntheticCapture | None:
    if not (root / "capture.json").is_file():
        return None
    try:
        return load_capture(root)
    except ReconError:
        return None


def _produce(kind: Kind, root: Path, config: CaptureConfig, progress: Progress) -> dict[str, Any]:
    from recon.data.distractors import place_distractors
    from recon.data.paths import camera_path, lens
    from recon.data.photograph import Photographer
    from recon.data.sensor import exposures_log2
    from recon.data.stage import light_stage

    stage = light_stage(_set(kind, config), config.seed, config.light_samples, progress)
    camera = lens(kind, config)
    poses = camera_path(kind, config)
    stops = exposures_log2(config)
    photographer = Photographer(stage, camera, config.supersampling, config.gloss)
    frames: list[dict[str, Any]] = []
    with (
        atomic_directory(root / "photos") as photos,
        atomic_directory(root / "truth") as truth,
        atomic_directory(root / "masks") as masks,
        progress.stage("taking photographs", config.views, "photos") as report,
    ):
        for folder in (truth / "depth", truth / "normals"):
            folder.mkdir()
        with ThreadPoolExecutor(1) as writer:
            # While one photograph is developed and written, the next is taken.
            waiting: list[Future[None]] = []
            for k, pose in enumerate(poses):
                visitors = place_distractors(kind, pose, config, k) if config.distractors else None
                exposed = photographer.expose(pose, visitors)
                name = f"frame_{k + 1:04d}.{config.photo_format}"
                frames.append(_frame_entry(name, camera.with_pose(pose), float(stops[k])))
                waiting.append(writer.submit(_write_frame, (photos, truth, masks), config, exposed, frames[-1], camera))
                if len(waiting) > 2:
                    waiting.pop(0).result()
                report.advance()
            for write in waiting:
                write.result()
        bounds = _write_meshes(stage, truth, camera, poses)
    return {"kind": kind, "look": LOOK, "config": asdict(config), "frames": frames, **bounds}


def _write_frame(
    folders: tuple[Path, Path, Path], config: CaptureConfig, exposed: Exposed, entry: dict[str, Any], camera: Camera
) -> None:
    """Develops and writes one photograph and its truth."""
    from PIL import Image

    from recon.data.sensor import sensed, write_photo

    photos, truth, masks = folders
    name = entry["name"]
    number = int(Path(name).stem.removeprefix("frame_"))
    write_photo(sensed(exposed.linear, camera, entry["exposure_log2"], config, number), photos / name, camera, config)
    if config.distractors:
        Image.fromarray(np.where(exposed.hidden, 0, 255).astype(np.uint8)).save(masks / f"{name}.png")
    if config.maps:
        np.save(truth / "depth" / f"{Path(name).stem}.npy", exposed.depth)
        np.save(truth / "normals" / f"{Path(name).stem}.npy", exposed.normals.astype(np.float16))


def _set(kind: Kind, config: CaptureConfig) -> Set:
    from recon.data.surfaces import Patch

    rng = np.random.default_rng([config.seed, 3])
    if kind == "room":
        from recon.data.room import build_room

        made = build_room(rng)
    else:
        from recon.data.statue import build_statue_set

        made = build_statue_set(rng, 0.0031 / min(max(config.detail, 0.5), 1.3))
    # Textures as fine as pixels can tell; the defaults of surfaces are meant for 640 pixels.
    fine = config.detail * min(max(config.width / 640, 0.2), 2.0)
    surfaces = [
        replace(s, texel_m=s.texel_m / fine, light_m=s.light_m / config.detail) if isinstance(s, Patch) else s
        for s in made.surfaces
    ]
    return replace(made, surfaces=surfaces)


def _frame_entry(name: str, camera: Camera, exposure_log2: float) -> dict[str, Any]:
    return {
        "name": name,
        "width": camera.width,
        "height": camera.height,
        "model": camera.model.value,
        "fx": camera.fx,
        "fy": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "distortion": list(camera.distortion),
        "cam_from_world": camera.cam_from_world.tolist(),
        "exposure_log2": exposure_log2,
    }


def _write_meshes(stage: Stage, truth: Path, camera: Camera, poses: list[FloatArray]) -> dict[str, Any]:
    """Writes the meshes; returns the bounds for the index."""
    from recon.data.truth import seen_triangles, write_ply

    write_ply(truth / "scene.ply", stage.vertices, stage.triangles)
    bounds: dict[str, Any] = {"scene_bounds_m": _bounds(stage.vertices), "object_bounds_m": None}
    part = np.flatnonzero(stage.is_object)
    if len(part):
        write_ply(truth / "object.ply", stage.vertices, stage.triangles[part])
        seen = seen_triangles(stage, part, [camera.with_pose(pose) for pose in poses]) >= min(2, len(poses))
        write_ply(truth / "object_seen.ply", stage.vertices, stage.triangles[part[seen]])
        bounds["object_bounds_m"] = _bounds(stage.vertices[stage.triangles[part].ravel()])
    return bounds


def _bounds(points: npt.NDArray[np.floating]) -> list[list[float]]:
    return [points.min(0).tolist(), points.max(0).tolist()]


def load_capture(path: Path) -> SyntheticCapture:
    """Loads a capture that `make_capture` made.

    Raises:
        ReconError: there is none, it is of another version, or a file of it is missing.
    """
    root = Path(path)
    document = read_json(root / "capture.json", SCHEMA, _KEYS)
    doing = f"loading the synthetic capture {root}"
    try:
        values = dict(document["config"])
        for name in ("distortion", "principal_point_px"):
            values[name] = tuple(values[name])
        config = CaptureConfig(**values)
        frames = tuple(_frame(root, entry, config) for entry in document["frames"])
        bounds = [document["scene_bounds_m"], document["object_bounds_m"]]
        scene_bounds, object_bounds = (None if b is None else np.array(b, float).reshape(2, 3) for b in bounds)
        kind, look = document["kind"], document["look"]
    except (KeyError, TypeError, ValueError) as error:
        raise ReconError(doing, f"capture.json is damaged ({error!r})", "an unchanged file", "make it again") from error
    if look != LOOK or kind not in get_args(Kind) or scene_bounds is None:
        raise ReconError(doing, f"it is a {kind} of version {look}", f"version {LOOK}", "make it again")
    truth = root / "truth"
    is_object = object_bounds is not None
    needed = [frame.image_path for frame in frames] + [truth / "scene.ply"]
    missing = [str(file) for file in needed if not file.is_file()]
    if missing:
        raise ReconError(doing, f"{len(missing)} files are missing, first {missing[0]}", "all", "make it again")
    return SyntheticCapture(
        root,
        kind,
        config,
        Scene(frames, SparsePoints.empty(), WorldFrame(source="synthetic", up_is_known=True, meters_per_unit=1.0)),
        truth / "scene.ply",
        truth / "object.ply" if is_object else None,
        truth / "object_seen.ply" if is_object else None,
        scene_bounds,
        object_bounds,
    )


def _frame(root: Path, entry: dict[str, Any], config: CaptureConfig) -> Frame:
    camera = Camera(
        **{key: entry[key] for key in ("width", "height", "fx", "fy", "cx", "cy", "model")},
        distortion=tuple(entry["distortion"]),
        cam_from_world=np.array(entry["cam_from_world"], float),
    )
    name = entry["name"]
    return Frame(
        name,
        root / "photos" / name,
        camera,
        mask_path=root / "masks" / f"{name}.png" if config.distractors else None,
        depth_path=root / "truth" / "depth" / f"{Path(name).stem}.npy" if config.maps else None,
        exposure_log2=float(entry["exposure_log2"]),
    )
