# SPDX-License-Identifier: Apache-2.0
"""Blending and its gradients in float64, sample by sample, with a bound on what float32 may make of each number.

Notation as in `recon/kernels/blend/math.h`; [P, M] are pixels by Gaussians, nearest first.  To the first order:
  - alpha is known to a relative error `slack`, from the rounding of its exponent, and T to the sum of what came before;
  - a sample whose alpha lies that close to the cutoff, or before which T lies that close to the stop, may be taken or
    not: it counts as known to 100 %, and nothing else is loosened for its sake;
  - the same goes for the gradient of one whose alpha lies that close to the clamp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from recon.kernels.binning.reference import drawable
from recon.kernels.blend.op import MIN_TRANSMITTANCE
from recon.kernels.projection.op import Projected

EPS = 2.0**-23
CUTOFF = 1.0 / 255.0
# The kernel's is the nearest float, which matters for 1 - alpha.
MAX_ALPHA = float(torch.tensor(0.999, dtype=torch.float32))
OPERATIONS = 3.0
"""How many roundings of the largest intermediate number the exponent may suffer."""


@dataclass(frozen=True, eq=False)
class Bounded:
    """A value in float64, and how far float32 may be from it."""

    value: torch.Tensor
    allowed: torch.Tensor

    def excess(self, found: torch.Tensor) -> float:
        """Returns the largest error in units of what is allowed; infinite where `found` is not finite."""
        if found.numel() == 0:
            return 0.0
        error = (found.double() - self.value).abs() / self.allowed
        return float(torch.where(error.isfinite(), error, math.inf).max())


@dataclass(frozen=True, eq=False)
class Samples:
    """All pairs of a pixel and a drawable Gaussian."""

    order: torch.Tensor  # [M] the Gaussians, nearest first
    x: torch.Tensor  # [P, M] pixel centre minus mean
    y: torch.Tensor
    conics: torch.Tensor  # [M, 3]
    opacities: torch.Tensor  # [M]
    alpha: torch.Tensor  # [P, M] clamped, whether taken or not
    slack: torch.Tensor  # [P, M] relative error of alpha
    clamped: torch.Tensor  # [P, M] bool
    maybe_clamped: torch.Tensor
    reached: torch.Tensor  # [P, M] bool: alpha is at least the cutoff
    maybe_reached: torch.Tensor  # bool: or is not, or the other way round


def samples_of(projected: Projected, channels: torch.Tensor, width: int, height: int) -> Samples:
    """Returns the samples of a picture for Gaussians given in float32."""
    kept = drawable(projected, CUTOFF * (1 - 8 * EPS)) & channels.isfinite().all(1)
    order = kept.nonzero()[:, 0]
    order = order[torch.argsort(projected.depths[order], stable=True)]
    means, conics = projected.means_px[order].double(), projected.conics[order].double()
    opacities = projected.opacities[order].double()
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = columns.reshape(-1, 1) + 0.5 - means[:, 0]
    y = rows.reshape(-1, 1) + 0.5 - means[:, 1]
    a, b, c = conics.unbind(-1)
    determinant = a * c - b * b
    # The exponent of two, as the kernel takes it: log2(opacity) - w² - falloff y².
    scale, skew = (a / (2 * math.log(2))).sqrt(), b / a
    w, fall = scale * (x + skew * y), determinant / a / (2 * math.log(2)) * y
    log2_alpha = opacities.log2() - w * w - fall * y
    # Places within a tile are sums of numbers of up to 16 pixels and the distance, each rounded.
    place_error = scale * (x.abs() + 16 + skew.abs() * (y.abs() + 16))
    error = 1 + opacities.log2().abs() + log2_alpha.abs() + w * w + 2 * w.abs() * place_error
    error = error + fall.abs() * (y.abs() + 16)
    error = OPERATIONS * EPS * error
    near_clamp = (log2_alpha - math.log2(MAX_ALPHA)).abs() <= error
    beyond = (log2_alpha > math.log2(MAX_ALPHA)) & ~near_clamp
    raw = torch.exp2(log2_alpha)
    return Samples(
        order=order,
        x=x,
        y=y,
        conics=conics,
        opacities=opacities,
        alpha=raw.clamp(max=MAX_ALPHA),
        slack=torch.where(beyond, 0.0, math.log(2) * error),
        clamped=raw > MAX_ALPHA,
        maybe_clamped=near_clamp,
        reached=raw >= CUTOFF,
        maybe_reached=(log2_alpha - math.log2(CUTOFF)).abs() <= error,
    )


@dataclass(frozen=True, eq=False)
class Weights:
    """What each sample weighs in its pixel."""

    taken: torch.Tensor  # [P, M] bool
    maybe: torch.Tensor  # [P, M] bool: the float32 kernel may decide otherwise
    weight: torch.Tensor  # [P, M] T alpha of what is taken or may be
    error: torch.Tensor  # [P, M] of the weight, 0 where it is surely not taken
    before: torch.Tensor  # [P, M] T in front of the sample
    before_error: torch.Tensor  # [P, M] relative
    rest: torch.Tensor  # [P] T behind all
    rest_error: torch.Tensor  # [P]
    used: torch.Tensor  # [P] samples taken

    @property
    def counted(self) -> torch.Tensor:
        """[P, M] the weights of what is taken."""
        return torch.where(self.taken, self.weight, 0.0)


def weigh(s: Samples) -> Weights:
    """Returns the weights of the samples."""
    zero = torch.zeros_like(s.alpha)
    through = torch.where(s.reached, 1 - s.alpha, 1.0)
    after = through.cumprod(1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1) if after.shape[1] else after
    # T loses T alpha in float32, so what is left of it is off by a rounding of T itself.
    loss = torch.where(s.reached, (s.slack * s.alpha + 2 * EPS) / (1 - s.alpha), zero)
    loss = loss + torch.where(s.maybe_reached, s.alpha / (1 - s.alpha), zero)
    total = loss.cumsum(1)
    before_error = total - loss
    open_ = before >= MIN_TRANSMITTANCE
    maybe_open = (before / MIN_TRANSMITTANCE - 1).abs() <= before_error + EPS
    taken = s.reached & open_
    maybe = (s.maybe_reached & (open_ | maybe_open)) | (s.reached & maybe_open)
    weight = torch.where(taken | maybe, before * s.alpha, zero)
    error = weight * (s.slack + before_error + EPS) + torch.where(maybe, weight, zero)
    rest = torch.where(taken, 1 - s.alpha, 1.0).prod(1)
    rest_error = rest * torch.where(taken, loss, zero).sum(1) + torch.where(maybe, weight, zero).sum(1)
    return Weights(taken, maybe, weight, error, before, before_error, rest, rest_error, taken.sum(1))


def picture_bounds(w: Weights, channels: torch.Tensor, background: torch.Tensor | None = None) -> dict[str, Bounded]:
    """Returns the picture, `channels` [P, D] and `alpha` [P], for channels [M, D] in the samples' order."""
    counted, magnitude = w.counted, channels.abs()
    value = counted @ channels
    sums = (w.used + 2.0)[:, None] * EPS * (counted @ magnitude)
    allowed = w.error @ magnitude + sums
    if background is not None:
        value = value + w.rest[:, None] * background
        allowed = allowed + (w.rest_error + 2 * EPS)[:, None] * background.abs()
    tiny = 1e-30
    return {
        "channels": Bounded(value, allowed + 2 * EPS * value.abs() + tiny),
        "alpha": Bounded(1 - w.rest, w.rest_error + 2 * EPS),
    }


def gradient_bounds(
    s: Samples, w: Weights, channels: torch.Tensor, by_channels: torch.Tensor, by_alpha: torch.Tensor
) -> dict[str, Bounded]:
    """Returns the gradients of Σ by_channels · picture + Σ by_alpha · alpha, per Gaussian in the samples' order.

    Args:
        s, w: the samples and their weights.
        channels: [M, D].
        by_channels: [P, D].
        by_alpha: [P].
    """
    h, h_error, absolute = _log_alpha_gradients(s, w, channels, by_channels, by_alpha)
    a, b, c = s.conics.unbind(-1)
    # Sums over pixels and tiles in float32, of places that are rounded within a tile.
    rounding = 16 * EPS
    far_x, far_y = s.x.abs() + 16, s.y.abs() + 16

    def along(slope: torch.Tensor, largest: torch.Tensor, of_abs: bool = False) -> Bounded:
        value = ((h * slope).abs() if of_abs else h * slope).sum(0)
        return Bounded(value, (h_error * slope.abs()).sum(0) + rounding * (absolute * largest).sum(0) + 1e-30)

    slope_x, slope_y = a * s.x + b * s.y, b * s.x + c * s.y
    largest_x, largest_y = a * far_x + b.abs() * far_y, b.abs() * far_x + c * far_y
    weights, weight_errors, by = w.counted, w.error, by_channels
    return {
        "mean x": along(slope_x, largest_x),
        "mean y": along(slope_y, largest_y),
        "abs x": along(slope_x, largest_x, of_abs=True),
        "abs y": along(slope_y, largest_y, of_abs=True),
        "conic a": along(-0.5 * s.x * s.x, far_x * far_x),
        "conic b": along(-s.x * s.y, 2 * far_x * far_y),
        "conic c": along(-0.5 * s.y * s.y, far_y * far_y),
        "opacity": along(1 / s.opacities.expand_as(h), (1 / s.opacities).expand_as(h)),
        "channels": Bounded(weights.T @ by, weight_errors.T @ by.abs() + rounding * (weights.T @ by.abs()) + 1e-30),
        "weight sum": Bounded(weights.sum(0), weight_errors.sum(0) + rounding * weights.sum(0) + 1e-30),
    }


def _log_alpha_gradients(
    s: Samples, w: Weights, channels: torch.Tensor, by_channels: torch.Tensor, by_alpha: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns h = dL/d ln(alpha) [P, M], its error, and the sum of the magnitudes that it is made of."""
    zero = torch.zeros_like(s.alpha)
    v, size = by_channels @ channels.T, by_channels.abs() @ channels.abs().T
    counted = w.counted

    def behind(terms: torch.Tensor) -> torch.Tensor:
        return terms.sum(1, keepdim=True) - terms.cumsum(1)

    later = behind(counted * v) - (w.rest * by_alpha)[:, None]
    # The kernel takes what lies behind from the whole picture minus what lies before.
    whole = (counted * size).sum(1, keepdim=True) + by_alpha[:, None].abs()
    later_error = behind(w.error * size) + (w.rest_error * by_alpha.abs())[:, None]
    later_error = later_error + (w.used[:, None] + 4.0) * EPS * whole
    ratio = s.alpha / (1 - s.alpha)
    h = torch.where(w.taken & ~s.clamped, w.weight * v - ratio * later, zero)
    # Behind a sample that is left out at the stop, but might not be, there would be (1 - alpha) T and nothing else.
    at_stop = w.maybe & ~w.taken & s.reached
    later_size = torch.where(at_stop, w.before * (1 - s.alpha) * by_alpha[:, None].abs(), later.abs())
    magnitude = w.weight * size + ratio * later_size
    error = torch.where(w.maybe, w.weight, w.error) * size
    error = error + ratio * (later_error + later_size * (s.slack + 3 * EPS) / (1 - s.alpha))
    error = error + torch.where(w.maybe | s.maybe_clamped, magnitude, zero)
    live = (w.taken | w.maybe) & (~s.clamped | s.maybe_clamped)
    return h, torch.where(live, error, zero), torch.where(live, magnitude, zero)
