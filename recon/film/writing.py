# SPDX-License-Identifier: Apache-2.0
"""Rendering a camera path into an .mp4 or into a folder of PNG pictures.

The film appears under its name only when it is whole; an interruption leaves whatever stood there before.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.files import TEMPORARY_MARK, atomic_directory, atomic_path, raise_for_os_error
from recon.film.colormap import colorize
from recon.film.paths import CameraPath
from recon.progress import SILENT, Progress
from recon.render import Renderer, RenderOptions, RenderOutput

Picture = npt.NDArray[np.uint8]

ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox")
"""H.264 encoders that wheels of PyAV come with, best first."""

LEFTOVER_S = 300.0
"""A film that is being written grows more often than this."""

_FRAME_NAME = re.compile(r"frame_\d{5}\.png")


@dataclass(frozen=True)
class FilmOptions:
    """What to show.

    Attributes:
        channel: "rgb", "depth" (near is red, far is blue, one scale for the whole film) or "normal" (world normals,
            (n + 1) / 2).
        background: colour behind everything, RGB in 0..1.
        quality: constant rate factor of H.264, 0 (lossless) to 51; 18 is hard to tell from the original.
    """

    channel: Literal["rgb", "depth", "normal"] = "rgb"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quality: int = 18

    def __post_init__(self) -> None:
        if self.channel not in ("rgb", "depth", "normal"):
            raise ReconError("planning a film", f"its channel is {self.channel!r}", "rgb, depth or normal")
        if not 0 <= self.quality <= 51:
            raise ReconError("planning a film", f"its quality is {self.quality}", "0 to 51")


@dataclass(frozen=True)
class FilmReport:
    """What was written: the file or folder, its frames, their size, the encoder and the time that it took."""

    path: Path
    frames: int
    width: int
    height: int
    fps: float
    encoder: str
    seconds: float


def render_film(
    renderer: Renderer,
    path: CameraPath,
    out: Path,
    options: FilmOptions = FilmOptions(),
    progress: Progress = SILENT,
) -> FilmReport:
    """Renders a path to `out`: a video where it ends in .mp4, a folder of frame_00000.png ... where it has no suffix.

    Args:
        renderer: what is filmed.
        path: F cameras of one size.
        out: the file or the folder.
        options: what to show.
        progress: hears of each frame.

    Raises:
        ReconError: no frames, another suffix, no H.264 encoder, or a place that cannot be written.
    """
    out = Path(out)
    started = time.perf_counter()
    if not path.cameras:
        raise ReconError(f"filming {out}", "the camera path is empty", "at least one camera")
    first = path.cameras[0]
    is_video = out.suffix.lower() == ".mp4"
    if not is_video and out.suffix:
        raise ReconError(f"filming {out}", f"its suffix is {out.suffix}", ".mp4, or no suffix for a folder of pictures")
    depth_range = _depth_range(renderer, path.cameras) if options.channel == "depth" else (0.0, 1.0)
    encoder = _encoder(out) if is_video else "png"
    width, height = first.width, first.height
    if is_video:
        # H.264 with subsampled colour has even sides only.
        width, height = width - width % 2, height - height % 2
        if min(width, height) < 2:
            raise ReconError(f"filming {out}", f"its size is {first.width}×{first.height}", "at least 2×2 pixels")
    opened = _video(out, encoder, width, height, path.fps, options.quality) if is_video else _pictures(out)
    with opened as write, progress.stage(f"Rendering {out.name}", len(path.cameras), "frames") as stage:
        for index, camera in enumerate(path.cameras):
            picture = _picture(renderer, camera, options, depth_range)
            write(index, picture[:height, :width])
            stage.advance()
    seconds = time.perf_counter() - started
    return FilmReport(out, len(path.cameras), width, height, path.fps, encoder, seconds)


def _picture(renderer: Renderer, camera: Camera, options: FilmOptions, depth_range: tuple[float, float]) -> Picture:
    """Renders one frame as [H, W, 3] uint8."""
    output = renderer.render(
        camera,
        RenderOptions(
            background=options.background, depth=options.channel == "depth", normal=options.channel == "normal"
        ),
    )
    if options.channel == "depth":
        return depth_picture(output, depth_range)
    if options.channel == "normal":
        return normal_picture(output)
    return color_picture(output)


def color_picture(output: RenderOutput) -> Picture:
    """Returns the colours as [H, W, 3] uint8."""
    rgb: Picture = (output.rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return rgb


def depth_picture(output: RenderOutput, depth_range: tuple[float, float]) -> Picture:
    """Returns the depth as [H, W, 3] uint8: even steps of 1/depth, near red, far blue, nothing black."""
    depth, solid = _depth(output)
    near, far = depth_range
    with np.errstate(divide="ignore", invalid="ignore"):
        nearness = (1 / depth - 1 / far) / (1 / near - 1 / far)
    return colorize(nearness, solid)


def normal_picture(output: RenderOutput) -> Picture:
    """Returns the world normals as [H, W, 3] uint8, (n + 1) / 2, fading to black with alpha."""
    if output.normal is None:
        raise ReconError("filming normals", "the renderer gives none", "a method with normals", "film rgb or depth")
    shown = (output.normal * 0.5 + 0.5) * output.alpha[..., None]
    normals: Picture = (shown.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return normals


def _depth(output: RenderOutput) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Returns the depth [H, W] and where there is something to have one."""
    chosen = output.depth if output.depth is not None else output.median_depth
    if chosen is None:
        raise ReconError("filming depth", "the renderer gives none", "a method with depth", "film rgb instead")
    depth = chosen.float().cpu().numpy()
    return depth, (output.alpha.cpu().numpy() > 0.5) & (depth > 0)


def _depth_range(renderer: Renderer, cameras: Sequence[Camera]) -> tuple[float, float]:
    """Returns near and far of the whole film without its outliers, from a few small frames spread over it."""
    found = []
    for index in np.unique(np.linspace(0, len(cameras) - 1, 24).round().astype(int)):
        depth, solid = _depth(renderer.render(cameras[index].fitted(256), RenderOptions(depth=True)))
        found.append(depth[solid])
    depths = np.concatenate(found)
    if not len(depths):
        return 1.0, 2.0
    near, far = np.percentile(depths, [1, 98]).tolist()
    return near, max(far, near * 1.01)


# Containers -----------------------------------------------------------------------------------------------------


def _encoder(out: Path) -> str:
    import av

    for name in ENCODERS:
        if name in av.codecs_available:
            try:
                av.codec.Codec(name, "w")
            except (ValueError, av.error.FFmpegError):
                continue
            return name
    raise ReconError(
        f"filming {out}",
        f"PyAV {av.__version__} has no H.264 encoder",
        f"one of {', '.join(ENCODERS)}",
        "give a folder instead of an .mp4, or: pip install --force-reinstall av",
    )


@contextmanager
def _video(
    out: Path, encoder: str, width: int, height: int, fps: float, quality: int
) -> Iterator[Callable[[int, Picture], None]]:
    """Opens an .mp4 that takes its name when the block ends well; yields the function that takes frames."""
    import av
    from av.video.reformatter import Colorspace, Interpolation

    _remove_leftovers(out)
    with atomic_path(out) as temporary:
        container = av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"})
        try:
            stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(100_000))
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # Players take untagged video for BT.601 or BT.709 by its size; frames are BT.709 here and say so.
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
            if encoder == "libx264":
                stream.options = {"crf": str(quality), "preset": "medium"}
            else:
                stream.bit_rate = int(width * height * fps * 0.2)

            def write(index: int, picture: Picture) -> None:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                converted = frame.reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=Interpolation.AREA
                )
                container.mux(stream.encode(converted))

            yield write
            container.mux(stream.encode(None))
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise_for_os_error(f"writing {out}", error)
            raise ReconError(f"encoding {out}", str(error), "an encoder that takes the frames") from error
        finally:
            container.close()


def _remove_leftovers(out: Path) -> None:
    """Deletes what a killed process left of this very film; what was written to lately may be another one's."""
    for leftover in out.parent.glob(f"{TEMPORARY_MARK}*-{glob.escape(out.name)}"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
                leftover.unlink()


@contextmanager
def _pictures(out: Path) -> Iterator[Callable[[int, Picture], None]]:
    """Opens a folder that takes its name when the block ends well; yields the function that takes frames."""
    from PIL import Image

    if out.exists():
        others = [] if out.is_dir() else [out.name]
        if out.is_dir():
            others = [entry.name for entry in out.iterdir() if not _FRAME_NAME.fullmatch(entry.name)]
        if others:
            # The folder is replaced as a whole, so it must not hold anything but an earlier film.
            raise ReconError(
                f"filming {out}",
                f"it holds other files ({', '.join(sorted(others)[:3])})",
                "a new folder, or one with frames only",
                "choose another --out",
            )
    with atomic_directory(out) as temporary:

        def write(index: int, picture: Picture) -> None:
            Image.fromarray(picture).save(temporary / f"frame_{index:05d}.png", compress_level=3)

        yield write
