# SPDX-License-Identifier: Apache-2.0
"""Write a page that anybody can open: one HTML file with the scene and its own renderer, no server, no network.

The page shows what was trained, with the run's edits.  It has the photographs' views to fly to, and, where they are
given, a camera path (--path, the JSON of `recon render`) and annotations (--annotations).  Large scenes: --dir writes a
folder for a web server, whose page fetches the parts that are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import size
from recon.errors import ReconError
from recon.progress import Progress

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.scene import Scene
    from recon.splats import Splats
    from recon.viewers.share import SharedFilm, SharedScene


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon share`."""

    source: tyro.conf.Positional[Path]
    """A run, the output folder of `recon run`, or a splat file of any format."""
    out: Path | None = None
    """The page to write (.html)."""
    dir: Path | None = None
    """Instead of one file, a folder for a web server: index.html and parts that it fetches as needed."""
    title: str | None = None
    """Heading; by default the name of the source."""
    credits: str = ""
    """A line or more below the heading: who made it, of what, when."""
    path: str | None = None
    """A film to play: a JSON file with keyframes, orbit, or train (along the photographs)."""
    annotations: Path | None = None
    """A JSON file with points and their texts; recon/viewers/share/annotations.py shows one."""
    background: str = "trained"
    """trained (what the run was trained on, else black), theme (dark or light as the page), or a colour: #rrggbb."""
    splats_budget: int | None = None
    """The most splats to keep; the least visible ones are left out."""
    sh_degree: int | None = None
    """Keep spherical harmonics up to this degree, 0 to 3; by default all."""
    views: bool = True
    """Whether the page offers the photographs' views, with the names of their files."""
    edits: bool = True
    """Whether the run's edits apply."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Packs the splats and writes the page."""
    from recon.viewers.share import write_shared_folder, write_shared_page

    _check(options)
    scene = _scene(options, progress)
    with progress.stage("Writing the page"):
        if options.dir is not None:
            written, page = write_shared_folder(options.dir, scene), options.dir / "index.html"
        else:
            assert options.out is not None
            written, page = write_shared_page(options.out, scene), options.out
    packed = scene.splats
    per_splat = packed.size_bytes / max(packed.count, 1)
    mode = "anti-aliased (Mip)" if packed.antialiased else "classic"
    rows = [
        ("Page", f"{page} ({size(written)})"),
        ("Splats", f"{packed.count:,}, spherical harmonics of degree {packed.degree}, {mode}"),
        ("Packed", f"{per_splat:.1f} bytes a splat"),
    ]
    rows += [("Left out", f"the {packed.left_out:,} least visible splats")] if packed.left_out else []
    return Outcome(
        report={
            "path": page,
            "bytes": written,
            "splats": packed.count,
            "left_out": packed.left_out,
            "sh_degree": packed.degree,
            "bytes_per_splat": per_splat,
            "views": len(scene.cameras) if scene.offers_views else 0,
            "annotations": len(scene.annotations),
            "film": scene.film is not None,
        },
        title="Page",
        rows=rows,
        lines=[] if options.dir is None else [f"Put {options.dir} on any web server and open index.html there."],
    )


def _check(options: Options) -> None:
    doing = f"sharing {options.source}"
    if (options.out is None) == (options.dir is None):
        raise ReconError(doing, "both or neither of --out and --dir are given", "one", "give --out page.html")
    if options.out is not None and options.out.suffix.lower() not in (".html", ".htm"):
        raise ReconError(doing, f"the output is {options.out.name}", "a name that ends in .html")
    folder = options.dir
    if folder is not None and folder.exists() and (folder.is_file() or _is_foreign(folder)):
        raise ReconError(doing, f"{folder} holds something else", "an empty folder, or one that recon share wrote")
    if options.splats_budget is not None and options.splats_budget < 1:
        raise ReconError(doing, f"the budget is {options.splats_budget} splats", "at least 1")
    if options.sh_degree is not None and not 0 <= options.sh_degree <= 3:
        raise ReconError(doing, f"the degree is {options.sh_degree}", "0 to 3")


def _is_foreign(folder: Path) -> bool:
    return bool({entry.name for entry in folder.iterdir()} - {"index.html", "splats"})


def _scene(options: Options, progress: Progress) -> SharedScene:
    from dataclasses import replace

    from recon.viewers.share import SharedScene, pack_splats, read_annotations
    from recon.viewers.share.page import first_camera
    from recon.views import undistorted_camera

    annotations = read_annotations(options.annotations) if options.annotations else ()
    splats, scene = _loaded(options, progress)
    if options.sh_degree is not None and options.sh_degree < splats.sh_degree:
        splats = replace(splats, sh=splats.sh[:, : (options.sh_degree + 1) ** 2].contiguous())
    frames = sorted(scene.frames, key=lambda frame: frame.name) if scene is not None else []
    cameras = [(frame.name, undistorted_camera(frame.camera)) for frame in frames]
    with progress.stage("Packing the splats"):
        packed = pack_splats(splats, [camera for _, camera in cameras], options.splats_budget, options.dir is not None)
    if not packed.count:
        raise ReconError(f"sharing {options.source}", "there is no splat to be seen in it", "at least one")
    shared = SharedScene(
        packed,
        options.title if options.title is not None else options.source.resolve().stem,
        options.credits,
        cameras,
        _film(options, [camera for _, camera in cameras]),
        annotations,
        _background(options),
        positions=splats.means[splats.opacities > 0.1].double().numpy(),
        offers_views=options.views,
    )
    poster = _poster(splats, first_camera(shared), shared.background or (16 / 255, 18 / 255, 20 / 255))
    return replace(shared, poster=poster)


def _loaded(options: Options, progress: Progress) -> tuple[Splats, Scene | None]:
    """Returns the splats as edited, and the scene that they were trained on where that is at hand."""
    from recon.cli.edited import load_edited_run, load_edited_splats, no_splats
    from recon.formats.splat_files import is_splat_file

    if options.source.is_file() or is_splat_file(options.source):
        return load_edited_splats(options.source, options.edits, progress), None
    run = load_edited_run(options.source, options.edits, progress)
    if run.splats is None:
        raise no_splats(f"sharing {options.source}", run)
    try:
        return run.splats, run.scene
    except ReconError:
        progress.log("The run's scene is gone: the page has no photographs' views.")
        return run.splats, None


def _film(options: Options, cameras: list[Camera]) -> SharedFilm | None:
    from recon.film import PathOptions, load_path
    from recon.film.keyframes import read_film
    from recon.viewers.share import SharedFilm

    if options.path is None:
        return None
    if options.path in ("orbit", "train"):
        return SharedFilm(load_path(options.path, cameras, PathOptions()), loop=options.path == "orbit")
    film = read_film(Path(options.path), lens=cameras[0] if cameras else None)
    return SharedFilm(film.path(), loop=film.loop)


def _background(options: Options) -> tuple[float, float, float] | None:
    """Returns the colour behind everything, None for the theme's."""
    import json
    import re

    named = {"theme": None, "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
    text = options.background.lower()
    if text in named:
        return named[text]
    if re.fullmatch(r"#[0-9a-f]{6}", text):
        return tuple(int(text[at : at + 2], 16) / 255 for at in (1, 3, 5))  # type: ignore[return-value]
    if text != "trained":
        raise ReconError(
            f"sharing {options.source}", f"the background is {options.background}", "trained, theme or #rrggbb"
        )
    for folder in (options.source / "run", options.source):
        try:
            config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return named.get(config["config"]["background"]) or (0.0, 0.0, 0.0)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return (0.0, 0.0, 0.0)


def _poster(splats: Splats, camera: Camera, background: tuple[float, float, float]) -> Any:
    from recon.film.writing import color_picture
    from recon.rasterization import SplatRenderer
    from recon.render import RenderOptions

    return color_picture(SplatRenderer(splats).render(camera, RenderOptions(background=background)))
