// SPDX-License-Identifier: Apache-2.0
// A ray against a triangle (Möller and Trumbore 1997) and against a box (Kay and Kajiya 1986).
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

template <class F>
struct Vec3 {
    F x, y, z;
};

template <class F>
RECON_FN Vec3<F> cross(Vec3<F> a, Vec3<F> b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class F>
RECON_FN F dot(Vec3<F> a, Vec3<F> b) {
    return fma_(a.x, b.x, fma_(a.y, b.y, a.z * b.z));
}

template <class F>
RECON_FN Vec3<F> operator-(Vec3<F> a, Vec3<F> b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
}

template <class F>
struct TriangleHit {
    MaskOf<F> hit;
    F distance, u, v;  // u and v are the weights of the second and third corner
};

// Both sides count.  `slack` widens the triangle a little (in barycentric units) so that rays do not slip through the
// shared edge of two triangles, whose weights are rounded differently.  A sliver so thin, seen from the origin, that
// rounding would decide the weights is not hit at all.
template <class F>
RECON_FN TriangleHit<F> intersect_triangle(Vec3<F> origin, Vec3<F> direction, Vec3<F> corner, Vec3<F> edge1,
                                           Vec3<F> edge2, F nearest, F farthest, F slack) {
    const Vec3<F> p = cross(direction, edge2);
    const F determinant = dot(edge1, p);
    const F inverse = F(1.0f) / determinant;  // infinite for a parallel ray: every comparison below is then false
    const Vec3<F> s = origin - corner;
    const MaskOf<F> reliable = determinant * determinant > F(2.5e-13f) * (dot(s, s) * dot(p, p));
    const F u = dot(s, p) * inverse;
    const Vec3<F> q = cross(s, edge1);
    const F v = dot(direction, q) * inverse;
    const F distance = dot(edge2, q) * inverse;
    const MaskOf<F> inside = (u >= -slack) & (v >= -slack) & (u + v <= F(1.0f) + slack);
    return {reliable & inside & (distance > nearest) & (distance < farthest), distance, u, v};
}

// Whether the ray meets the box between the two distances.  `inverse` is 1 / direction with zeros replaced by a huge
// finite number, so that no 0 · ∞ arises.
template <class F>
RECON_FN MaskOf<F> intersect_box(Vec3<F> origin, Vec3<F> inverse, Vec3<F> low, Vec3<F> high, F nearest, F farthest) {
    const F x1 = (low.x - origin.x) * inverse.x, x2 = (high.x - origin.x) * inverse.x;
    const F y1 = (low.y - origin.y) * inverse.y, y2 = (high.y - origin.y) * inverse.y;
    const F z1 = (low.z - origin.z) * inverse.z, z2 = (high.z - origin.z) * inverse.z;
    const F enter = fmax_(fmax_(fmin_(x1, x2), fmin_(y1, y2)), fmax_(fmin_(z1, z2), nearest));
    const F leave = fmin_(fmin_(fmax_(x1, x2), fmax_(y1, y2)), fmin_(fmax_(z1, z2), farthest));
    // The factor makes up for the rounding of the slab distances (Ize 2013).
    return enter <= leave * F(1.0000005f);
}

}  // namespace recon
