// SPDX-License-Identifier: Apache-2.0
// The lattice of a ray and where its points lie in the unit cube; notation in types.py.
//
// Lattice numbers s grow with ds = dt / (unit M²), where unit = step · half_size and M = max(1, max |y_i|) in a
// contracted space, 1 in a bounded one.  M is the upper envelope of seven lines in t (1 and ±y_i), which bends at most
// six times, and between two bends, where M = M₀ + slope (t − t₀),
//     s − s₀ = (t − t₀) / (unit M₀ M),   t − t₀ = unit M₀² (s − s₀) / (1 − unit M₀ slope (s − s₀)).
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

constexpr int kMostBends = 7;
constexpr float kNever = 3e38f;     // the distance of a bend that there is not
constexpr float kFarthest = 1e20f;  // stands for any greater distance, so that products remain numbers
constexpr float kMostDistant = 1e9f;  // half sizes from the centre; rays that begin beyond get no samples
constexpr float kMostNumber = 4194303.0f;  // of the lattice; far beyond what rays of unit length have
constexpr float kLeastDirection = 1e-12f, kMostDirection = 1e12f;  // squared lengths

RECON_FN float inverse_(float a) { return 1.0f / a; }
RECON_FN double inverse_(double a) { return 1.0 / a; }
#if !defined(__CUDACC__)
RECON_FN Pack inverse_(Pack a) { return reciprocal_(a); }
#endif

// y + t d, in half sizes of the space from its centre.
template <class F>
struct Line {
    F y[3], d[3];
};

// The piece of the lattice from here to the next bend.
template <class F>
struct Bend {
    F t, s, m, slope;
};

template <class F>
struct Point {
    F x, y, z;
};

// M at t, by the steepest of the lines that are the greatest there; it has the number 0.
template <class F>
RECON_FN Bend<F> first_bend(const Line<F>& ray, F t) {
    F m(1.0f), slope(0.0f);
    for (int axis = 0; axis < 3; ++axis) {
        for (int side = 0; side < 2; ++side) {
            const F d = side ? -ray.d[axis] : ray.d[axis], y = fma_(t, d, side ? -ray.y[axis] : ray.y[axis]);
            const auto better = (y > m) | ((y >= m) & (d > slope));
            m = select(better, y, m);
            slope = select(better, d, slope);
        }
    }
    return {t, F(0.0f), m, slope};
}

// Where a steeper line overtakes; its t is kNever where none does.
template <class F>
RECON_FN Bend<F> next_bend(const Line<F>& ray, const Bend<F>& here, F unit) {
    F soonest(kNever), steepest(0.0f);
    const auto consider = [&](F value, F slope) {
        const F wait = fmax_(here.m - value, F(0.0f)) * inverse_(slope - here.slope);
        const auto better = (slope > here.slope) & ((wait < soonest) | ((wait <= soonest) & (slope > steepest)));
        soonest = select(better, wait, soonest);
        steepest = select(better, slope, steepest);
    };
    consider(F(1.0f), F(0.0f));
    for (int axis = 0; axis < 3; ++axis) {
        const F y = fma_(here.t, ray.d[axis], ray.y[axis]);
        consider(y, ray.d[axis]);
        consider(-y, -ray.d[axis]);
    }
    const auto none = soonest >= F(kFarthest);
    const F m = fma_(soonest, here.slope, here.m);
    const F s = fma_(soonest, inverse_(unit * here.m * m), here.s);
    return {select(none, F(kNever), here.t + soonest), select(none, F(kNever), s), m, steepest};
}

// The lattice number of a distance on this piece.
template <class F>
RECON_FN F number_at(const Bend<F>& bend, F t, F unit) {
    const F ahead = t - bend.t;
    return fma_(ahead * inverse_(fma_(ahead, bend.slope, bend.m)), inverse_(unit * bend.m), bend.s);
}

// The last lattice number of a ray whose last piece this is: half a step beyond, there is still a distance.
template <class F>
RECON_FN F last_number(const Bend<F>& bend, F unit) {
    return bend.s + inverse_(unit * bend.m * bend.slope) - F(0.5f);
}

// A piece as stepping needs it.
template <class F>
struct Piece {
    F t, s, ahead, turn;
};
template <class F>
RECON_FN Piece<F> piece_of(const Bend<F>& bend, F unit) {
    return {bend.t, bend.s, unit * bend.m * bend.m, unit * bend.m * bend.slope};
}
template <class F>
RECON_FN F distance_at(const Piece<F>& piece, F number) {
    const F steps = number - piece.s;
    return fma_(piece.ahead * steps, inverse_(fnma_(piece.turn, steps, F(1.0f))), piece.t);
}

// How far a point of the lattice moves along an axis at most, in half sizes, from one number to the next.  On the piece
// of a line y_i the contracted coordinates move by d_i y_j / m + (2 − 1/m)(y_i d_j − y_j d_i), times the step, for d of
// unit length; the product with d_j is the same all along the ray.
template <class F>
RECON_FN F reach_of(const Line<F>& ray, const Bend<F>& bend, F half_size, F step) {
    const F* y = ray.y;
    const F* d = ray.d;
    const F straight = fmax_(abs_(d[0]), fmax_(abs_(d[1]), abs_(d[2])));
    const F turning = fmax_(abs_(y[0] * d[1] - y[1] * d[0]),
                            fmax_(abs_(y[1] * d[2] - y[2] * d[1]), abs_(y[2] * d[0] - y[0] * d[2])));
    const auto outside = (bend.m > F(1.0f)) | (bend.slope > F(0.0f));
    return select(outside, fma_(F(2.0f), turning, straight), straight) * half_size * step;
}

// max |y_i|, and not below 1.
template <class F>
RECON_FN F measure(const Point<F>& y) {
    return fmax_(fmax_(fmax_(abs_(y.x), abs_(y.y)), abs_(y.z)), F(1.0f));
}

template <class F>
RECON_FN Point<F> point_at(const Line<F>& ray, F t) {
    return {fma_(t, ray.d[0], ray.y[0]), fma_(t, ray.d[1], ray.y[1]), fma_(t, ray.d[2], ray.y[2])};
}

// A point in the unit cube, contracted where `inverse` is 1 / max(1, m); 1/2 of a bounded one where it is 1.
template <class F>
RECON_FN Point<F> contracted_unit(const Point<F>& y, F inverse) {
    const F scale = F(0.25f) * inverse * (F(2.0f) - inverse);
    return {fma_(scale, y.x, F(0.5f)), fma_(scale, y.y, F(0.5f)), fma_(scale, y.z, F(0.5f))};
}
template <class F>
RECON_FN Point<F> bounded_unit(const Point<F>& y) {
    const F half(0.5f);
    return {fma_(half, y.x, half), fma_(half, y.y, half), fma_(half, y.z, half)};
}
template <bool kContracted, class F>
RECON_FN Point<F> unit_of(const Point<F>& y) {
    if constexpr (kContracted) return contracted_unit(y, inverse_(measure(y)));
    return bounded_unit(y);
}

// The vector-Jacobian product of unit_of: the gradient by y.
//     c_j = α y_j with α = 2/m − 1/m², and dα/dm = −2/m² + 2/m³, where m = |y_i|
template <bool kContracted, class F>
RECON_FN Point<F> unit_backward(const Point<F>& y, const Point<F>& g) {
    if constexpr (!kContracted) return {F(0.5f) * g.x, F(0.5f) * g.y, F(0.5f) * g.z};
    const F m = measure(y), inverse = inverse_(m), quarter(0.25f), zero(0.0f);
    const F alpha = quarter * inverse * (F(2.0f) - inverse);
    const F slope = F(0.5f) * inverse * inverse * (inverse - F(1.0f));
    const F along = slope * fma_(g.x, y.x, fma_(g.y, y.y, g.z * y.z));
    // The first of the greatest; where m is 1 the slope is 0.
    const auto first = abs_(y.x) >= m;
    const auto second = (!first) & (abs_(y.y) >= m);
    const auto third = (!first) & (!second);
    const auto signed_ = [&](auto mask, F v) { return select(mask, select(v < zero, -along, along), zero); };
    return {fma_(alpha, g.x, signed_(first, y.x)), fma_(alpha, g.y, signed_(second, y.y)),
            fma_(alpha, g.z, signed_(third, y.z))};
}

}  // namespace recon
