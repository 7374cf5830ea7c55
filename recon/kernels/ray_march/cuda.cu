// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of marching: a thread owns a ray.  It walks its ray twice, first to count the samples and then, when
// their places are known, to write them.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/ray_march/groups.h"
#include "recon/kernels/ray_march/math.h"
#include "recon/kernels/ray_march/params.h"

namespace recon {
namespace {

constexpr int32_t kLeastGroup = 8;

RECON_FN float infinity() { return __uint_as_float(0x7f800000u); }

// Where marching begins; infinite for what is no distance.
RECON_FN float begin_of(const MarchParams& p, int64_t ray) {
    const float start = p.starts == nullptr ? p.near : p.starts[ray];
    return abs_(start) < kFarthest ? fmax_(start, p.near) : infinity();
}

template <class Params>
RECON_FN Line<float> line_of(const Params& p, int64_t ray) {
    const float* o = p.origins + 3 * ray;
    const float* d = p.directions + 3 * ray;
    const float scale = 1.0f / p.half_size;
    return {{(o[0] - p.center_x) * scale, (o[1] - p.center_y) * scale, (o[2] - p.center_z) * scale},
            {d[0] * scale, d[1] * scale, d[2] * scale}};
}

RECON_FN bool is_ray(const MarchParams& p, const Line<float>& ray, float jitter, float begin) {
    const float square = (ray.d[0] * ray.d[0] + ray.d[1] * ray.d[1] + ray.d[2] * ray.d[2]) * p.half_size * p.half_size;
    return square > kLeastDirection && square < kMostDirection && jitter >= 0.0f && jitter <= 1.0f &&
           begin < kFarthest && abs_(ray.y[0]) < kMostDistant && abs_(ray.y[1]) < kMostDistant &&
           abs_(ray.y[2]) < kMostDistant;
}

template <bool kContracted>
RECON_FN bool occupied(const MarchParams& p, int level, const Line<float>& ray, float t) {
    const Point<float> u = unit_of<kContracted>(point_at(ray, t));
    const int32_t side = p.resolution >> level;
    const float length = static_cast<float>(side);
    if (!kContracted && level == 0) {
        const float least = fmin_(u.x, fmin_(u.y, u.z)), greatest = fmax_(u.x, fmax_(u.y, u.z));
        if (!(least >= 0.0f && greatest * length < length)) return false;
    }
    const auto cell = [&](float a) {
        return static_cast<int32_t>(fmin_(fmax_(a * length, 0.0f), length - 1.0f));
    };
    const int32_t index = (cell(u.z) * side + cell(u.y)) * side + cell(u.x);
    return (p.bits[level_begin(p.resolution, level) + index / 32] >> (index % 32)) & 1u;
}

// What a ray has had so far.
struct Found {
    int32_t count, most, last;
};

// Walks the lattice points `first` to `last` of a piece.
template <bool kContracted, class Take>
RECON_FN void walk_piece(const MarchParams& p, const Line<float>& ray, const Piece<float>& piece, float jitter,
                         float reach, int32_t first, int32_t last, Found& found, const Take& take) {
    const Groups groups = groups_of(reach * static_cast<float>(p.resolution) * (kContracted ? 0.25f : 0.5f), kLeastGroup);
    for (int32_t k = first; k <= last; k += groups.size) {
        const int32_t end = k + groups.size <= last ? k + groups.size : last + 1;
        if (groups.level > 0) {
            const float middle = fmin_(static_cast<float>(k) + 0.5f * static_cast<float>(groups.size - 1),
                                       static_cast<float>(last));
            if (!occupied<kContracted>(p, groups.level, ray, distance_at(piece, middle + jitter))) continue;
        }
        for (int32_t i = k; i < end; ++i) {
            const float t = distance_at(piece, static_cast<float>(i) + jitter);
            if (!occupied<kContracted>(p, 0, ray, t)) continue;
            take(found.count, t);
            if (++found.count < found.most) continue;
            found.last = i;
            return;
        }
    }
}

// Where the ray is inside the cube |y| <= 1, within the distances given.
RECON_FN void enter_cube(const Line<float>& ray, float& near, float& far) {
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        const float y = ray.y[axis], d = ray.d[axis];
        if (abs_(d) > 1e-30f) {
            const float low = (-1.0f - y) / d, high = (1.0f - y) / d;
            near = fmax_(near, fmin_(low, high));
            far = fmin_(far, fmax_(low, high));
        } else if (!(abs_(y) <= 1.0f)) {
            far = -kNever;
        }
    }
}

template <class Take>
RECON_FN float walk_bounded(const MarchParams& p, const Line<float>& ray, float jitter, float begin, Found& found,
                            const Take& take) {
    float near = p.near, far = fmin_(p.far, kFarthest);
    enter_cube(ray, near, far);
    if (!(near < far)) return infinity();
    const float unit = p.step * p.half_size;
    const Bend<float> bend{near, 0.0f, 1.0f, 0.0f};
    const Piece<float> piece = piece_of(bend, unit);
    const float first = fmax_(ceilf((begin - near) / unit - jitter), 0.0f);
    const float last = fmin_(floorf((far - near) / unit - jitter), kMostNumber);
    if (!(first <= last)) return infinity();
    const float reach = reach_of(ray, bend, p.half_size, p.step);
    walk_piece<false>(p, ray, piece, jitter, reach, static_cast<int32_t>(first), static_cast<int32_t>(last), found, take);
    if (found.count < found.most || static_cast<float>(found.last) >= last) return infinity();
    return distance_at(piece, static_cast<float>(found.last) + 0.5f + jitter);
}

template <class Take>
RECON_FN float walk_contracted(const MarchParams& p, const Line<float>& ray, float jitter, float begin, Found& found,
                               const Take& take) {
    const float unit = p.step * p.half_size, far = fmin_(p.far, kFarthest);
    Bend<float> here = first_bend(ray, p.near);
    float k = -1.0f, end = infinity();
    bool full = false, placed = false;
    for (int number = 0; number < kMostBends; ++number) {
        const Bend<float> next = next_bend(ray, here, unit);
        const bool final = next.t >= kNever || number + 1 == kMostBends;
        if (k < 0.0f && (final || begin < next.t)) k = fmax_(ceilf(number_at(here, begin, unit) - jitter), 0.0f);
        float last = ceilf((final ? last_number(here, unit) : next.s) - jitter) - 1.0f;
        const bool stops = final || far < next.t;
        if (stops) last = fmin_(last, floorf(number_at(here, far, unit) - jitter));
        last = fmin_(last, kMostNumber);
        const Piece<float> piece = piece_of(here, unit);
        if (!full && k >= 0.0f && k <= last) {
            const float reach = reach_of(ray, here, p.half_size, p.step);
            walk_piece<true>(p, ray, piece, jitter, reach, static_cast<int32_t>(k), static_cast<int32_t>(last), found,
                             take);
            full = found.count >= found.most;
            k = last + 1.0f;
        }
        if (full) {
            // Where marching may begin again, if there are lattice points left.
            const float after = static_cast<float>(found.last) + 0.5f + jitter;
            if (!placed && (final || after < next.s)) end = distance_at(piece, after), placed = true;
            if (static_cast<float>(found.last) < last) return placed ? end : distance_at(piece, after);
        }
        if (stops) break;
        here = next;
    }
    return infinity();
}

template <class Take>
RECON_FN float walk(const MarchParams& p, int64_t number, Found& found, const Take& take) {
    const Line<float> ray = line_of(p, number);
    const float jitter = p.jitter == nullptr ? 0.5f : p.jitter[number], begin = begin_of(p, number);
    if (!is_ray(p, ray, jitter, begin)) return infinity();
    return p.contracted ? walk_contracted(p, ray, jitter, begin, found, take)
                        : walk_bounded(p, ray, jitter, begin, found, take);
}

struct Nothing {
    RECON_FN void operator()(int32_t, float) const {}
};

// Writes a sample.
struct Placing {
    const MarchParams& p;
    const Line<float>& line;
    int64_t ray, first;
    RECON_FN void operator()(int32_t number, float t) const {
        const int64_t i = first + number;
        const Point<float> y = point_at(line, t);
        const Point<float> u = p.contracted ? unit_of<true>(y) : unit_of<false>(y);
        const float m = p.contracted ? measure(y) : 1.0f;
        p.distances[i] = t;
        p.lengths[i] = p.step * p.half_size * m * m;
        p.ray_of[i] = static_cast<int32_t>(ray);
        p.positions[3 * i] = fmin_(fmax_(u.x, 0.0f), 1.0f);
        p.positions[3 * i + 1] = fmin_(fmax_(u.y, 0.0f), 1.0f);
        p.positions[3 * i + 2] = fmin_(fmax_(u.z, 0.0f), 1.0f);
    }
};

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(march_count, MarchParams, 128) {
    const int64_t ray = global_thread();
    if (ray >= p.rays) return;
    Found found{0, p.max_samples, 0};
    p.ends[ray] = walk(p, ray, found, Nothing{});
    p.offsets[ray + 1] = found.count;
}

RECON_KERNEL(march_place, MarchParams, 128) {
    const int64_t ray = global_thread();
    if (ray >= p.rays) return;
    if (ray >= p.served) {
        p.ends[ray] = begin_of(p, ray);
        return;
    }
    const int64_t first = p.offsets[ray];
    Found found{0, static_cast<int32_t>(p.offsets[ray + 1] - first), 0};
    if (found.most == 0) return;
    const Line<float> line = line_of(p, ray);
    walk(p, ray, found, Placing{p, line, ray, first});
}

RECON_KERNEL(march_backward, MarchBackwardParams, 128) {
    const int64_t ray = global_thread();
    if (ray >= p.rays) return;
    const Line<float> line = line_of(p, ray);
    float origin[3] = {0, 0, 0}, direction[3] = {0, 0, 0};
    for (int64_t i = p.offsets[ray]; i < p.offsets[ray + 1]; ++i) {
        const float t = p.distances[i];
        const float* g = p.position_gradient + 3 * i;
        const Point<float> y = point_at(line, t), given{g[0], g[1], g[2]};
        const Point<float> back = p.contracted ? unit_backward<true>(y, given) : unit_backward<false>(y, given);
        origin[0] += back.x, origin[1] += back.y, origin[2] += back.z;
        direction[0] += t * back.x, direction[1] += t * back.y, direction[2] += t * back.z;
    }
    const float scale = 1.0f / p.half_size;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        p.origin_gradient[3 * ray + axis] = scale * origin[axis];
        p.direction_gradient[3 * ray + axis] = scale * direction[axis];
    }
}
