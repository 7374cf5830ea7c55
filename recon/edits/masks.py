# SPDX-License-Identifier: Apache-2.0
"""Which splats match a rule.

Splats are kept in the run's own world, whatever the scene was moved by; rules are in the world as moved.  So centres
are moved to the rule, and only a lasso that asks what is visible moves its camera to the splats, to be rendered.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from recon.edits.rules import Box, ColorNear, Everything, Indices, Lasso, Range, Rule, Sphere, fingerprint_of
from recon.errors import ReconError
from recon.splat_transform import rotation_of

if TYPE_CHECKING:
    from recon.scene import Similarity
    from recon.splats import Splats

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

VISIBLE_PX = 900
"""Longest side of the picture that tells what is visible."""

BEHIND = 0.03
"""What lies farther behind the seen surface than this part of its depth is not visible."""


class Untouched:
    """The splats as they were trained or read, and what follows from them alone; computed once."""

    def __init__(self, splats: Splats) -> None:
        self.splats = splats.detach()

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.splats)

    @cached_property
    def floater(self) -> npt.NDArray[np.float32]:
        """[N] floater scores: of the splats as they were, so that no other edit changes them."""
        from recon.edits.floaters import floater_scores

        return floater_scores(self.splats)

    @cached_property
    def opacity(self) -> npt.NDArray[np.float32]:
        """[N] opacities."""
        opacities: npt.NDArray[np.float32] = self.splats.opacities.cpu().float().numpy()
        return opacities

    @cached_property
    def colors(self) -> npt.NDArray[np.float32]:
        """[N, 3] base colours."""
        colors: npt.NDArray[np.float32] = self.splats.base_colors.cpu().float().numpy()
        return colors


def find(rule: Rule, untouched: Untouched, base: Splats, world: Similarity, seen: Mask) -> Mask:
    """Returns the [N] mask of the splats that match a rule.

    Args:
        rule: what is asked for.
        untouched: the splats before any edit.
        base: all N splats in the run's own world, with what was moved on its own where it is now.
        world: where the scene was moved to, in whose coordinates the rule is.
        seen: [N], the splats that are neither deleted nor hidden; they alone hide others.

    Raises:
        ReconError: a list of splats was made for others.
    """
    match rule:
        case Everything():
            return np.ones(len(base), bool)
        case Box(center, size, wxyz):
            with np.errstate(invalid="ignore"):
                local = (centers_of(base, world) - center) @ rotation_of(np.array(wxyz))
                return np.asarray((np.abs(local) <= np.array(size) / 2).all(1))
        case Sphere(center, radius):
            with np.errstate(invalid="ignore", over="ignore"):
                return np.asarray(((centers_of(base, world) - center) ** 2).sum(1) <= radius**2)
        case Lasso():
            return _in_lasso(rule, base, world, seen)
        case Range(attribute, low, high):
            values = values_of(attribute, untouched, base, world)
            # Sliders end at numbers that were rounded; nobody means to tell neighbouring floats apart.
            return (values >= low * (1 - 1e-6)) & (values <= high * (1 + 1e-6))
        case ColorNear(color, tolerance):
            distances = np.linalg.norm(untouched.colors - np.array(color, np.float32), axis=1)
            return np.asarray(distances <= tolerance)
    assert isinstance(rule, Indices)
    doing = "applying a list of splats"
    if rule.count != len(base) or rule.splats != untouched.fingerprint:
        raise ReconError(
            doing,
            f"it was made for {rule.count} other splats; these are {len(base)}, with another fingerprint",
            "the splats that it was made for: a training anew makes others",
            "undo that edit (recon edit RUN --undo), or edit again; boxes, lassos and ranges stay valid",
        )
    return rule.mask(doing)


def values_of(attribute: str, untouched: Untouched, base: Splats, world: Similarity) -> npt.NDArray[np.float32]:
    """Returns [N] values of what `Range` can ask for."""
    if attribute == "floater":
        return untouched.floater
    if attribute == "opacity":
        return untouched.opacity
    ordered = base.log_scales.detach().cpu().float().sort(1).values
    logs = ordered[:, 2] - ordered[:, 1] if attribute == "elongation" else ordered[:, 2] + float(np.log(world.scale))
    values: npt.NDArray[np.float32] = logs.exp().numpy()
    return values


def centers_of(base: Splats, world: Similarity) -> FloatArray:
    """Returns [N, 3] centres in the world as moved."""
    return world.apply(base.means.detach().cpu().double().numpy())


def inside_polygon(points: FloatArray, polygon: FloatArray) -> Mask:
    """Returns which points [N, 2] are inside a polygon [P, 2] by the even-odd rule; NaN is outside."""
    low, high = polygon.min(0), polygon.max(0)
    with np.errstate(invalid="ignore"):
        near = np.flatnonzero(((points >= low) & (points <= high)).all(1))
    x, y = points[near].T
    odd = np.zeros(len(near), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        # A ray to the left crosses the edge where the edge passes the point's height.
        crosses = (y0 > y) != (y1 > y)
        odd ^= crosses & (x > x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    inside = np.zeros(len(points), bool)
    inside[near] = odd
    return inside


def _in_lasso(lasso: Lasso, base: Splats, world: Similarity, seen: Mask) -> Mask:
    camera = lasso.view.to_camera()
    pixels, depths = camera.project(centers_of(base, world))
    inside = inside_polygon(pixels, np.array(lasso.polygon_px))
    # A polygon may reach beyond the picture; what is not in the picture was not seen inside it.
    with np.errstate(invalid="ignore"):
        inside &= ((pixels >= 0) & (pixels <= (camera.width, camera.height))).all(1) & (depths > 0)
    if lasso.visible_only and inside.any():
        chosen = np.flatnonzero(inside)
        surface = _surface_depth(lasso, base, world, seen, pixels[chosen])
        inside[chosen] = (surface == 0) | (depths[chosen] <= surface * (1 + BEHIND))
    return inside


def _surface_depth(lasso: Lasso, base: Splats, world: Similarity, seen: Mask, pixels: FloatArray) -> FloatArray:
    """Returns the depth of what the lasso's camera sees at pixels [M, 2], in the world as moved; 0 where nothing is."""
    from recon.rasterization import SplatRenderer
    from recon.render import RenderOptions

    camera = lasso.view.to_camera()
    scaled = camera.fitted(VISIBLE_PX)
    in_run = scaled.with_pose(world.inverse().apply_to_pose(scaled.cam_from_world))
    shown = base.select(torch.from_numpy(seen).to(base.device))
    output = SplatRenderer(shown).render(in_run, RenderOptions(depth=True))
    depth = output.median_depth if output.median_depth is not None else output.depth
    assert depth is not None
    column, row = (pixels * (scaled.width / camera.width, scaled.height / camera.height)).astype(int).T
    picture = depth.cpu().double().numpy() * world.scale
    return np.asarray(picture[row.clip(0, scaled.height - 1), column.clip(0, scaled.width - 1)])
