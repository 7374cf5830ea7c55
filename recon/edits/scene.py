# SPDX-License-Identifier: Apache-2.0
"""Cameras, sparse points and worlds as edited."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from recon.edits.edit_list import EditList, meters_per_unit, world_of
from recon.edits.operations import Transform
from recon.errors import ReconError
from recon.scene import Scene, Similarity
from recon.world import rotation_between, transform_scene

FloatArray = npt.NDArray[np.float64]

UP = np.array([0.0, 0.0, 1.0])

UP_AXES: dict[str, tuple[float, float, float]] = {
    "+x": (1, 0, 0),
    "-x": (-1, 0, 0),
    "+y": (0, 1, 0),
    "-y": (0, -1, 0),
    "+z": (0, 0, 1),
    "-z": (0, 0, -1),
}


def edited_scene(scene: Scene, edits: EditList) -> Scene:
    """Returns the scene where the edits put it; depth maps, which are in the old unit, stay behind a change of scale.

    Raises:
        ReconError: the edits lead beyond what numbers can hold.
    """
    if not edits:
        return scene
    world = world_of(edits)
    if world.scale != 1.0:
        scene = replace(scene, frames=tuple(replace(frame, depth_path=None) for frame in scene.frames))
    moved = transform_scene(scene, world)
    purposes = {operation.purpose for operation in edits if isinstance(operation, Transform)}
    return replace(
        moved,
        world=replace(
            moved.world,
            meters_per_unit=meters_per_unit(edits, scene.world.meters_per_unit),
            up_is_known=scene.world.up_is_known or bool(purposes & {"ground", "up"}),
        ),
    )


def ground_from_points(points: FloatArray, upward: FloatArray = UP) -> Similarity:
    """Returns the move that brings the plane through points [P, 3] to z = 0, its middle staying where it is seen from
    above.

    Args:
        points: three that are clicked, or more that are fitted by least squares.
        upward: which side of the plane is up, roughly.

    Raises:
        ReconError: fewer than three points, or all on one line.
    """
    points = np.asarray(points, np.float64).reshape(-1, 3)
    middle = points.mean(0) if len(points) else np.zeros(3)
    doing = "fitting the ground plane"
    if len(points) < 3:
        raise ReconError(doing, f"there are {len(points)} points", "at least 3")
    _, spread, axes = np.linalg.svd(points - middle, full_matrices=False)
    if spread[1] < 1e-6 * max(spread[0], 1e-30):
        raise ReconError(doing, "the points lie on one line", "points that span a plane")
    normal = axes[2] if axes[2] @ upward >= 0 else -axes[2]
    rotation = rotation_between(normal, UP)
    return Similarity(1.0, rotation, np.array([middle[0], middle[1], 0.0]) - rotation @ middle)


def ground_from_cloud(points: FloatArray, upward: FloatArray = UP, trials: int = 300) -> Similarity:
    """As `ground_from_points` for a cloud [P, 3] with outliers: the plane that most points are near to (RANSAC,
    Fischler and Bolles 1981), fitted again to these.

    Raises:
        ReconError: fewer than three points, or all on one line.
    """
    points = np.asarray(points, np.float64).reshape(-1, 3)
    if len(points) < 3:
        return ground_from_points(points, upward)
    generator = np.random.default_rng(0)
    if len(points) > 20_000:
        points = points[generator.choice(len(points), 20_000, replace=False)]
    tolerance = 0.01 * float(np.linalg.norm(np.percentile(points, 95, axis=0) - np.percentile(points, 5, axis=0)))
    best = np.ones(len(points), bool)
    most = 0
    for _ in range(trials):
        corners = points[generator.choice(len(points), 3, replace=False)]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        length = np.linalg.norm(normal)
        if length < 1e-12:
            continue
        near = np.abs((points - corners[0]) @ (normal / length)) <= tolerance
        if near.sum() > most:
            most, best = int(near.sum()), near
    return ground_from_points(points[best], upward)


def up_from_axis(axis: str) -> Similarity:
    """Returns the turn about the origin that brings one of `UP_AXES` to +Z.

    Raises:
        ReconError: it is none of them.
    """
    if axis not in UP_AXES:
        raise ReconError("setting the up axis", f"it is {axis!r}", f"one of {', '.join(UP_AXES)}")
    return Similarity(1.0, rotation_between(np.array(UP_AXES[axis], np.float64), UP), np.zeros(3))


def scale_from_distance(one: FloatArray, other: FloatArray, distance_m: float) -> Transform:
    """Returns the edit after which two points are `distance_m` metres apart, and a unit of the scene is a metre.

    Raises:
        ReconError: the points coincide, or the distance is not positive.
    """
    length = float(np.linalg.norm(np.asarray(one, np.float64) - np.asarray(other, np.float64)))
    if not (length > 1e-9 and 0 < distance_m < 1e9):
        raise ReconError(
            "setting the metric scale",
            f"points {length:g} apart are to be {distance_m:g} m apart",
            "two positive lengths",
        )
    return Transform(scale=distance_m / length, purpose="scale")
