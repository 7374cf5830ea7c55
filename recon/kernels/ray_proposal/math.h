// SPDX-License-Identifier: Apache-2.0
// What the occupancy grid says of a place on a ray, and where the ray's samples lie; notation in op.py.
#pragma once
#include "recon/kernels/common/simd.h"
#include "recon/kernels/ray_march/math.h"
#include "recon/kernels/ray_proposal/params.h"

namespace recon {

constexpr int kMostPlaces = 512, kMostIntervals = 512;
constexpr float kLeastPlaceWeight = 1e-6f;  // of what can never be occupied
constexpr float kLeastTotal = 1e-3f;        // of a ray's light, below which the weights become even
constexpr float kLeastMeasure = 1e-3f;      // 1 / m of the furthest places
constexpr float kUnknownFrom = 1e30f;       // stored densities from here on stand for infinity

// A ray as one thread sees it: distance = base + span · table entry.
struct ProposalRay {
    Line<float> line;
    float base, span, jitter;
    bool usable;
};

RECON_FN ProposalRay proposal_ray(const ProposalParams& p, int64_t ray) {
    const float* o = p.origins + 3 * ray;
    const float* d = p.directions + 3 * ray;
    const float scale = 1.0f / p.half_size, center[3] = {p.center_x, p.center_y, p.center_z};
    ProposalRay r{};
    float square = 0.0f, farthest = 0.0f, low = p.near, high = p.far;
    bool finite = true;
    for (int axis = 0; axis < 3; ++axis) {
        const float y = (o[axis] - center[axis]) * scale;
        square += d[axis] * d[axis];
        farthest = fmax_(farthest, abs_(y));
        finite = finite && abs_(y) < kMostDistant;
        r.line.y[axis] = y;
        r.line.d[axis] = d[axis] * scale;
        if (abs_(d[axis]) < kLeastDirection) {
            // Along a side of the cube the ray is inside all the way or never.
            if (!(abs_(y) <= 1.0f)) high = p.contracted ? high : -1.0f;
        } else if (!p.contracted) {
            const float first = (-1.0f - y) / d[axis] * p.half_size, second = (1.0f - y) / d[axis] * p.half_size;
            low = fmax_(low, fmin_(first, second));
            high = fmin_(high, fmax_(first, second));
        }
    }
    r.jitter = p.jitter == nullptr ? 0.5f : p.jitter[ray];
    r.usable = finite && square > kLeastDirection && square < kMostDirection && r.jitter >= 0.0f && r.jitter <= 1.0f &&
               low < high;
    r.base = p.contracted ? 0.0f : low;
    r.span = p.contracted ? 1.0f : high - low;
    return r;
}

RECON_FN float whole_part(float a) { return static_cast<float>(static_cast<int32_t>(a)); }
#if !defined(__CUDACC__)
RECON_FN Pack whole_part(Pack a) { return floats(truncated(a)); }
#endif

// The number of the cell in which a place lies, a whole one of at most 2^24, and how long the place is in cells.
template <class F>
struct PlaceCell {
    F number, cells;
};
template <bool kContracted, class F>
RECON_FN PlaceCell<F> place_cell(const Line<F>& line, F from, F to, float half_size, float resolution) {
    const Point<F> y = point_at(line, F(0.5f) * (from + to));
    F length = (to - from) * F(1.0f / half_size);
    Point<F> u;
    if constexpr (kContracted) {
        const F inverse = inverse_(measure(y)), scale = fmax_(inverse, F(kLeastMeasure));
        u = contracted_unit(y, inverse);
        length = length * scale * scale;
    } else {
        u = bounded_unit(y);
    }
    const F side(resolution), last(resolution - 1.0f), zero(0.0f);
    const auto along = [&](F a) { return whole_part(fmin_(fmax_(a * side, zero), last)); };
    const F number = fma_(fma_(along(u.z), side, along(u.y)), side, along(u.x));
    return {number, length * F(resolution * (kContracted ? 0.25f : 0.5f))};
}

// The optical depth of a place, from what is stored for its cell.
template <class F>
RECON_FN F place_depth(F stored, F cells, float unknown_depth) {
    const F known = select(stored > F(0.0f), stored, F(0.0f));
    return select(stored >= F(kUnknownFrom), F(unknown_depth), known) * cells;
}

// What light ends in a place or in those beside it, from the light before and behind the three.
template <class F>
RECON_FN F widened(F before_all, F before, F behind, F behind_all) {
    return fmax_(fmax_(before_all - before, before - behind), behind - behind_all);
}

template <class F>
RECON_FN F place_weight(F stored, F ends, F factor, F even) {
    return select(stored < F(0.0f), F(kLeastPlaceWeight), fmax_(fma_(ends, factor, even), F(kLeastPlaceWeight)));
}

// Where an edge lies between two entries of the table.
template <class F>
RECON_FN F edge_between(F wanted, F sum, F next_sum, F from, F to) {
    const F into = (wanted - sum) / fmax_(next_sum - sum, F(1e-12f));
    return fma_(to - from, fmin_(fmax_(into, F(0.0f)), F(1.0f)), from);
}

// The share of the weights at which edge k is drawn.
template <class F>
RECON_FN F edge_share(F k, float shift, float scale) {
    return fmin_(fmax_((k + F(shift)) * F(scale), F(0.0f)), F(1.0f));
}

}  // namespace recon
