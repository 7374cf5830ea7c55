# SPDX-License-Identifier: Apache-2.0
"""The options of the radiance field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from recon.methods.config import Background, Checked, PhotoConfig, ranged

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "draft": {"steps": 800, "field.log2_entries": 17},
    "normal": {},
    "best": {"steps": 11_000},
}
"""What `--preset` chooses: the options that differ from the defaults below; those of groups as "rates.table"."""


@dataclass(frozen=True)
class FieldConfig(Checked):
    """The size of the field: a multiresolution hash grid and two small networks (Müller et al. 2022)."""

    levels: int = ranged(8, 1, 16)
    """Resolutions of the hash grid; 1 to 16."""
    features: Literal[2, 4, 8] = 4
    """Numbers that each grid point holds."""
    log2_entries: int = ranged(19, 10, 22)
    """Grid points of one resolution that the table can hold, as a power of two; 10 to 22."""
    coarsest: int = ranged(16, 2, 1024)
    """Cells of the coarsest resolution along each axis; 2 to 1024."""
    finest: int = ranged(2048, 2, 65_536)
    """Cells of the finest resolution along each axis; 2 to 65536."""
    density_width: Literal[16, 32, 64, 128] = 64
    """Neurons in the hidden layer of the density network."""
    color_width: Literal[16, 32, 64, 128] = 64
    """Neurons in each hidden layer of the colour network."""
    color_layers: int = ranged(2, 1, 4)
    """Hidden layers of the colour network; 1 to 4."""
    direction_degree: int = ranged(3, 0, 3)
    """Degree of the spherical harmonics through which colour depends on the direction of view; 0 (not at all) to 3."""
    appearance: int = ranged(0, 0, 64)
    """Numbers of each training photograph that the colour network is given, so that photographs may differ in light;
    what is rendered later takes their mean.  0 (none) to 64."""


@dataclass(frozen=True)
class SpaceConfig(Checked):
    """Where the field is, and how rays pass through it."""

    kind: Literal["auto", "contracted", "bounded"] = "auto"
    """contracted: everything up to the horizon, finest within the unit region; bounded: a cube, with nothing outside.
    auto: bounded where masks are alpha, contracted otherwise."""
    half_size: float = ranged(0.0, 0.0)
    """Half of the side of the unit region, or of the cube, in world units; 0 chooses it by cameras and points."""
    step: float = ranged(1.0 / 256, 1e-5, 1.0)
    """Distance of samples along a ray in pictures of a bounded space, whose rays are marched, relative to half_size."""
    near: float = ranged(0.02, 0.0)
    """Where rays begin, relative to half_size; nothing can be nearer to a training camera.  At least 0."""
    far: float = ranged(1000.0, 1e-3)
    """Where rays end, relative to half_size; above 0."""
    grid: int = ranged(128, 8, 256)
    """Cells of the occupancy grid along each axis; a multiple of 8 up to 256."""
    grid_every: int = ranged(16, 1)
    """Steps between two updates of the occupancy grid; at least 1."""
    threshold: float = ranged(0.02, 0.0, 1.0)
    """Cells of the grid whose optical depth is less than this are passed over; 0 to 1."""
    intervals: int = ranged(32, 4, 512)
    """Samples of a ray while training, put where the grid expects surfaces; 4 to 512."""


@dataclass(frozen=True)
class RateConfig(Checked):
    """Adam's learning rates at the start of the run."""

    table: float = ranged(3e-2, 0.0, 1.0, live="value")
    """Of the hash table, per step; 0 to 1."""
    network: float = ranged(1e-2, 0.0, 1.0, live="value")
    """Of the networks, per step; 0 to 1."""
    appearance: float = ranged(5e-3, 0.0, 1.0, live="value")
    """Of the photographs' appearances, per step; 0 to 1."""
    pose: float = ranged(1e-4, 0.0, 1.0, live="value")
    """Of camera poses when they are refined: radians, and scene extents, per step; 0 to 1."""
    exposure: float = ranged(1e-3, 0.0, 1.0, live="value")
    """Of the colour corrections when exposure is compensated, per step; 0 to 1."""
    warm_up: int = ranged(50, 0)
    """Steps over which the rates rise from nothing; at least 0."""
    end_ratio: float = ranged(0.01, 1e-6, 1.0)
    """All rates at the last step over those at the first; above 0 to 1."""


@dataclass(frozen=True)
class LossConfig(Checked):
    """What is minimised besides the error of colours."""

    huber: float = ranged(1.0, 1e-3)
    """Errors of colour above this count linearly instead of squared; above 0."""
    distortion: float = ranged(2e-3, 0.0, live="value")
    """Weight of the distortion loss (Mip-NeRF 360), which gathers each ray's density in one place; at least 0."""
    opacity: float = ranged(1e-3, 0.0, live="value")
    """Weight of the entropy of each ray's opacity, which makes rays either end or pass; at least 0."""
    near_scale: float = ranged(0.1, 0.0)
    """Gradients of samples nearer to the camera than this, relative to half_size, shrink with the square of the
    distance, because near samples are seen by few cameras and too often (Philip and Deschaintre 2023); at least 0."""


@dataclass(frozen=True)
class NerfConfig(PhotoConfig):
    """A neural radiance field of the Instant-NGP kind."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    """The table above."""

    steps: int = ranged(4000, 1)
    """Optimisation steps, one batch of rays each; at least 1.  Schedules stretch with it."""
    samples: int = ranged(65_536, 256, 1 << 22)
    """Samples of a batch, those of all its rays together; 256 to 4194304."""
    background: Background = "random"
    """Colour behind everything while training; random changes it for each ray, so that nothing hides in front of it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' products on the CPU; sums and parameters are float32 always."""
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    """The size of the field."""
    space: SpaceConfig = dataclasses.field(default_factory=SpaceConfig)
    """Where the field is."""
    rates: RateConfig = dataclasses.field(default_factory=RateConfig)
    """Learning rates."""
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    """Weights of the loss's parts."""
