// SPDX-License-Identifier: Apache-2.0
// What one depth map says about one voxel (Curless and Levoy 1996), without any memory access.
//
// Notation: z is the voxel's depth in the camera, d the depth of the surface on the voxel's ray, s the slant: the
// distance from the surface's tangent plane per unit of z along that ray, n · (x/z, y/z, 1).  So (d - z) s is the
// point-to-plane distance, positive in front.  Inverse depth is affine in the picture for a plane, so interpolating
// it bilinearly is exact there.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

// Beyond about 75° the slant is held, so that the band along the ray stays short.
inline constexpr float kMinSlant = 0.25f;
// Behind the surface the weight is full down to this share of the truncation, then falls to 0 at the whole of it:
// what lies deeper may already be the far side of something thin.
inline constexpr float kPlateau = 0.5f;
// In front the weight is full up to the same share and falls to this at the whole truncation: a ray that grazes a
// convex surface and passes it says "free" beside voxels whose true distance is small, which would shrink it.
inline constexpr float kFreeWeight = 0.1f;

template <class F>
struct ProjectedVoxel {
    F u, v, z;  // pixels and depth
};

template <class F>
RECON_FN ProjectedVoxel<F> project_voxel(F x, F y, F z, F fx, F fy, F cx, F cy) {
    const F inverse = F(1.0f) / z;
    return {fma_(fx, x * inverse, cx), fma_(fy, y * inverse, cy), z};
}

// Bilinear inverse depth between four neighbouring pixels (a b / c d) at the fractions (s, t); `nearest` where one of
// the four is unknown or they lie on different surfaces.
template <class F>
RECON_FN F interpolate_inverse_depth(F a, F b, F c, F d, F s, F t, F nearest, F jump) {
    const F low = fmin_(fmin_(a, b), fmin_(c, d));
    const F high = fmax_(fmax_(a, b), fmax_(c, d));
    const F top = fma_(s, b - a, a);
    const F bottom = fma_(s, d - c, c);
    const MaskOf<F> smooth = (low > F(0.0f)) & (high - low <= jump * high);
    return select(smooth, fma_(t, bottom - top, top), nearest);
}

template <class F>
struct Observation {
    F distance;  // in units of the truncation, at most 1
    F weight;    // 0 where the voxel is not observed
};

template <class F>
RECON_FN Observation<F> observe_voxel(F z, F inverse_depth, F slant, F confidence, F inverse_truncation) {
    const F zero(0.0f), one(1.0f);
    const MaskOf<F> known = (inverse_depth > zero) & (confidence > zero) & (z > zero);
    const F depth = one / select(known, inverse_depth, one);
    const F distance = fmin_((depth - z) * fmax_(slant, F(kMinSlant)) * inverse_truncation, one);
    const F reach = F(1.0f / (1.0f - kPlateau));
    const F behind = fmin_((distance + one) * reach, one);
    const F before = fma_(fmin_((one - distance) * reach, one), F(1.0f - kFreeWeight), F(kFreeWeight));
    const F ramp = fmin_(behind, before);
    return {distance, select(known & (distance > -one), confidence * ramp, zero)};
}

}  // namespace recon
