# SPDX-License-Identifier: Apache-2.0
"""What the tab "Export" can make, and how each thing is made."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.cameras import Camera
from recon.errors import ReconError
from recon.files import atomic_path
from recon.render import RenderOptions
from recon.scene import Scene, Similarity
from recon.viewers.editing.edited import edited_renderer, edited_splats
from recon.viewers.job_controls import file_size
from recon.viewers.jobs import Job

if TYPE_CHECKING:
    from recon.film.motion import KeyframedFilm
    from recon.splats import Splats
    from recon.surface.mesh import Mesh
    from recon.viewers.viewer import Viewer

Work = Callable[[Job, Path], Any]

SPLAT_FORMATS = {
    "PLY · everything opens it": ".ply",
    "SPZ · small, exact enough": ".spz",
    "SOG · smallest": ".sog",
    "Compressed PLY": ".compressed.ply",
    "glTF (.glb)": ".glb",
    ".splat": ".splat",
}

MESH_FORMATS = {"GLB": ".glb", "OBJ": ".obj", "PLY": ".ply", "STL": ".stl"}

MESH_DETAILS: dict[str, tuple[int, int]] = {
    "Draft": (320, 100_000),
    "Normal": (640, 300_000),
    "Fine": (1280, 1_000_000),
}
"""Longer side of the depth maps in pixels, and the most triangles."""

PICTURE_WIDTHS: dict[str, float] = {
    "As the window": 1.0,
    "Window × 2": 2.0,
    "Window × 4": 4.0,
    "1920 wide": 1920.0,
    "3840 wide (4K)": 3840.0,
    "7680 wide (8K)": 7680.0,
}
"""Up to 16 a factor, above it a width in pixels."""

LARGEST_PICTURE_PX = 8192

PICTURE_SHOWS = {"Colour": "rgb", "Depth": "depth", "Normals": "normal"}

CAMERA_FORMATS = {"transforms.json (nerfstudio)": ".json", "COLMAP model (.zip)": ".zip"}


@dataclass(frozen=True)
class PictureOptions:
    """How a picture is made: its width in `PICTURE_WIDTHS`, what of `PICTURE_SHOWS`, and without a background."""

    width: str = "As the window"
    show: str = "Colour"
    transparent: bool = False


def bytes_per_splat(suffix: str, harmonics: int) -> float:
    """Returns about how many bytes a splat takes with so many spherical harmonics (1, 4, 9, 16), measured on a fox."""
    rest = 3 * (harmonics - 1)
    return {
        ".ply": 4.0 * (17 + rest),
        ".compressed.ply": 16.3 + rest,
        ".spz": 18.6 + 0.62 * rest,
        ".sog": 13.1 + (6.4 if rest else 0.0),
        ".glb": 4.0 * (15 + rest),
        ".splat": 32.0,
    }.get(suffix, 32.0)


# Splats ---------------------------------------------------------------------------------------------------------


def splat_note(splats: Splats | None, suffix: str) -> str:
    """Returns what a format loses of these splats, and about how large the file will be."""
    from recon.formats.splat_files import written_format

    if splats is None or not len(splats):
        return "There are no splats yet."
    found = written_format(Path(f"scene{suffix}"))
    losses = found.losses(splats) if found is not None else []
    size = file_size(round(len(splats) * bytes_per_splat(suffix, splats.sh.shape[1])))
    lost = f"Loses {', '.join(losses)}." if losses else "Loses nothing."
    return f"{len(splats):,} splats, about {size}. {lost}"


def splat_work(viewer: Viewer, suffix: str) -> Work:
    """Returns the work of writing the splats as edited."""

    def work(job: Job, out: Path) -> str:
        from recon.formats.splat_files import write_splats
        from recon.views import undistorted_camera

        splats = edited_splats(viewer)
        if splats is None or not len(splats):
            raise ReconError("exporting splats", "there are none", "a scene of splats whose edits leave some")
        # The palette of a SOG spares what the photographs' places see.
        frames = viewer.scene.frames if suffix == ".sog" and viewer.scene is not None else ()
        with job.stage("Writing splats"):
            write_splats(splats, out, progress=job, cameras=[undistorted_camera(frame.camera) for frame in frames])
        return f"{len(splats):,} splats"

    return work


# Meshes ---------------------------------------------------------------------------------------------------------


def mesh_note(viewer: Viewer, anew: bool) -> str:
    """Returns which mesh will be written."""
    mesh = viewer.content.mesh
    if mesh is not None and not anew:
        return f"The mesh that is shown: {len(mesh.faces):,} triangles. Crops are not applied to it."
    source = "the splats as edited" if viewer.content.splats is not None else "what was trained"
    return f"Made from {source}, seen from the photographs' places. It takes a minute or more."


def mesh_work(viewer: Viewer, detail: str, anew: bool) -> Work:
    """Returns the work of writing the mesh that is shown, or a new one."""
    long_side, faces = MESH_DETAILS.get(detail, MESH_DETAILS["Normal"])

    def work(job: Job, out: Path) -> str:
        from recon.formats.mesh_files import write_mesh
        from recon.surface import MeshConfig, extract_mesh
        from recon.views import undistorted_camera

        mesh = viewer.content.mesh
        if mesh is not None and not anew:
            mesh = moved_mesh(mesh, viewer.world)
        else:
            scene, renderer = viewer.scene, edited_renderer(viewer)
            if renderer is None or scene is None or not scene.frames:
                raise ReconError("making a mesh", "there is nothing trained with cameras", "a training run")
            cameras = [undistorted_camera(frame.camera).fitted(long_side) for frame in scene.frames]
            mesh = extract_mesh(renderer, cameras, MeshConfig(max_faces=faces), job)
            if not len(mesh.faces):
                raise ReconError("making a mesh", "no surface was seen by enough photographs")
        with job.stage("Writing the mesh"):
            write_mesh(mesh, out)
        return f"{len(mesh.faces):,} triangles"

    return work


def moved_mesh(mesh: Mesh, world: Similarity) -> Mesh:
    """Returns a mesh in a world that was moved, turned and scaled."""
    normals = mesh.normals
    if normals is not None:
        normals = (normals @ np.asarray(world.rotation).T).astype(np.float32)
    return replace(mesh, vertices=world.apply(mesh.vertices), normals=normals)


# Points, cameras ------------------------------------------------------------------------------------------------


def point_work(viewer: Viewer) -> Work:
    """Returns the work of writing the sparse points."""

    def work(job: Job, out: Path) -> str:
        from recon.formats.point_ply import write_point_ply

        scene = _scene(viewer)
        with job.stage("Writing points"):
            write_point_ply(scene.points, out)
        return f"{len(scene.points):,} points"

    return work


def camera_work(viewer: Viewer, suffix: str) -> Work:
    """Returns the work of writing the cameras (and, for COLMAP, the points)."""

    def work(job: Job, out: Path) -> str:
        scene = _scene(viewer)
        with job.stage("Writing cameras"):
            if suffix == ".json":
                from recon.formats.transforms_json import write_transforms

                write_transforms(scene, out)
            else:
                _write_colmap_zip(scene, out)
        return f"{len(scene.frames):,} cameras"

    return work


def _scene(viewer: Viewer) -> Scene:
    scene = viewer.scene
    if scene is None:
        raise ReconError("exporting cameras and points", "there is no scene", "a run or a scene folder")
    return scene


def _write_colmap_zip(scene: Scene, out: Path) -> None:
    """Writes sparse/0 of a COLMAP project as a .zip."""
    import tempfile

    from recon.formats.colmap import write_model
    from recon.scene_io import colmap_model

    with tempfile.TemporaryDirectory() as folder, atomic_path(out) as temporary:
        write_model(colmap_model(scene), Path(folder))
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(Path(folder).glob("*.bin")):
                archive.write(file, f"sparse/0/{file.name}")


# Pictures -------------------------------------------------------------------------------------------------------


def picture_camera(window: Camera, width: str) -> Camera:
    """Returns the camera of a browser's window at a chosen size; its long side is at most `LARGEST_PICTURE_PX`."""
    wanted = PICTURE_WIDTHS.get(width, 1.0)
    factor = wanted if wanted <= 16 else wanted / window.width
    factor = min(factor, LARGEST_PICTURE_PX / max(window.width, window.height))
    return window.resized(max(1, round(window.width * factor)), max(1, round(window.height * factor)))


def picture_work(viewer: Viewer, window: Camera, options: PictureOptions) -> Work:
    """Returns the work of rendering what a browser sees to a PNG."""
    camera = picture_camera(window, options.width)
    show = PICTURE_SHOWS.get(options.show, "rgb")
    background = viewer.exact.background

    def work(job: Job, out: Path) -> str:
        from PIL import Image

        renderer = edited_renderer(viewer)
        if renderer is None:
            raise ReconError("exporting a picture", "there is nothing that our renderer can show", "splats or a run")
        with job.stage("Rendering"):
            pixels = render_picture(renderer, camera, show, None if options.transparent else background)
        job.check()
        with job.stage("Writing the picture"), atomic_path(out) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG", compress_level=4)
        return f"{camera.width}×{camera.height} pixels"

    return work


def render_picture(renderer: Any, camera: Camera, show: str, background: tuple[float, float, float] | None) -> Any:
    """Returns a picture [H, W, 3] uint8, or [H, W, 4] with straight (not premultiplied) alpha for no background."""
    from recon.film.writing import color_picture, depth_picture, normal_picture

    black = (0.0, 0.0, 0.0)
    output = renderer.render(camera, RenderOptions(background or black, depth=show == "depth", normal=show == "normal"))
    if show == "depth":
        depth = output.depth if output.depth is not None else output.median_depth
        if depth is None:
            raise ReconError("rendering depth", "the renderer gives none", "a method with depth")
        solid = depth[output.alpha > 0.5].cpu().numpy()
        near, far = np.quantile(solid, [0.01, 0.98]).tolist() if len(solid) else (1.0, 2.0)
        pixels = depth_picture(output, (near, max(far, near * 1.01)))
    elif show == "normal":
        pixels = normal_picture(output)
    elif background is None:
        straight = output.rgb / output.alpha.clamp(min=1e-4)[..., None]
        pixels = (straight.clamp(0, 1) * 255).round().byte().cpu().numpy()
    else:
        pixels = color_picture(output)
    if background is not None:
        return pixels
    alpha = (output.alpha.clamp(0, 1) * 255).round().byte().cpu().numpy()
    if show == "normal":
        # These were faded to black by their alpha, which the picture now carries itself.
        pixels = np.clip(pixels / np.maximum(alpha, 1)[..., None] * 255, 0, 255).astype(np.uint8)
    return np.concatenate([pixels, alpha[..., None]], axis=-1)


# The page -------------------------------------------------------------------------------------------------------


def page_work(viewer: Viewer, title: str, credits: str, film: KeyframedFilm | None) -> Work:
    """Returns the work of writing the shareable page, which plays the film where there is one."""

    def work(job: Job, out: Path) -> str:
        from recon.film.writing import color_picture
        from recon.viewers.share import SharedFilm, SharedScene, pack_splats, write_shared_page
        from recon.viewers.share.page import first_camera
        from recon.views import undistorted_camera

        splats, renderer = edited_splats(viewer), edited_renderer(viewer)
        if splats is None or renderer is None or not len(splats):
            raise ReconError("writing the page", "there are no splats", "a scene of splats whose edits leave some")
        scene = viewer.scene
        frames = sorted(scene.frames, key=lambda frame: frame.name) if scene is not None else []
        cameras = [(frame.name, undistorted_camera(frame.camera)) for frame in frames]
        with job.stage("Packing the splats"):
            packed = pack_splats(splats, [camera for _, camera in cameras])
        job.check()
        shared = SharedScene(
            packed,
            title,
            credits,
            cameras,
            SharedFilm(film.path(), film.loop) if film is not None and len(film.keyframes) > 1 else None,
            positions=splats.means[splats.opacities > 0.1].detach().cpu().double().numpy(),
        )
        with job.stage("Writing the page"):
            poster = renderer.render(first_camera(shared), RenderOptions((16 / 255, 18 / 255, 20 / 255)))
            write_shared_page(out, replace(shared, poster=color_picture(poster)))
        return f"{packed.count:,} splats in one file that opens anywhere"

    return work


def has_pages() -> bool:
    """Whether shareable pages can be written."""
    return find_spec("recon.viewers.share") is not None
