# SPDX-License-Identifier: Apache-2.0
"""What is measured on: random splats that resemble trained ones, and the user's own.

Random splats lie in front of one camera, spread evenly over its picture and evenly in the logarithm of the depth from
2 to 20.  Their three standard deviations are log-normal with a spread of 0.6 around a size of their own, itself
log-normal with 0.7 between Gaussians, which makes needles and discs of all sizes, and their opacity logits are normal
around −1 with 1.5.  In memory they follow a Z-curve, as a trainer keeps them.  The size of all is then scaled until a
pixel blends about 50 of them, which is what trained scenes do.  Everything follows from the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.binning.op import bin_tiles
from recon.kernels.blend.op import PairCounts, count_pairs
from recon.kernels.projection.op import ProjectionOptions, project
from recon.splats import SH_C0, Splats

if TYPE_CHECKING:
    from recon.scene import Scene

BLENDED_PER_PIXEL = 50.0
"""How many Gaussians a pixel of a random scene blends."""

_NEAREST, _FARTHEST = 2.0, 20.0
_TRIALS = 8
_CLOSE_ENOUGH = 0.03
_SIZE_GUESS = 0.28


@dataclass(frozen=True, eq=False)
class BenchScene:
    """Splats and a camera that looks at them.

    Attributes:
        name: for the table.
        splats: float32 on the CPU, contiguous.
        camera: PINHOLE.
        pairs: how much work the picture is.
    """

    name: str
    splats: Splats
    camera: Camera
    pairs: PairCounts

    @property
    def pose(self) -> torch.Tensor:
        """[4, 4] float32 cam_from_world."""
        return torch.tensor(self.camera.cam_from_world, dtype=torch.float32)

    @property
    def blended_per_pixel(self) -> float:
        return self.pairs.blended / (self.camera.width * self.camera.height)


def picture_size(gaussians: int) -> tuple[int, int]:
    """Returns the picture that suits a number of Gaussians: a small photograph, a larger one, a megapixel."""
    return (480, 270) if gaussians <= 60_000 else (960, 540) if gaussians <= 300_000 else (1184, 888)


def random_scene(
    gaussians: int, size: tuple[int, int], sh_degree: int = 3, seed: int = 0, blended: float = BLENDED_PER_PIXEL
) -> BenchScene:
    """Returns a random scene.

    Args:
        gaussians: how many.
        size: width and height of the picture.
        sh_degree: 0 to 3.
        seed: of everything random.
        blended: how many Gaussians a pixel should blend on average; where nearer ones hide the rest, fewer.
    """
    width, height = size
    camera = Camera(width, height, 0.9 * width, 0.9 * width, width / 2, height / 2)
    splats = _random_splats(gaussians, camera, sh_degree, seed)
    low, high, shift = -8.0, 8.0, 0.0
    pairs = _pairs(splats, camera)
    for _ in range(_TRIALS):
        ratio = pairs.blended / (blended * width * height)
        if abs(ratio - 1) < _CLOSE_ENOUGH:
            break
        low, high = (shift, high) if ratio < 1 else (low, shift)
        # The area covered, and so what is blended, grows with the square of the size, as long as nothing is hidden.
        guess = shift - 0.5 * math.log(max(ratio, 1e-6))
        guess = guess if low < guess < high else (low + high) / 2
        splats.log_scales.add_(guess - shift)
        shift = guess
        pairs = _pairs(splats, camera)
    return BenchScene(f"random {gaussians}", splats, camera, pairs)


def _random_splats(count: int, camera: Camera, sh_degree: int, seed: int) -> Splats:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def normal(mean: float, spread: float, *shape: int) -> torch.Tensor:
        return mean + spread * torch.randn(*shape, generator=generator)

    # A tenth beyond the border on each side, so that the border has neighbours as in a photograph.
    u, v = uniform(-0.1, 1.1, count) * camera.width, uniform(-0.1, 1.1, count) * camera.height
    depths = torch.exp(uniform(math.log(_NEAREST), math.log(_FARTHEST), count))
    order = _along_a_curve(torch.stack([u / camera.width, v / camera.height, torch.log(depths / _NEAREST)], 1))
    u, v, depths = u[order], v[order], depths[order]
    means = torch.stack([(u - camera.cx) / camera.fx * depths, (v - camera.cy) / camera.fy * depths, depths], 1)
    # Discs of one standard deviation that cover the picture `BLENDED_PER_PIXEL` times, less what usually comes out.
    sigma_px = _SIZE_GUESS * math.sqrt(BLENDED_PER_PIXEL * camera.width * camera.height / (count * 2 * math.pi))
    sizes = torch.log(depths * sigma_px / camera.fx) + normal(0.0, 0.7, count)
    log_scales = sizes[:, None] + normal(0.0, 0.6, count, 3)
    sh = normal(0.0, 0.05, count, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = uniform(-0.5, 0.5, count, 3) / SH_C0
    return Splats(means.contiguous(), normal(0.0, 1.0, count, 4), log_scales, normal(-1.0, 1.5, count), sh)


def _along_a_curve(places: torch.Tensor) -> torch.Tensor:
    """Returns the order of places [N, 3] along a Z-curve: a trainer's neighbours in space are neighbours in memory."""
    low, high = places.amin(0), places.amax(0)
    cells = ((places - low) / (high - low).clamp(min=1e-12) * 1023).long()
    code = torch.zeros(len(places), dtype=torch.long)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return torch.argsort(code, stable=True)


def _pairs(splats: Splats, camera: Camera) -> PairCounts:
    pose = torch.tensor(camera.cam_from_world, dtype=torch.float32)
    with torch.no_grad():
        options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=0)
        projected = project(splats, pose, camera, options, "cpu")
        tiles = bin_tiles(projected, camera.width, camera.height, backend="cpu")
        return count_pairs(projected, projected.colors, tiles, camera.width, camera.height)


def scene_of_run(path: Path, size: tuple[int, int] | None = None) -> BenchScene:
    """Returns the splats of a trained run and the middle one of its training cameras, at training resolution.

    Args:
        path: the run's folder, or what `recon run` wrote around it.
        size: another size of the picture.

    Raises:
        ReconError: not a run, or one without splats.
    """
    from recon.methods import load_run

    run = load_run(path / "run" if (path / "run" / "config.json").is_file() else path)
    splats = run.splats
    if splats is None:
        raise ReconError(
            f"opening the run {path}",
            f"the method {run.method.name} makes no splats",
            "a run of splats",
            "recon bench render measures any run",
        )
    camera = middle_camera(run.scene, run.long_side)
    if size is not None:
        camera = fitted_camera(camera, size)
    splats = splats.detach().to("cpu")
    name = path.resolve().name if path.resolve().name != "run" else path.resolve().parent.name
    return BenchScene(name, splats, camera, _pairs(splats, camera))


def scene_of_ply(path: Path, size: tuple[int, int]) -> BenchScene:
    """Returns the splats of a file, seen from outside: the middle four fifths of them fill the picture's height."""
    from recon.cameras import look_at
    from recon.formats.splat_files import read_splats

    splats = read_splats(path)
    if not len(splats):
        raise ReconError(f"measuring {path}", "it holds no splats", "at least one")
    points = splats.means.double().numpy()
    low, middle, high = np.nanpercentile(points, [10, 50, 90], axis=0)
    extent = max(float(np.linalg.norm(high - low)), 1e-6)
    eye = middle + np.array([0.0, -1.0, 0.3]) * extent
    focal = float(size[1])
    camera = Camera(*size, focal, focal, size[0] / 2, size[1] / 2)
    camera = camera.with_pose(look_at(eye, middle, np.array([0.0, 0.0, 1.0])))
    return BenchScene(path.stem, splats, camera, _pairs(splats, camera))


def middle_camera(scene: Scene, long_side: int | None) -> Camera:
    """Returns the undistorted camera of the middle frame by name, fitted to the resolution."""
    from recon.views import undistorted_camera

    frames = sorted(scene.frames, key=lambda frame: frame.name)
    camera = undistorted_camera(frames[len(frames) // 2].camera)
    return camera.fitted(long_side) if long_side else camera


def fitted_camera(camera: Camera, size: tuple[int, int]) -> Camera:
    """Returns a camera of another size in the same place whose picture shows all of what the first one's shows."""
    width, height = size
    focal = min(width / camera.width * camera.fx, height / camera.height * camera.fy)
    return Camera(width, height, focal, focal, width / 2, height / 2, cam_from_world=camera.cam_from_world)
