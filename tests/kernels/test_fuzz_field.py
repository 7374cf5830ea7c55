# SPDX-License-Identifier: Apache-2.0
"""Random small fields through march, encoding, networks, truncation and compositing, forward and backward.

Every instruction set is held against float64: the samples that a march gave are taken as they are, and everything
behind them is written out anew here or comes from the references.  `RECON_FUZZ=N` runs N fields on each of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest
import torch

from recon.kernels.composite.op import (
    CompositeGradients,
    CompositeOptions,
    composite_backward_into,
    composite_into,
    truncate_into,
)
from recon.kernels.composite.reference import composite_reference, truncate_reference
from recon.kernels.hash_encoding.op import HashGrid, hash_encode_backward_into, hash_encode_into
from recon.kernels.hash_encoding.reference import hash_encode_reference
from recon.kernels.mlp.op import RowBias, mlp_backward_into, mlp_forward_into
from recon.kernels.mlp.types import MlpShape
from recon.kernels.occupancy.op import OccupancyGrid, update_occupancy
from recon.kernels.ray_march.op import MarchOptions, RaySamples, Space, march_backward, march_into
from recon.kernels.workspace import Workspace

COUNT = int(os.environ.get("RECON_FUZZ", "40"))
FIELDS = ("color", "alpha", "depth", "distortion", "weights")
VALUE_PART, GRADIENT_PART = 5e-5, 1e-3
"""Of the largest number: some hundred roundings of numbers that cancel in the networks' sums."""


@dataclass(frozen=True, eq=False)
class FuzzField:
    """A field, rays and what the loss gains; everything that a chain needs."""

    origins: torch.Tensor
    directions: torch.Tensor
    jitter: torch.Tensor | None
    space: Space
    occupancy: OccupancyGrid
    march: MarchOptions
    grid: HashGrid
    table: torch.Tensor
    shapes: tuple[MlpShape, MlpShape]
    networks: tuple[torch.Tensor, torch.Tensor]
    bias: torch.Tensor
    channels: int
    options: CompositeOptions
    min_transmittance: float
    gradients: CompositeGradients


def fuzz_field(seed: int) -> FuzzField:
    """Returns the field of a seed; a ray in eight is broken, and a grid in eight is empty."""
    g = torch.Generator().manual_seed(seed)

    def pick(*choices: float) -> float:
        return choices[int(torch.randint(len(choices), (), generator=g))]

    rays = int(pick(0, 1, 3, 17, 40))
    half_size = pick(0.1, 1.0, 30.0)
    space = Space((0.3, -0.2, 0.1), half_size, bool(pick(0, 1)))
    center = torch.tensor(space.center)
    origins = center + half_size * pick(0.3, 1.5, 4.0) * torch.randn((rays, 3), generator=g)
    targets = center + half_size * 0.7 * torch.randn((rays, 3), generator=g)
    directions = torch.nn.functional.normalize(targets - origins, dim=1)
    broken = torch.rand(rays, generator=g) < 0.12
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")])
    origins[broken, int(pick(0, 1, 2))] = bad[int(pick(0, 1, 2))]
    zero = torch.rand(rays, generator=g) < 0.05
    directions[zero] = pick(0.0, float("nan"))
    grid = HashGrid(*((4, 4), (8, 2), (8, 4))[int(pick(0, 1, 2))], int(pick(6, 10)), 4, int(pick(16, 64)))
    hidden = int(pick(16, 32, 64))
    shapes = MlpShape(grid.width, 16, hidden), MlpShape(16, 16, hidden, int(pick(1, 2)))
    networks = tuple(_weights(shape, g) for shape in shapes)
    channels = int(pick(1, 3, 3, 4))
    sides = [(rays, channels), (rays,), (rays,), (rays,)]
    options = CompositeOptions(pick(-1.0, 1.0, 4.0), 1 / half_size, pick(0.0, 0.5 * half_size))
    return FuzzField(
        origins, directions, torch.rand(rays, generator=g) if pick(0, 1) else None, space,
        _occupancy(int(pick(8, 16)), pick(0.0, 0.05, 0.05, 0.3, 0.3, 0.3, 1.0, 1.0), g),
        MarchOptions(pick(0.03, 0.1), pick(0.0, 0.2) * half_size, max_samples=int(pick(5, 1024))), grid,
        pick(1e-3, 0.3, 1.0) * torch.randn((grid.rows, grid.features), generator=g), shapes,
        (networks[0], networks[1]), 0.5 * torch.randn((rays, hidden), generator=g), channels, options,
        pick(0.0, 1e-3, 0.1), CompositeGradients(*(torch.randn(side, generator=g) for side in sides)),
    )  # fmt: skip


def _weights(shape: MlpShape, generator: torch.Generator) -> torch.Tensor:
    parameters = torch.randn(shape.parameters, generator=generator)
    for matrix in shape.matrices(parameters):
        matrix *= (2 / matrix.shape[0]) ** 0.5
    return parameters


def _occupancy(resolution: int, part: float, generator: torch.Generator) -> OccupancyGrid:
    grid = OccupancyGrid.full(resolution)
    occupied = (torch.rand(grid.cells, generator=generator) < part).float()
    update_occupancy(grid, torch.arange(grid.cells, dtype=torch.int32), occupied, 0.5)
    return grid


@dataclass(frozen=True, eq=False)
class Chain:
    """What the kernels made of a field."""

    marched: RaySamples
    raw: torch.Tensor
    kept: RaySamples
    results: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    by_rays: tuple[torch.Tensor, torch.Tensor]


def run_chain(f: FuzzField) -> Chain:
    """Runs the kernels, forward and backward."""
    space = Workspace()
    marched = march_into(f.origins, f.directions, f.space, f.occupancy, f.march, space, f.jitter)
    encoded = hash_encode_into(marched.positions, f.table, f.grid, space)
    whole = mlp_forward_into(encoded, f.networks[0], f.shapes[0], space, "density")
    kept, (encoded, raw) = truncate_into(whole, marched, f.min_transmittance, [encoded, whole], f.options, space)
    bias = RowBias(f.bias, kept.ray_of)
    color = mlp_forward_into(raw, f.networks[1], f.shapes[1], space, "color", bias)
    found = composite_into(raw, color, kept, f.channels, f.options, space)
    by_density = torch.zeros((len(raw), 1))
    by_color = composite_backward_into(found, f.gradients, kept, f.options, by_density, space)
    by_colors = mlp_backward_into(raw, f.networks[1], f.shapes[1], by_color, space, "color", bias)
    assert by_colors.inputs is not None
    by_colors.inputs[:, :1] += by_density
    by = mlp_backward_into(encoded, f.networks[0], f.shapes[0], by_colors.inputs, space, "density")
    assert by.inputs is not None
    assert by.parameters is not None
    assert by_colors.parameters is not None
    assert by_colors.row_bias is not None
    by_table, by_positions = torch.zeros_like(f.table), torch.empty((len(raw), 3))
    hash_encode_backward_into(kept.positions, f.table, f.grid, by.inputs, by_table, by_positions)
    gradients = {
        "table": by_table, "density network": by.parameters, "color network": by_colors.parameters,
        "row bias": by_colors.row_bias,
    }  # fmt: skip
    results = {name: getattr(found, name) for name in FIELDS}
    by_rays = march_backward(kept, f.origins, f.directions, f.space, by_positions)
    return Chain(marched, whole, kept, results, gradients, by_rays)


class Exact:
    """The same behind the march in float64, with gradients by torch."""

    def __init__(self, f: FuzzField, kept: RaySamples) -> None:
        self.leaves = [tensor.double().requires_grad_() for tensor in (f.table, *f.networks, f.bias)]
        table, density, color, bias = self.leaves
        samples = replace(kept, distances=kept.distances.double(), lengths=kept.lengths.double())
        self.nearest_kink = float("inf")
        encoded = hash_encode_reference(kept.positions.double(), table, f.grid)
        raw = self._network(encoded, density, f.shapes[0])
        shown = self._network(raw, color, f.shapes[1], bias[kept.ray_of.long()])
        found = composite_reference(raw, shown, samples, f.channels, f.options)
        self.results = {name: getattr(found, name) for name in FIELDS}
        by = vars(f.gradients)
        loss = sum(((self.results[name] * gradient).sum() for name, gradient in by.items()), torch.zeros(()).double())
        loss = loss + 0 * sum(leaf.sum() for leaf in self.leaves)
        names = ("table", "density network", "color network", "row bias")
        self.gradients = dict(zip(names, torch.autograd.grad(loss, self.leaves)))

    def _network(
        self, inputs: torch.Tensor, parameters: torch.Tensor, shape: MlpShape, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        *hidden, last = shape.matrices(parameters)
        for layer, matrix in enumerate(hidden):
            sums = inputs @ matrix
            if layer == 0 and bias is not None:
                sums = sums + bias
            if sums.numel():
                sizes = sums.detach().abs()
                self.nearest_kink = min(self.nearest_kink, float(sizes.min() / (1e-9 + sizes.max())))
            inputs = sums.relu()
        return inputs @ last


def assert_near(name: str, found: torch.Tensor, expected: torch.Tensor, part: float) -> None:
    assert found.shape == expected.shape, name
    assert bool(found.isfinite().all()), name
    if found.numel():
        worst = float((found.double() - expected).abs().max())
        assert worst <= part * float(expected.abs().max()) + 1e-9, f"{name}: {worst}"


def check_samples(f: FuzzField, samples: RaySamples) -> None:
    """Samples lie in occupied cells, ascend along their rays, and broken rays have none."""
    offsets, ray_of = samples.offsets.long(), samples.ray_of.long()
    assert int(offsets[0]) == 0
    assert int(offsets[-1]) == len(samples.distances)
    counts = offsets.diff()
    assert bool((counts >= 0).all())
    assert torch.equal(ray_of, torch.repeat_interleave(torch.arange(len(counts)), counts))
    for name in ("positions", "distances", "lengths"):
        assert bool(getattr(samples, name).isfinite().all()), name
    assert bool((samples.lengths > 0).all())
    same = ray_of[1:] == ray_of[:-1]
    assert bool((samples.distances.diff()[same] > 0).all())
    assert bool(((samples.positions >= 0) & (samples.positions <= 1)).all())
    good = f.origins.isfinite().all(1) & ((f.directions.norm(dim=1) - 1).abs() < 1e-3)
    assert bool((counts[~good] == 0).all()), "a broken ray has samples"
    if not bool(f.occupancy.occupied().any()):
        assert len(samples.distances) == 0


def check_truncation(f: FuzzField, chain: Chain) -> None:
    """What is kept is what the reference keeps, up to rounding."""
    marched = chain.marched
    exact = replace(marched, distances=marched.distances.double(), lengths=marched.lengths.double())
    for factor, least in ((1.001, True), (0.999, False)):
        expected, _ = truncate_reference(chain.raw.double(), exact, f.min_transmittance * factor, [], f.options)
        difference = chain.kept.offsets.diff() - expected.offsets.diff()
        assert bool((difference >= 0 if least else difference <= 0).all())


def check_field(f: FuzzField) -> bool:
    """Compares everything; returns whether gradients were compared, too."""
    chain = run_chain(f)
    check_samples(f, chain.marched)
    check_truncation(f, chain)
    exact = Exact(f, chain.kept)
    for name in FIELDS:
        assert_near(name, chain.results[name], exact.results[name].detach(), VALUE_PART)
    empty = chain.kept.offsets.diff() == 0
    assert all(bool((chain.results[name][empty] == 0).all()) for name in FIELDS[:-1])
    for by in chain.by_rays:
        assert bool(by.isfinite().all())
        assert bool((by[empty] == 0).all())
    # Closer to a corner of a ReLU than rounding, either side's slope is right.
    if exact.nearest_kink < 1e-6:
        return False
    for name, gradient in exact.gradients.items():
        assert_near(f"gradient by the {name}", chain.gradients[name], gradient, GRADIENT_PART)
    return True


def test_fields_equal_float64(isa: str) -> None:
    compared = 0
    for seed in range(COUNT):
        try:
            compared += check_field(fuzz_field(seed))
        except AssertionError as error:
            raise AssertionError(f"field {seed}: {error}") from error
    assert compared >= COUNT // 3


@pytest.mark.parametrize("seed", [2, 5, 9])
def test_finite_differences_through_the_chain(isa: str, seed: int) -> None:
    """Along random directions of everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    f = lively_field(seed)
    names = ("table", "density network", "color network", "row bias")
    chain = run_chain(f)
    for _ in range(3):
        values = (f.table, *f.networks, f.bias)
        along = [torch.randn(value.shape, generator=generator) * float(value.abs().mean()) for value in values]
        step = 2e-3
        losses = []
        for sign in (1, -1):
            table, density, color, bias = (v + sign * step * a for v, a in zip(values, along))
            moved = run_chain(replace(f, table=table, networks=(density, color), bias=bias))
            losses.append(loss_of(f, moved))
        expected = sum(float((chain.gradients[name].double() * a).sum()) for name, a in zip(names, along))
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=3e-2, abs=3e-2 * abs(losses[0]))


def lively_field(seed: int) -> FuzzField:
    """Returns a field with samples on many rays, without what would make losses jump or fade gradients."""
    for candidate in range(1000 * seed, 1000 * seed + 200):
        f = fuzz_field(candidate)
        f = replace(f, min_transmittance=0.0, options=replace(f.options, near_scale=0.0))
        if len(f.origins) < 17 or float(f.table.abs().mean()) < 0.1:
            continue
        if 100 < len(run_chain(f).marched.distances) < 2000:
            return f
    raise AssertionError("no such field")


def loss_of(f: FuzzField, chain: Chain) -> float:
    by = vars(f.gradients)
    return sum(float((chain.results[name].double() * gradient.double()).sum()) for name, gradient in by.items())


def test_fields_hold_what_they_promise() -> None:
    """The fuzz meets empty grids, rays that miss, broken rays, truncation and rays without any sample left."""
    seen = {"no rays": 0, "empty grid": 0, "broken": 0, "miss": 0, "truncated": 0, "opaque": 0, "many": 0, "capped": 0}
    for seed in range(100):
        f = fuzz_field(seed)
        chain = run_chain(f)
        counts = chain.marched.offsets.diff()
        good = f.origins.isfinite().all(1) & f.directions.isfinite().all(1) & (f.directions.norm(dim=1) > 0.5)
        seen["no rays"] += int(len(counts) == 0)
        seen["empty grid"] += int(not bool(f.occupancy.occupied().any()))
        seen["broken"] += int(not bool(good.all()))
        seen["miss"] += int(bool((counts[good] == 0).any()))
        seen["truncated"] += int(len(chain.kept.distances) < len(chain.marched.distances))
        seen["opaque"] += int(bool((chain.results["alpha"] > 0.99).any()))
        seen["many"] += int(len(chain.kept.distances) > 500)
        seen["capped"] += int(len(counts) > 0 and int(counts.max()) == f.march.max_samples)
    assert all(count > 0 for count in seen.values()), seen
