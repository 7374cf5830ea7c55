# SPDX-License-Identifier: Apache-2.0
"""When a value is where: smooth monotone timing through keyframes, with easings.

Between two keyframes the value is a polynomial of degree five whose slopes are chosen per keyframe and whose second
derivatives are zero there, so that the whole is twice continuously differentiable.  In Bernstein form its derivative
over a segment of mean slope D with end slopes a and b has the coefficients (a, a, 5 D - 2 (a + b), b, b): it keeps its
sign, and so the value neither overshoots nor turns back, where a + b <= 2.5 D.  The slopes are the weighted harmonic
means of their neighbours' (Fritsch and Butland, "A method for constructing local monotone piecewise cubic
interpolants", 1984), no more than 1.25 times the smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

Easing = Literal["smooth", "linear", "ease_in", "ease_out", "ease_in_out", "hold"]
"""How one gets from a keyframe to the next: passing through both smoothly; at an even pace; starting from rest; ending
at rest; both; or staying until the next one's time and jumping there."""

EASINGS: tuple[Easing, ...] = get_args(Easing)

STARTS_AT_REST = ("ease_in", "ease_in_out", "hold")
ENDS_AT_REST = ("ease_out", "ease_in_out", "hold")

MOST_SLOPE = 1.25
"""A keyframe's slope as a multiple of the mean slope of each neighbouring segment; twice this is the bound above."""


def segment_of(knots: FloatArray, times: FloatArray) -> npt.NDArray[np.intp]:
    """Returns the segment 0..M-2 between `knots` [M] that each of `times` [F] lies in; a knot begins a segment."""
    return np.clip(np.searchsorted(knots, times, side="right") - 1, 0, max(len(knots) - 2, 0))


def eased(
    knots: FloatArray, values: FloatArray, easings: Sequence[Easing], times: FloatArray, closed: bool = False
) -> FloatArray:
    """Returns a value at each of `times` [F].

    Args:
        knots: [M] times of the keyframes, strictly increasing.
        values: [M] the values there.
        easings: [M - 1] one for each segment.
        times: within the knots.
        closed: the last keyframe is the first one of the next round, so the pace is to be the same at both.
    """
    if len(knots) < 2:
        return np.full(len(times), values[0])
    begins, ends = _slopes(knots, values, easings, closed)
    segment = segment_of(knots, times)
    length = np.diff(knots)[segment]
    share = np.clip((times - knots[segment]) / length, 0.0, 1.0)
    start, end = values[:-1][segment], values[1:][segment]
    rise, fall = length * begins[segment] / 5, length * ends[segment] / 5
    left = 1 - share
    found = (
        left**5 * start
        + 5 * share * left**4 * (start + rise)
        + 10 * share**2 * left**3 * (start + 2 * rise)
        + 10 * share**3 * left**2 * (end - 2 * fall)
        + 5 * share**4 * left * (end - fall)
        + share**5 * end
    )
    held = np.array([easing == "hold" for easing in easings])[segment] & (share < 1)
    return np.where(held, start, found)


def _slopes(
    knots: FloatArray, values: FloatArray, easings: Sequence[Easing], closed: bool
) -> tuple[FloatArray, FloatArray]:
    """Returns the slopes at the beginning and at the end of each segment, [M - 1] each."""
    lengths = np.diff(knots)
    means = np.diff(values) / lengths
    means[[easing == "hold" for easing in easings]] = 0.0
    begins, ends = means.copy(), means.copy()
    pairs = [(index - 1, index) for index in range(1, len(means))]
    if closed:
        pairs.append((len(means) - 1, 0))
    for before, after in pairs:
        ends[before], begins[after] = _slopes_at(
            means[before], means[after], lengths[before], lengths[after], easings[before], easings[after]
        )
    if not closed:
        # A film begins and ends in motion, unless it is asked to rest.
        begins[0] *= easings[0] not in STARTS_AT_REST
        ends[-1] *= easings[-1] not in ENDS_AT_REST
    return begins, ends


def _slopes_at(
    before: float, after: float, before_s: float, after_s: float, easing_before: Easing, easing_after: Easing
) -> tuple[float, float]:
    """Returns the slopes on both sides of a keyframe from the mean slopes and lengths of its segments."""
    if easing_before == "linear" or easing_after == "linear":
        # What is linear stays so; a neighbour takes over its pace as far as it can without overshooting.
        if easing_before == easing_after:
            return before, after
        if easing_before == "linear":
            return before, 0.0 if easing_after in STARTS_AT_REST else _limited(before, after)
        return 0.0 if easing_before in ENDS_AT_REST else _limited(after, before), after
    if easing_before in ENDS_AT_REST or easing_after in STARTS_AT_REST or before * after <= 0:
        return 0.0, 0.0
    first, second = 2 * after_s + before_s, after_s + 2 * before_s
    slope = (first + second) / (first / before + second / after)
    slope = _limited(_limited(slope, before), after)
    return slope, slope


def _limited(slope: float, mean: float) -> float:
    """Returns the slope where it goes the way of `mean`, no steeper than a segment of that mean slope bears."""
    if slope * mean <= 0:
        return 0.0
    return float(np.sign(mean) * min(abs(slope), MOST_SLOPE * abs(mean)))
