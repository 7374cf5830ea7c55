# SPDX-License-Identifier: Apache-2.0
"""The last bundle adjustment: robust, cleaned of outliers, with as much lens as the photos can tell.

Most of a pose's error is a principal point taken to be in the middle, a lens model that is too plain, and mismatches
that squared errors let pull.  So the loss is Cauchy's, its scale follows the errors that are there, the principal
point is refined wherever its standard deviation (from the curvature of the problem and the size of the errors) is
small, and a second radial coefficient stays where it lowers the cost by more than a hundredth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon.sfm.contracts import Features
from recon.sfm.mapping import MappingProblem, constant_cameras, quiet_colmap, to_pycolmap
from recon.sfm.observations import lens_of, read_observations

# Largest standard deviation of a refined principal point, and its largest way from the middle; shares of the width.
CENTER_DEVIATION = 0.005
CENTER_SHIFT = 0.12
# Least relative drop of the robust cost that earns a lens another coefficient.
LENS_GAIN = 0.01
LEAST_OBSERVATIONS = 400
LEAST_ANGLE_DEG = 1.0


@dataclass(frozen=True)
class Adjustment:
    """One bundle adjustment: its robust cost and, camera by camera, the deviations of its parameters in pixels."""

    cost: float
    deviations: dict[int, np.ndarray]


def refine(problem: MappingProblem, model: Any, principal_point: bool | None) -> tuple[Any, tuple[str, ...]]:
    """Returns the adjusted model and what was decided on the way.

    Args:
        problem: the photos, features and verified pairs.
        model: a `pycolmap.Reconstruction`; it may be changed.
        principal_point: whether to refine it; None decides camera by camera.
    """
    fixed = constant_cameras(problem.photos)
    free = [camera_id for camera_id in _used_cameras(model) if camera_id not in fixed]
    notes: list[str] = []
    with quiet_colmap():
        if free and principal_point is not False:
            model, centered, first = _refine_centers(model, problem.features, fixed, principal_point, notes)
        else:
            centered, first = set(), adjust(model, problem.features, fixed, False)
        weak = set(free) - centered
        candidates = [c for c in free if problem.photos.cameras[c - 1].model is None]
        if candidates and first is not None:
            model = _try_second_coefficient(model, problem.features, fixed | weak, bool(centered), first, notes)
        retriangulate(problem, model)
        drop_outliers(model, problem.features)
        adjust(model, problem.features, fixed | weak, bool(centered))
        if weak:
            adjust(model, problem.features, fixed | centered, False)
        drop_outliers(model, problem.features)
        model.update_point_3d_errors()
    return model, tuple(notes)


def adjust(
    model: Any, features: Sequence[Features], constant: Iterable[int], move_centers: bool, deviations: bool = False
) -> Adjustment | None:
    """Runs one robust bundle adjustment in place; None where there is nothing to adjust.

    It has one thread, because with more Ceres sums in another order every time, and the poses would differ from run
    to run.

    Args:
        model: a `pycolmap.Reconstruction`.
        features: of all photos.
        constant: the cameras whose lens is held.
        move_centers: whether the other cameras' principal points move.
        deviations: whether to estimate the standard deviations of the lens parameters.
    """
    import pycolmap

    errors = read_observations(model, features).errors_px
    errors = errors[np.isfinite(errors)]
    if len(errors) == 0:
        return None
    noise = float(np.median(errors))
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_principal_point = move_centers
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = float(np.clip(noise, 0.1, 4.0))
    options.ceres.solver_options.num_threads = 1
    options.ceres.solver_options.max_num_iterations = 50
    options.ceres.solver_options.function_tolerance = 1e-6
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in sorted(model.reg_image_ids()):
        config.add_image(image_id)
    for camera_id in constant:
        config.set_constant_cam_intrinsics(camera_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    adjuster = pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
    adjuster.solve()
    found: dict[int, np.ndarray] = {}
    if deviations:
        settings = pycolmap.BACovarianceOptions()
        settings.params = pycolmap.BACovarianceOptionsParams.ALL
        covariance = pycolmap.estimate_ba_covariance(settings, model, adjuster)
        for camera_id in _used_cameras(model):
            if covariance is None:
                break
            block = covariance.get_other_params_cov(model.camera(camera_id).params)
            if block is not None and np.isfinite(block).all():
                found[camera_id] = noise * np.sqrt(np.maximum(np.diag(block), 0.0))
    return Adjustment(_robust_cost(model, features, options.ceres.loss_function_scale), found)


def drop_outliers(model: Any, features: Sequence[Features]) -> int:
    """Takes away observations with an error above six medians (0.75 to 4 px) and points seen under tiny angles."""
    import pycolmap

    errors = read_observations(model, features).errors_px
    errors = errors[np.isfinite(errors)]
    if len(errors) == 0:
        return 0
    limit = float(np.clip(6.0 * np.median(errors), 0.75, 4.0))
    return int(pycolmap.ObservationManager(model).filter_all_points3D(limit, LEAST_ANGLE_DEG))


def retriangulate(problem: MappingProblem, model: Any) -> None:
    """Completes and merges tracks, which the better lens now lets fit."""
    import pycolmap

    # COLMAP leaves photos out of a model that none of its photos is linked to, and stumbles over their pairs.
    posed = set(model.reg_image_ids())
    graph = pycolmap.CorrespondenceGraph()
    for image_id in sorted(posed):
        graph.add_image(image_id, len(problem.features[image_id - 1]))
    for geometry in problem.geometries:
        if not {geometry.first + 1, geometry.second + 1} <= posed:
            continue
        graph.add_two_view_geometry(geometry.first + 1, geometry.second + 1, to_pycolmap(geometry))
    graph.finalize()
    manager = pycolmap.ObservationManager(model, graph)
    triangulator = pycolmap.IncrementalTriangulator(graph, model, manager)
    options = pycolmap.IncrementalTriangulatorOptions()
    options.random_seed = 0
    triangulator.complete_all_tracks(options)
    triangulator.merge_all_tracks(options)
    triangulator.retriangulate(options)


def _refine_centers(
    model: Any, features: Sequence[Features], fixed: set[int], wanted: bool | None, notes: list[str]
) -> tuple[Any, set[int], Adjustment | None]:
    """Frees the principal points, keeps those that are well constrained and puts the others back in the middle."""
    import pycolmap

    before = pycolmap.Reconstruction(model)
    first = adjust(model, features, fixed, True, deviations=True)
    if first is None:
        return before, set(), None
    centered: set[int] = set()
    for camera_id in _used_cameras(model):
        if camera_id in fixed:
            continue
        camera = model.camera(camera_id)
        where = camera.principal_point_idxs()
        shift = np.array([camera.principal_point_x - camera.width / 2, camera.principal_point_y - camera.height / 2])
        size = np.array([camera.width, camera.height])
        deviation = first.deviations.get(camera_id)
        sure = deviation is not None and bool((deviation[where] < CENTER_DEVIATION * size.max()).all())
        sane = bool((np.abs(shift) < CENTER_SHIFT * size).all()) and _lens_is_sane(camera)
        if sane and (wanted or sure):
            centered.add(camera_id)
            spread = "" if deviation is None else f" (deviation {deviation[where].max():.1f} px)"
            notes.append(
                f"camera {camera_id - 1}: principal point refined to "
                f"{camera.principal_point_x:.1f}, {camera.principal_point_y:.1f}{spread}"
            )
        else:
            notes.append(f"camera {camera_id - 1}: principal point kept in the middle, the photos do not pin it down")
    weak = [c for c in _used_cameras(model) if c not in fixed | centered]
    if weak:
        # The free fit bent these cameras, so it is taken back and done again without them.
        model = before
        if centered:
            adjust(model, features, fixed | set(weak), True)
        first = adjust(model, features, fixed | centered, False)
    return model, centered, first


def _try_second_coefficient(
    model: Any,
    features: Sequence[Features],
    constant: set[int],
    move_centers: bool,
    first: Adjustment,
    notes: list[str],
) -> Any:
    """Gives plain radial lenses a second coefficient and returns the better of the two models."""
    import pycolmap

    candidates = [
        camera_id
        for camera_id in _used_cameras(model)
        if camera_id not in constant
        and model.camera(camera_id).model_name == "SIMPLE_RADIAL"
        and _observation_count(model, camera_id) >= LEAST_OBSERVATIONS
    ]
    if not candidates:
        return model
    scale = float(np.clip(np.median(read_observations(model, features).errors_px), 0.1, 4.0))
    plain_cost = _robust_cost(model, features, scale)
    richer = pycolmap.Reconstruction(model)
    for camera_id in candidates:
        camera = richer.camera(camera_id)
        params = [*camera.params, 0.0]
        camera.model = pycolmap.CameraModelId.RADIAL
        camera.params = params
    adjust(richer, features, constant, move_centers)
    gain = 1.0 - _robust_cost(richer, features, scale) / max(plain_cost, 1e-12)
    if gain < LENS_GAIN or not all(_lens_is_sane(richer.camera(c)) for c in candidates):
        return model
    notes.append(f"two radial distortion coefficients: they lower the robust error by {100 * gain:.1f}%")
    return richer


def _robust_cost(model: Any, features: Sequence[Features], scale: float) -> float:
    """Cauchy's loss over all observations; what lies behind a camera counts as ten pixels off."""
    errors = np.where(np.isfinite(e := read_observations(model, features).errors_px), np.minimum(e, 1e3), 10.0)
    return float((scale**2 * np.log1p((errors / scale) ** 2)).sum())


def _used_cameras(model: Any) -> list[int]:
    return sorted({model.image(image_id).camera_id for image_id in model.reg_image_ids()})


def _observation_count(model: Any, camera_id: int) -> int:
    return sum(
        model.image(image_id).num_points3D
        for image_id in model.reg_image_ids()
        if model.image(image_id).camera_id == camera_id
    )


def _lens_is_sane(camera: Any) -> bool:
    """Whether the focal length is plausible and the distortion grows outwards over the whole picture."""
    if camera.has_bogus_params(0.1, 10.0, 100.0):
        return False
    lens = lens_of(camera)
    if lens.model.value not in ("OPENCV", "PINHOLE"):
        return True
    k1, k2 = (*lens.distortion[:2], 0.0, 0.0)[:2]
    corners = [((x - lens.cx) / lens.fx, (y - lens.cy) / lens.fy) for x in (0, lens.width) for y in (0, lens.height)]
    # The corner's distorted radius bounds its undistorted one only roughly, hence the margin of a fifth.
    r2 = (1.2**2 * max(u * u + v * v for u, v in corners)) * np.linspace(0, 1, 32)
    return bool((1 + 3 * k1 * r2 + 5 * k2 * r2**2 > 0.2).all())
