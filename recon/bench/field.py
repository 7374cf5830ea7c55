# SPDX-License-Identifier: Apache-2.0
"""The kernels of a NeRF's training step on a made-up batch, run one after the other as a trainer does, each timed on
its own, and the same in plain torch.

The batch: rays from cameras around a lumpy ball, of which the occupancy grid holds a shell as a trained one does, so
that rays have very different numbers of samples and some none.  The networks are random; the shift of the density is
chosen so that light reaches `_REACHED` of the samples, as behind surfaces that are found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from recon.bench.results import Samples
from recon.kernels.adam.op import AdamHyper
from recon.kernels.composite.op import (
    CompositeGradients,
    CompositeOptions,
    composite,
    composite_backward_into,
    composite_into,
    truncate_into,
)
from recon.kernels.composite.reference import truncate_reference
from recon.kernels.hash_encoding.op import HashGrid, hash_encode, hash_encode_backward_into, hash_encode_into
from recon.kernels.mlp.op import RowBias, mlp, mlp_backward_into, mlp_forward_into
from recon.kernels.mlp.types import MlpShape
from recon.kernels.occupancy.op import OccupancyGrid, update_occupancy
from recon.kernels.ray_march.op import MarchOptions, RaySamples, Space, march, march_into
from recon.kernels.table_adam.op import table_adam_step
from recon.kernels.workspace import Workspace

_REPEATS = 3
_REACHED = 0.7
_MIN_TRANSMITTANCE = 1e-3
_SIDE = 128
_CHANNELS = 3
_DENSITY, _COLOR = MlpShape(32, 16), MlpShape(16, 16, hidden_layers=2)


class FieldBatch:
    """Rays and a field, such that about so many samples are marched."""

    def __init__(self, samples: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.space = Space((0.0, 0.0, 0.0), 1.0, False)
        self.march = MarchOptions(step=2 * 3**0.5 / 1024, near=0.05)
        self.occupancy = _shell(generator)
        self.grid = HashGrid()
        self.table = 0.1 * torch.randn((self.grid.rows, self.grid.features), generator=generator)
        self.density = _weights(_DENSITY, generator)
        self.color = _weights(_COLOR, generator)
        rays = max(1, samples // 8)
        self._make_rays(rays, generator)
        found = self.marched()
        # The number of samples is what counts; the rays follow.
        self._make_rays(max(1, round(rays * samples / max(1, len(found.distances)))), generator)
        self.options = CompositeOptions(self._shift(), 1.0, 0.2)

    def _make_rays(self, rays: int, generator: torch.Generator) -> None:
        origins = torch.nn.functional.normalize(torch.randn((rays, 3), generator=generator), dim=1) * 3
        targets = 0.5 * torch.randn((rays, 3), generator=generator)
        self.origins, self.directions = origins, torch.nn.functional.normalize(targets - origins, dim=1)
        self.jitter = torch.rand(rays, generator=generator)
        self.bias = 0.1 * torch.randn((rays, _COLOR.hidden), generator=generator)

    def marched(self, backend: Any = "auto") -> RaySamples:
        """Returns the samples of all rays."""
        rays = (self.origins, self.directions)
        return march(*rays, self.space, self.occupancy, self.march, self.jitter, backend=backend)

    def _shift(self) -> float:
        samples = self.marched()
        raw = mlp(hash_encode(samples.positions, self.table, self.grid), self.density, _DENSITY)
        low, high = -10.0, 12.0
        for _ in range(12):
            middle = (low + high) / 2
            kept, _ = truncate_reference(raw, samples, _MIN_TRANSMITTANCE, [], CompositeOptions(middle))
            low, high = (middle, high) if len(kept.distances) > _REACHED * len(raw) else (low, middle)
        return low


def _shell(generator: torch.Generator) -> OccupancyGrid:
    grid = OccupancyGrid.full(_SIDE)
    axis = (torch.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    lumps = 0.06 * (torch.sin(9 * x) + torch.sin(8 * y + 1) + torch.sin(7 * z + 2))
    distance = (x.square() + y.square() + z.square()).sqrt() - 0.6 - lumps
    occupied = (distance.abs() < 0.025) | (torch.rand(distance.shape, generator=generator) < 0.002)
    cells = torch.arange(grid.cells, dtype=torch.int32)
    update_occupancy(grid, cells, occupied.reshape(-1).float(), 0.5)
    return grid


def _weights(shape: MlpShape, generator: torch.Generator) -> torch.Tensor:
    parameters = torch.randn(shape.parameters, generator=generator)
    for matrix in shape.matrices(parameters):
        matrix *= (2 / matrix.shape[0]) ** 0.5
    return parameters


class FieldChain:
    """A batch with everything that a step needs, allocated once."""

    def __init__(self, batch: FieldBatch) -> None:
        self._batch, self._workspace = batch, Workspace()
        table = batch.table
        self._table, self._by_table = table.clone(), torch.zeros_like(table)
        self._moments = torch.zeros_like(table), torch.zeros_like(table)
        self.marched = self.kept = 0

    def run(self, samples: Mapping[str, Samples]) -> None:
        """Runs each stage once and adds its time to `samples`, which has an entry for each stage."""
        batch, space = self._batch, self._workspace

        def timed(name: str, work: Callable[[], Any]) -> Any:
            return samples[name].time(work)

        rays = (batch.origins, batch.directions)
        marched = timed(
            "march", lambda: march_into(*rays, batch.space, batch.occupancy, batch.march, space, batch.jitter)
        )
        encoded = timed("encode", lambda: hash_encode_into(marched.positions, self._table, batch.grid, space))
        raw = timed("density network", lambda: mlp_forward_into(encoded, batch.density, _DENSITY, space, "density"))
        kept, (encoded, raw) = timed(
            "truncate",
            lambda: truncate_into(raw, marched, _MIN_TRANSMITTANCE, [encoded, raw], batch.options, space),
        )
        bias = RowBias(batch.bias, kept.ray_of)
        color = timed("color network", lambda: mlp_forward_into(raw, batch.color, _COLOR, space, "color", bias))
        found = timed("composite", lambda: composite_into(raw, color, kept, _CHANNELS, batch.options, space))
        gradients = CompositeGradients(found.color, found.alpha, None, found.distortion)
        by_density = space.take("by density", (len(raw), 1)).zero_()
        by_color = timed(
            "composite backward",
            lambda: composite_backward_into(found, gradients, kept, batch.options, by_density, space),
        )
        by_raw = timed(
            "color network backward",
            lambda: mlp_backward_into(raw, batch.color, _COLOR, by_color, space, "color", bias).inputs,
        )
        by_raw[:, :1] += by_density
        by_encoded = timed(
            "density network backward",
            lambda: mlp_backward_into(encoded, batch.density, _DENSITY, by_raw, space, "density").inputs,
        )
        timed(
            "encode backward",
            lambda: hash_encode_backward_into(kept.positions, self._table, batch.grid, by_encoded, self._by_table),
        )
        hyper = AdamHyper(1e-9, 1000)
        timed("table adam", lambda: table_adam_step(self._table, self._by_table, *self._moments, hyper))
        self.marched, self.kept = len(marched.distances), len(kept.distances)

    def bytes_moved(self) -> dict[str, float]:
        """Returns the bytes that each stage has to read and write at least, after a run; each byte counted once.

        Features of the table are not counted where they are looked up, since most come from caches.
        """
        batch, rays = self._batch, len(self._batch.origins)
        marched, kept = 4.0 * self.marched, 4.0 * self.kept
        encoded, raw, color = _DENSITY.inputs, _DENSITY.outputs, _COLOR.outputs
        own = 6  # position, distance, length and ray of a sample
        return {
            "march": own * marched + 4.0 * 8 * rays,
            "encode": (3 + encoded) * marched,
            "density network": (encoded + raw) * marched,
            "truncate": 2 * marched + 2 * (own + encoded + raw) * kept,
            "color network": (raw + color) * kept + 4.0 * _COLOR.hidden * rays,
            "composite": (3 + _CHANNELS + 6 + _CHANNELS) * kept,
            "composite backward": (6 + _CHANNELS + 2 + color) * kept,
            "color network backward": (2 * raw + color) * kept + 8.0 * _COLOR.hidden * rays,
            "density network backward": (2 * encoded + raw) * kept,
            "encode backward": (3 + encoded) * kept,
            "table adam": 7 * 4.0 * batch.table.numel(),
        }


def reference_field_seconds(samples: int) -> dict[str, list[float]]:
    """Returns wall seconds of each stage in plain torch on the processor, by the names of the kernels' stages."""
    batch = FieldBatch(samples)
    found: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        found.setdefault(stage, []).append(time.perf_counter() - begun)
        return result

    for _ in range(_REPEATS):
        _reference_step(batch, timed)
    return found


def _reference_step(batch: FieldBatch, timed: Callable[[str, Callable[[], Any]], Any]) -> None:
    marched = timed("march", lambda: batch.marched("reference"))
    table, density, color = (tensor.clone().requires_grad_() for tensor in (batch.table, batch.density, batch.color))
    bias = RowBias(batch.bias.clone().requires_grad_(), marched.ray_of)
    encoded = timed("encode", lambda: hash_encode(marched.positions, table, batch.grid, "reference"))
    flat = encoded.detach().requires_grad_()
    raw = timed("density network", lambda: mlp(flat, density, _DENSITY, backend="reference"))
    arrays = [torch.arange(len(raw))]
    kept, (index,) = timed(
        "truncate",
        lambda: truncate_reference(raw.detach(), marched, _MIN_TRANSMITTANCE, arrays, batch.options),
    )
    latent = raw.detach()[index].requires_grad_()
    bias = RowBias(bias.values, kept.ray_of)
    shown = timed("color network", lambda: mlp(latent, color, _COLOR, bias, backend="reference"))
    inputs = [latent.detach().requires_grad_(), shown.detach().requires_grad_()]
    found = timed("composite", lambda: composite(inputs[0], inputs[1], kept, _CHANNELS, batch.options, "reference"))
    outputs = [found.color, found.alpha, found.distortion]
    by_density, by_shown = timed(
        "composite backward", lambda: torch.autograd.grad(outputs, inputs, [output.detach() for output in outputs])
    )
    by_latent, *_ = timed(
        "color network backward", lambda: torch.autograd.grad(shown, [latent, color, bias.values], by_shown)
    )
    by_raw = torch.zeros_like(raw).index_copy(0, index, by_latent + by_density)
    by_flat, _ = timed("density network backward", lambda: torch.autograd.grad(raw, [flat, density], by_raw))
    (by_table,) = timed("encode backward", lambda: torch.autograd.grad(encoded, [table], by_flat))
    moments = torch.zeros_like(by_table), torch.zeros_like(by_table)
    timed("table adam", lambda: table_adam_step(table.detach(), by_table, *moments, AdamHyper(1e-9, 1), "reference"))
