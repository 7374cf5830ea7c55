# SPDX-License-Identifier: Apache-2.0
"""Light on a set: lamps, a window and the sun through it, and what surfaces throw at one another.

Notation: E is irradiance, ρ albedo, L radiance.  A diffuse surface has L = ρ E / π.  For a light cell,
E = E_direct + mean over cosine-distributed directions of ρ' E' at the surface met there, which is iterated a few times
over the same rays (Goral et al. 1984, with ray-cast form factors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from recon.progress import Progress

if TYPE_CHECKING:
    import torch

    from recon.data.stage import Set, _Joined
    from recon.data.surfaces import Painted
    from recon.kernels.raycast.op import TriangleBvh

FloatArray = npt.NDArray[np.float64]
Triple = tuple[float, float, float]
OFFSET_M = 2e-3
BOUNCES = 4


@dataclass(frozen=True)
class LightSample:
    """One sample of a light for each of L points: direction times distance [L, 3], and irradiance if it is not hidden
    and meets the surface head-on [L, 3]."""

    towards: npt.NDArray[np.float32]
    strength: npt.NDArray[np.float32]


class Light(Protocol):
    """Something that shines."""

    @property
    def samples(self) -> int:
        """How many samples of it each point takes."""

    def sample(self, points: npt.NDArray[np.float32], spots: npt.NDArray[np.float32]) -> LightSample:
        """Draws one sample per point [L, 3]; `spots` [L, 2] in 0..1 say where on the light."""

    def seen_from(self) -> FloatArray | None:
        """Returns the position [3] from which it makes highlights; None if it makes none."""


@dataclass(frozen=True)
class RectangleLight:
    """A window: it shines to the side of edge_a × edge_b with one radiance."""

    corner: Triple
    edge_a: Triple
    edge_b: Triple
    radiance: Triple
    samples: int = 16

    def sample(self, points: npt.NDArray[np.float32], spots: npt.NDArray[np.float32]) -> LightSample:
        a, b = np.array(self.edge_a, np.float32), np.array(self.edge_b, np.float32)
        area_normal = np.cross(a, b)
        on_light = np.array(self.corner, np.float32) + spots[:, :1] * a + spots[:, 1:] * b
        towards = on_light - points
        squared = np.maximum((towards**2).sum(1), 1e-3)
        facing = np.maximum(-(towards @ area_normal), 0) / np.sqrt(squared) / squared
        return LightSample(towards, facing[:, None] * np.array(self.radiance, np.float32))

    def seen_from(self) -> FloatArray | None:
        return np.array(self.corner) + 0.5 * np.array(self.edge_a) + 0.5 * np.array(self.edge_b)


@dataclass(frozen=True)
class SphereLight:
    """A lamp."""

    center: Triple
    radius: float
    radiance: Triple
    samples: int = 8

    def sample(self, points: npt.NDArray[np.float32], spots: npt.NDArray[np.float32]) -> LightSample:
        # A point on the sphere, uniformly; the disc that the sphere shows has the same mean.
        z = 2 * spots[:, :1] - 1
        ring = np.sqrt(np.maximum(1 - z * z, 0))
        angle = 2 * np.pi * spots[:, 1:]
        unit = np.concatenate([ring * np.cos(angle), ring * np.sin(angle), z], 1)
        center = np.array(self.center, np.float32)
        squared = np.maximum(((center - points) ** 2).sum(1, keepdims=True), 1e-3)
        towards = (center + 0.7 * self.radius * unit - points).astype(np.float32)
        strength = np.pi * self.radius**2 / squared * np.array(self.radiance, np.float32)
        return LightSample(towards, strength.astype(np.float32))

    def seen_from(self) -> FloatArray | None:
        return np.array(self.center)


@dataclass(frozen=True)
class Sun:
    """Parallel light that travels along `direction`, from a disc of `radius_rad`."""

    direction: Triple
    radius_rad: float
    irradiance: Triple
    samples: int = 12

    def sample(self, points: npt.NDArray[np.float32], spots: npt.NDArray[np.float32]) -> LightSample:
        back = -np.array(self.direction) / np.linalg.norm(self.direction)
        side = np.cross(back, [0.0, 0.0, 1.0])
        side /= np.linalg.norm(side)
        other = np.cross(back, side)
        radius = self.radius_rad * np.sqrt(spots[:, :1])
        angle = 2 * np.pi * spots[:, 1:]
        towards = 20.0 * (back + radius * (np.cos(angle) * side + np.sin(angle) * other))
        strength = np.broadcast_to(np.array(self.irradiance, np.float32), points.shape)
        return LightSample(towards.astype(np.float32), strength)

    def seen_from(self) -> FloatArray | None:
        return None


def irradiance(
    scene: Set,
    joined: _Joined,
    painted: Sequence[Painted],
    rng: np.random.Generator,
    samples: int,
    progress: Progress,
) -> npt.NDArray[np.float32]:
    """Returns the irradiance [L, 3] at the light points of all surfaces, in their order."""
    import torch

    from recon.kernels.raycast.op import build_bvh

    # What glows lets light through: its own light is sampled by the lights that stand for it.
    solid = np.flatnonzero(~joined.glows)
    bvh = build_bvh(
        torch.from_numpy(joined.vertices.astype(np.float32)),
        torch.from_numpy(joined.triangles[solid].astype(np.int32)),
    )
    pairs = [surface.light_points() for surface in scene.surfaces]
    normals = np.concatenate([normal for _, normal in pairs]).astype(np.float32)
    points = np.concatenate([point for point, _ in pairs]).astype(np.float32) + np.float32(OFFSET_M) * normals
    albedo = np.concatenate([paint.cells for paint in painted])
    total = sum(light.samples for light in scene.lights) + samples
    with progress.stage("lighting the set", total, "rays per point") as stage:
        direct = np.zeros_like(points)
        for light in scene.lights:
            direct += _direct(light, bvh, points, normals, rng)
            stage.advance(light.samples)
        met = torch.from_numpy(np.empty((samples, len(points)), np.int32))
        for k in range(samples):
            met[k] = _met(joined, solid, bvh, points, _cosine_directions(normals, k, samples, rng))
            stage.advance()
    return _bounce(direct, albedo, met, np.array(scene.ambient, np.float32))


def _direct(
    light: Light, bvh: TriangleBvh, points: npt.NDArray, normals: npt.NDArray, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    import torch

    from recon.kernels.raycast.op import cast_rays

    total = np.zeros_like(points)
    shift = rng.random((len(points), 2), dtype=np.float32)
    for k in range(light.samples):
        spots = (_plastic(k) + shift) % 1.0
        drawn = light.sample(points, spots.astype(np.float32))
        cosine = np.maximum((drawn.towards * normals).sum(1), 0) / np.linalg.norm(drawn.towards, axis=1)
        lit = np.flatnonzero(cosine > 0)
        origins, towards = torch.from_numpy(points[lit]), torch.from_numpy(drawn.towards[lit])
        hits = cast_rays(bvh, origins, towards, 0.0, 1.0, any_hit=True)
        seen = lit[hits.triangles.numpy() < 0]
        total[seen] += drawn.strength[seen] * cosine[seen, None]
    return (total / light.samples).astype(np.float32)


def _plastic(k: int) -> npt.NDArray[np.float32]:
    """The k-th point of a low-discrepancy sequence in the unit square (Roberts 2018, R2)."""
    return np.array([0.7548776662 * (k + 1) % 1.0, 0.5698402909 * (k + 1) % 1.0], np.float32)


def _cosine_directions(normals: npt.NDArray, k: int, samples: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """One cosine-distributed direction per normal, from the k-th of `samples` rings and turns."""
    count = len(normals)
    height = (k + rng.random(count, dtype=np.float32)) / samples
    angle = 2 * np.pi * ((0.6180339887 * k + 0.25 * rng.random(count, dtype=np.float32)) % 1.0)
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    side = np.cross(helper, normals)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(normals, side)
    radius = np.sqrt(height)[:, None]
    flat = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    return (radius * flat + np.sqrt(1 - height)[:, None] * normals).astype(np.float32)


def _met(
    joined: _Joined, solid: npt.NDArray, bvh: TriangleBvh, points: npt.NDArray, directions: npt.NDArray
) -> torch.Tensor:
    """Returns the light cell [L] that each ray meets first, -1 for none."""
    import torch

    from recon.kernels.raycast.op import cast_rays

    hits = cast_rays(bvh, torch.from_numpy(points), torch.from_numpy(directions))
    found = hits.triangles.numpy()
    triangle = solid[np.maximum(found, 0)]
    second, third = hits.barycentrics.numpy().T
    corners, part = joined.parts.light[triangle], joined.parts
    weights = np.stack([1 - second - third, second, third], -1)
    column, row = (corners * weights[..., None]).sum(1).T
    columns, rows = part.light_columns[triangle], part.light_rows[triangle]
    column = np.clip(column.astype(np.int64), 0, columns - 1)
    row = np.clip(row.astype(np.int64), 0, rows - 1)
    cell = part.light_first[triangle] + row * columns + column
    return torch.from_numpy(np.where(found < 0, -1, cell).astype(np.int32))


def _bounce(
    direct: npt.NDArray[np.float32], albedo: npt.NDArray[np.float32], met: torch.Tensor, ambient: npt.NDArray
) -> npt.NDArray[np.float32]:
    """Iterates E = direct + mean of ρ E over the cells met, with π × ambient where nothing was met."""
    import torch

    samples = met.shape[0]
    # One row more at the end stands for the surroundings.
    thrown = np.concatenate([direct * albedo, np.pi * ambient[None].astype(np.float32)])
    light = direct
    for _ in range(BOUNCES):
        source = torch.from_numpy(thrown)
        gathered = torch.zeros((len(direct), 3))
        for k in range(samples):
            cells = met[k].long()
            gathered += source[torch.where(cells < 0, len(direct), cells)]
        light = direct + (gathered / samples).numpy()
        thrown[:-1] = light * albedo
    return light.astype(np.float32)
