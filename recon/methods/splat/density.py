# SPDX-License-Identifier: Apache-2.0
"""Density control: which Gaussians are added, moved and removed, and when.

Strategies stand behind one small interface.  `ClassicDensity` follows Kerbl et al. 2023 (split where the
screen-space gradient is high) with the absolute gradients of AbsGS (Ye et al. 2024) and the budget of
Taming 3DGS (Mallick et al. 2024): instead of a threshold, the Gaussians are ranked, and as many are split as the
schedule allows.  `McmcDensity` follows Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo", 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from recon.kernels.blend.op import DensityAccumulators
from recon.kernels.workspace import Workspace
from recon.methods.splat.model import SplatParameters
from recon.splats import Splats

if TYPE_CHECKING:
    from recon.methods.splat.config import SplatConfig


@dataclass(frozen=True)
class DensityContext:
    """What a strategy needs to know of the step: its number, the scene's extent and the position's learning rate."""

    step: int
    extent: float
    position_rate: float


class DensityStrategy(Protocol):
    """Watches the gradients and changes the Gaussians."""

    def accumulators(self, step: int) -> DensityAccumulators | None:
        """Returns what step `step` adds its statistics to; None where they are not needed."""

    def update(self, parameters: SplatParameters, context: DensityContext) -> None:
        """Changes the Gaussians after an optimiser step, when it is time to."""

    def reconfigure(self, config: SplatConfig) -> None:
        """Goes on with other options; a budget below the present number stops growth and removes nothing."""

    def state(self) -> dict[str, torch.Tensor]:
        """Returns the statistics gathered since the last change."""

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes over what `state` gave."""


def make_density(config: SplatConfig, start_count: int, device: torch.device) -> DensityStrategy:
    """Returns the strategy that the configuration names, for a run that starts with `start_count` Gaussians."""
    if config.density.strategy == "classic":
        on_cuda = config.backend == "cuda" or (device.type == "cuda" and config.backend == "auto")
        return (CudaClassicDensity if on_cuda else ClassicDensity)(config, start_count, device)
    if config.density.strategy == "mcmc":
        return McmcDensity(config, start_count)
    return FixedDensity()


@dataclass(frozen=True)
class Schedule:
    """The rounds of density control and how many Gaussians there may be after each."""

    first: int
    last: int
    every: int
    start_count: int
    most: int

    @staticmethod
    def of(config: SplatConfig, start_count: int) -> Schedule:
        """Turns fractions of the run into steps."""
        density = config.density
        first, last = round(config.steps * density.start), round(config.steps * density.stop)
        return Schedule(first, last, density.every, start_count, config.max_gaussians)

    def is_round(self, step: int) -> bool:
        """Whether density control acts after `step`."""
        return self.first <= step <= self.last and (step - self.first) % self.every == 0

    @property
    def last_round(self) -> int:
        """The step after which density control acts for the last time."""
        return self.first + max(0, self.last - self.first) // self.every * self.every

    def budget(self, step: int) -> int:
        """Gaussians allowed after `step`: growing evenly from the start to the most, which the last round reaches."""
        span = max(self.last_round - self.first + self.every, 1)
        share = min(max((step - self.first + self.every) / span, 0.0), 1.0)
        return min(self.most, round(self.start_count + share * (self.most - self.start_count)))


class FixedDensity:
    """Leaves the Gaussians as they are."""

    def accumulators(self, step: int) -> None:
        return None

    def update(self, parameters: SplatParameters, context: DensityContext) -> None:
        pass

    def reconfigure(self, config: SplatConfig) -> None:
        pass

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        pass


class ClassicDensity:
    """Splits by gradient, under a budget that grows evenly, and prunes the faint, the hidden and the huge."""

    def __init__(self, config: SplatConfig, start_count: int, device: torch.device) -> None:
        self._config = config.density
        self._schedule = Schedule.of(config, start_count)
        self._gathered = _nothing_gathered(start_count, device)

    def reconfigure(self, config: SplatConfig) -> None:
        self._config, self._schedule = config.density, Schedule.of(config, self._schedule.start_count)

    def accumulators(self, step: int) -> DensityAccumulators | None:
        return self._gathered if step <= self._schedule.last_round else None

    def update(self, parameters: SplatParameters, context: DensityContext) -> None:
        if not self._schedule.is_round(context.step):
            return
        with torch.no_grad():
            self._change(parameters, context)
        self._gathered = _nothing_gathered(len(parameters), self._gathered.seen.device)

    def _change(self, parameters: SplatParameters, context: DensityContext) -> None:
        values = parameters.values()
        largest = values.log_scales.amax(1).exp()
        keep = values.opacities >= self._config.prune_opacity
        keep &= largest <= self._config.prune_extent * context.extent
        keep &= torch.isfinite(values.means).all(1)
        gathered = self._gathered
        if bool((gathered.most_weight > 0).any()):  # gsplat does not tell the weights
            keep &= (gathered.most_weight >= self._config.prune_weight) | (gathered.seen == 0)
        if not bool(keep.any()):
            keep = values.opacities >= values.opacities.max()
        room = self._schedule.budget(context.step) - int(keep.sum())
        score = torch.where(keep, gathered.gradient_sum / gathered.seen.clamp_min(1), torch.zeros_like(largest))
        candidates = int((score > 0).sum())
        chosen = torch.topk(score, max(0, min(room, candidates))).indices.sort().values
        copies = torch.ones_like(gathered.seen, dtype=torch.int64)
        copies[chosen] = 2
        children = halves(values.select(chosen))
        firsts = parameters.rearrange(keep.nonzero()[:, 0], copies[keep])
        firsts = firsts[copies[keep] == 2]
        parameters.assign(torch.cat([firsts, firsts + 1]), children)

    def state(self) -> dict[str, torch.Tensor]:
        gathered = self._gathered
        return {"gradient_sum": gathered.gradient_sum, "seen": gathered.seen, "most_weight": gathered.most_weight}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        device = self._gathered.seen.device
        names = ("gradient_sum", "seen", "most_weight")
        self._gathered = DensityAccumulators(*(tensors[name].to(device).clone() for name in names))


class CudaClassicDensity(ClassicDensity):
    """The same on our CUDA kernels; the host waits once a round, for the number of Gaussians."""

    def __init__(self, config: SplatConfig, start_count: int, device: torch.device) -> None:
        super().__init__(config, start_count, device)
        self._workspace = Workspace(device)

    def _change(self, parameters: SplatParameters, context: DensityContext) -> None:
        from recon.kernels.density.cuda import SplitRules, choose_splits_cuda

        rules = SplitRules(
            self._config.prune_opacity,
            math.log(max(self._config.prune_extent * context.extent, 1e-30)),
            self._config.prune_weight,
            self._schedule.budget(context.step),
        )
        choice = choose_splits_cuda(parameters.values(), self._gathered, rules, self._workspace)
        if choice is None:
            super()._change(parameters, context)  # keeps the least faint
            return
        parameters.split(choice, self._workspace)


def _nothing_gathered(count: int, device: torch.device) -> DensityAccumulators:
    return DensityAccumulators(*(torch.zeros(count, device=device) for _ in range(3)))


class McmcDensity:
    """Moves dead Gaussians onto living ones, grows evenly to the budget and shakes the faint.

    The paper grows by 5% a round, which a run of a few thousand steps has too few rounds for.
    """

    def __init__(self, config: SplatConfig, start_count: int) -> None:
        self._config = config.density
        self._schedule = Schedule.of(config, start_count)

    def reconfigure(self, config: SplatConfig) -> None:
        self._config, self._schedule = config.density, Schedule.of(config, self._schedule.start_count)

    def accumulators(self, step: int) -> None:
        return None

    @torch.no_grad()
    def update(self, parameters: SplatParameters, context: DensityContext) -> None:
        if self._schedule.is_round(context.step):
            self._relocate(parameters)
            self._grow(parameters, self._schedule.budget(context.step) - len(parameters))
        if context.step <= self._schedule.last:
            self._shake(parameters, context)

    def _relocate(self, parameters: SplatParameters) -> None:
        opacities = parameters.values().opacities
        dead = opacities < self._config.prune_opacity
        count = int(dead.sum())
        if count == 0 or count == len(parameters):
            return
        weights = torch.where(dead, torch.zeros_like(opacities), opacities)
        sources = torch.multinomial(weights, count, replacement=True)
        self._share_out(parameters, sources)
        values, rows = parameters.values(), dead.nonzero()[:, 0]
        for name in parameters:
            parameters[name].value.data[rows] = getattr(values, name)[sources]
        parameters.forget(torch.cat([rows, sources]))

    def _grow(self, parameters: SplatParameters, room: int) -> None:
        if room <= 0:
            return
        sources = torch.multinomial(parameters.values().opacities, room, replacement=True)
        self._share_out(parameters, sources)
        everything = torch.arange(len(parameters), device=sources.device)
        copies = torch.bincount(sources, minlength=len(parameters)) + 1
        parameters.rearrange(everything, copies)
        parameters.forget(torch.repeat_interleave(copies > 1, copies).nonzero()[:, 0])

    def _share_out(self, parameters: SplatParameters, sources: torch.Tensor) -> None:
        """Gives each source the opacity and size that it and its copies need to look together as it did alone."""
        copies = torch.bincount(sources, minlength=len(parameters)) + 1
        rows = (copies > 1).nonzero()[:, 0]
        opacity, shrink = relocated(parameters.values().opacities[rows], copies[rows])
        opacity = opacity.clamp(self._config.prune_opacity, 1 - 1e-6)
        parameters.opacity_logits.data[rows] = torch.logit(opacity)
        parameters.log_scales.data[rows] += shrink.log()[:, None]

    def _shake(self, parameters: SplatParameters, context: DensityContext) -> None:
        values = parameters.values()
        faint = torch.sigmoid(100 * (self._config.prune_opacity - values.opacities))
        noise = torch.randn_like(values.means) * values.scales
        noise = rotate(values.quats, noise * values.scales / context.extent)
        parameters.means.data += noise * (faint * self._config.noise * context.position_rate / context.extent)[:, None]

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        pass


def relocated(opacity: torch.Tensor, copies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the opacity of each of `copies` Gaussians that replace one of `opacity`, and the factor of its size.

    Kheradmand et al. 2024, equation 9: 1 − (1 − o')^n = o keeps the centre's opacity, and the size keeps the integral
    of the blended profile, o / Σ_i Σ_k C(i−1, k) (−1)^k o'^(k+1) / √(k+1).

    Args:
        opacity: [M] in 0..1.
        copies: [M] whole numbers, at least 1; those above 51 count as 51, where the sum would lose its precision.
    """
    copies = copies.clamp(1, 51)
    opacity64 = opacity.double().clamp(1e-9, 1 - 1e-9)
    new = 1 - (1 - opacity64) ** (1.0 / copies)
    # Σ_{i=1..n} C(i−1, k) = C(n, k+1), which turns the double sum into one.
    total = torch.zeros_like(new)
    for k in range(int(copies.max()) if len(copies) else 0):
        j = k + 1
        remaining = (copies - j + 1).clamp_min(1).double()
        binomial = torch.exp(torch.lgamma(copies.double() + 1) - math.lgamma(j + 1) - torch.lgamma(remaining))
        term = binomial * (-1) ** k * new**j / math.sqrt(j)
        total += torch.where(copies >= j, term, torch.zeros_like(term))
    return new.to(opacity.dtype), (opacity64 / total.clamp_min(1e-12)).to(opacity.dtype)


def rotate(quats: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Rotates vectors [N, 3] by quaternions [N, 4] wxyz of any length above 0."""
    unit = torch.nn.functional.normalize(quats, dim=-1)
    w, axis = unit[:, :1], unit[:, 1:]
    cross = 2 * torch.linalg.cross(axis, vectors)
    return vectors + w * cross + torch.linalg.cross(axis, cross)


_SPLIT_OFFSET = 0.8
_SPLIT_SHRINK = 0.6
_SPLIT_OTHER_AXES = 0.9


def halves(parents: Splats) -> Splats:
    """Returns two Gaussians for each parent, first all the first ones, then all the second.

    They stand apart along the parent's longest axis, which needs no random draw; offset² + shrunk² = 1 keeps the
    variance along it.  Cloning in place, as 3DGS does with small Gaussians, leaves two equals that take many steps to
    part; splitting all of them scored 0.14 dB more on a real capture.
    """
    count = len(parents)
    axis = parents.log_scales.argmax(1)
    rows = torch.arange(count, device=axis.device)
    along = torch.zeros_like(parents.means)
    along[rows, axis] = _SPLIT_OFFSET * parents.scales[rows, axis]
    offset = rotate(parents.quats, along)
    shrink = torch.full_like(parents.log_scales, math.log(_SPLIT_OTHER_AXES))
    shrink[rows, axis] = math.log(_SPLIT_SHRINK)
    return Splats(
        means=torch.cat([parents.means + offset, parents.means - offset]),
        quats=parents.quats.repeat(2, 1),
        log_scales=(parents.log_scales + shrink).repeat(2, 1),
        opacity_logits=parents.opacity_logits.repeat(2),
        sh=parents.sh.repeat(2, 1, 1),
        antialiased=parents.antialiased,
    )
