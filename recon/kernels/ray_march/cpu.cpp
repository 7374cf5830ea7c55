// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of marching.  A thread takes kChunk rays at a time; the pieces of their lattices are found for kLanes
// rays at once, and then each ray is walked by itself, with SIMD over its lattice points: first over groups of them,
// whose middles are looked up on a coarse level of the bits that tells of all cells the group may reach, then over the
// points of the groups that may hold anything.
//
// Distances go into the thread's own row of the arena.  Once all are counted and their places known, positions and
// lengths are made of them: the thread that owns a ray writes its samples.
#include <omp.h>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/rows.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/ray_march/groups.h"
#include "recon/kernels/ray_march/lanes.h"
#include "recon/kernels/ray_march/math.h"
#include "recon/kernels/ray_march/params.h"

namespace recon {
namespace {

constexpr int64_t kChunk = 64;
constexpr int32_t kLeastGroup = 16;
static_assert(kLeastGroup % kLanes == 0 && kChunk % kLanes == 0);

struct Grid {
    const uint32_t* levels[kLevels];
    float sides[kLevels];
    float cells_per_half_size;
};

Grid grid_of(const MarchParams& p) {
    Grid grid;
    for (int level = 0; level < kLevels; ++level) {
        grid.levels[level] = p.bits + level_begin(p.resolution, level);
        grid.sides[level] = static_cast<float>(p.resolution >> level);
    }
    grid.cells_per_half_size = static_cast<float>(p.resolution) * (p.contracted ? 0.25f : 0.5f);
    return grid;
}

// What kLanes rays are walked by.
struct Walks {
    float y[3][kLanes], d[3][kLanes], jitter[kLanes];
    float t[kMostBends][kLanes], s[kMostBends + 1][kLanes], ahead[kMostBends][kLanes], turn[kMostBends][kLanes];
    float reach[kMostBends][kLanes];
    float first[kLanes], last[kLanes];  // lattice numbers less jitter, whole; last < first: no sample
    float begin[kLanes];                // the distance where marching begins
};

// Where rays are inside the cube |y| <= 1.
RECON_FN void enter_cube(const Line<Pack>& ray, Pack& near, Pack& far) {
    for (int axis = 0; axis < 3; ++axis) {
        const Pack y = ray.y[axis], d = ray.d[axis];
        const Mask across = abs_(d) > Pack(1e-30f), inside = abs_(y) <= Pack(1.0f);
        const Pack inverse = inverse_(select(across, d, Pack(1.0f)));
        const Pack low = (Pack(-1.0f) - y) * inverse, high = (Pack(1.0f) - y) * inverse;
        const Pack otherwise = select(inside, Pack(-kNever), Pack(kNever));
        near = fmax_(near, select(across, fmin_(low, high), otherwise));
        far = fmin_(far, select(across, fmax_(low, high), -otherwise));
    }
}

RECON_FN void keep_bend(Walks& w, int number, const Line<Pack>& ray, const Bend<Pack>& bend, const MarchParams& p) {
    const Piece<Pack> piece = piece_of(bend, Pack(p.step * p.half_size));
    store(w.t[number], piece.t);
    store(w.s[number], piece.s);
    store(w.ahead[number], piece.ahead);
    store(w.turn[number], piece.turn);
    store(w.reach[number], reach_of(ray, bend, Pack(p.half_size), Pack(p.step)));
}

// The pieces of a contracted space's lattice from `near` on; `first` and `far` are distances and become numbers.
RECON_FN Pack bend_lattice(Walks& w, const Line<Pack>& ray, const MarchParams& p, Pack& first, Pack& far) {
    const Pack unit(p.step * p.half_size), never(kNever);
    Bend<Pack> here = first_bend(ray, Pack(p.near)), last = here;
    Pack first_number(0.0f), far_number(0.0f);
    for (int number = 0; number < kMostBends; ++number) {
        keep_bend(w, number, ray, here, p);
        const Mask is = here.t < never;
        last = {select(is, here.t, last.t), select(is, here.s, last.s), select(is, here.m, last.m),
                select(is, here.slope, last.slope)};
        first_number = select(is & (here.t <= first), number_at(here, first, unit), first_number);
        far_number = select(is & (here.t <= far), number_at(here, far, unit), far_number);
        if (number + 1 == kMostBends || !any(is)) {
            store(w.s[number + 1], never);
            break;
        }
        here = next_bend(ray, last, unit);
        // A lane whose pieces have ended stays at its end.
        here.t = select(is, here.t, never);
        here.s = select(is, here.s, never);
    }
    first = first_number;
    far = far_number;
    return last_number(last, unit);
}

template <bool kContracted>
void prepare(const MarchParams& p, int64_t first_ray, int count, Walks& w) {
    float spare_origins[3 * kLanes], spare_directions[3 * kLanes];
    const Pack3 origin = load_rows3(whole_rows<3>(p.origins, first_ray, count, spare_origins));
    const Pack3 direction = load_rows3(whole_rows<3>(p.directions, first_ray, count, spare_directions));
    const Mask present = first_lanes(count < kLanes ? count : kLanes);
    const Pack scale(1.0f / p.half_size), zero(0.0f);
    Line<Pack> ray{{(origin.x - Pack(p.center_x)) * scale, (origin.y - Pack(p.center_y)) * scale,
                    (origin.z - Pack(p.center_z)) * scale},
                   {direction.x * scale, direction.y * scale, direction.z * scale}};
    const Pack square = fma_(direction.x, direction.x, fma_(direction.y, direction.y, direction.z * direction.z));
    const Pack jitter = p.jitter == nullptr ? Pack(0.5f) : load_masked(p.jitter + first_ray, present);
    const Pack start = p.starts == nullptr ? Pack(p.near) : load_masked(p.starts + first_ray, present);
    Mask valid = present & (square > Pack(kLeastDirection)) & (square < Pack(kMostDirection)) & (jitter >= zero) &
                 (jitter <= Pack(1.0f)) & (abs_(start) < Pack(kFarthest));
    for (int axis = 0; axis < 3; ++axis) valid = valid & (abs_(ray.y[axis]) < Pack(kMostDistant));
    for (int axis = 0; axis < 3; ++axis) {
        ray.y[axis] = select(valid, ray.y[axis], zero);
        ray.d[axis] = select(valid, ray.d[axis], Pack(axis == 0 ? 1.0f : 0.0f));
        store(w.y[axis], ray.y[axis]);
        store(w.d[axis], ray.d[axis]);
    }
    const Pack begin = fmax_(start, Pack(p.near));
    store(w.begin, select(abs_(start) < Pack(kFarthest), begin, Pack(__builtin_inff())));
    store(w.jitter, jitter);
    Pack first = begin, last = Pack(fmin_(p.far, kFarthest));
    if constexpr (kContracted) {
        const Pack limit = bend_lattice(w, ray, p, first, last);
        last = fmin_(floor_(last - jitter), ceil_(limit - jitter) - Pack(1.0f));
    } else {
        Pack near(p.near);
        enter_cube(ray, near, last);
        valid = valid & (near < last);
        near = select(valid, near, zero);
        keep_bend(w, 0, ray, {near, zero, Pack(1.0f), zero}, p);
        store(w.s[1], Pack(kNever));
        const Pack inverse = inverse_(Pack(p.step * p.half_size));
        first = (first - near) * inverse;
        last = floor_((last - near) * inverse - jitter);
    }
    store(w.first, fmax_(ceil_(first - jitter), zero));
    store(w.last, select(valid, fmin_(last, Pack(kMostNumber)), Pack(-1.0f)));
}

template <bool kContracted>
RECON_FN Mask occupied(const Grid& grid, int level, const Line<Pack>& ray, Pack t) {
    const Point<Pack> u = unit_of<kContracted>(point_at(ray, t));
    const Pack side(grid.sides[level]), zero(0.0f), most = side - Pack(1.0f);
    const Pack x = u.x * side, y = u.y * side, z = u.z * side;
    const auto cell = [&](Pack a) { return whole_(fmin_(fmax_(a, zero), most)); };
    const Mask on = bits_at(grid.levels[level], fma_(fma_(cell(z), side, cell(y)), side, cell(x)));
    if (kContracted || level > 0) return on;
    // What lies outside by rounding is not in the cell beside it.
    const Pack least = fmin_(x, fmin_(y, z)), greatest = fmax_(x, fmax_(y, z));
    return on & (least >= zero) & (greatest < side);
}

// The distances that are found, and when to stop.
struct Found {
    float* distances;
    int32_t count, most, last;  // the lattice number, less jitter, of the last that counts
};

// Tests the lattice points from `from` to before `to`; false when the ray has all that it may have.
template <bool kContracted>
RECON_FN bool test_points(const Grid& grid, const Line<Pack>& ray, const Piece<Pack>& piece, Pack jitter, int32_t from,
                          int32_t to, Found& found) {
    for (; from < to; from += kLanes) {
        const Pack number = Pack(static_cast<float>(from)) + lane_index();
        const Pack t = distance_at(piece, number + jitter);
        const Mask on = occupied<kContracted>(grid, 0, ray, t) & (number < Pack(static_cast<float>(to)));
        uint32_t chosen = bits(on);
        if (chosen == 0) continue;
        store_chosen(found.distances + found.count, t, on);
        found.count += __builtin_popcount(chosen);
        if (found.count < found.most) continue;
        for (; found.count > found.most; --found.count) chosen &= ~(1u << (31 - __builtin_clz(chosen)));
        found.last = from + 31 - __builtin_clz(chosen);
        return false;
    }
    return true;
}

// Walks the lattice points `first` to `last` of one piece; false when the ray has all that it may have.
template <bool kContracted>
bool walk_piece(const Grid& grid, const Line<Pack>& ray, const Piece<Pack>& piece, Pack jitter, Groups groups,
                int32_t first, int32_t last, Found& found) {
    const float size = static_cast<float>(groups.size);
    const Pack end(static_cast<float>(last));
    for (int32_t k = first; k <= last; k += kLanes * groups.size) {
        const Pack begins = fma_(lane_index(), Pack(size), Pack(static_cast<float>(k)));
        Mask on = begins <= end;
        if (groups.level > 0) {
            const Pack middles = fmin_(begins + Pack(0.5f * (size - 1.0f)), end);
            on = on & occupied<kContracted>(grid, groups.level, ray, distance_at(piece, middles + jitter));
        }
        for (uint32_t hit = bits(on); hit != 0; hit &= hit - 1) {
            const int32_t from = k + __builtin_ctz(hit) * groups.size;
            const int32_t to = from + groups.size <= last ? from + groups.size : last + 1;
            if (!test_points<kContracted>(grid, ray, piece, jitter, from, to, found)) return false;
        }
    }
    return true;
}

RECON_FN Piece<float> piece_at(const Walks& w, int number, int lane) {
    return {w.t[number][lane], w.s[number][lane], w.ahead[number][lane], w.turn[number][lane]};
}

// Walks a ray and returns where marching stopped; infinity where nothing is left.
template <bool kContracted>
float walk(const Grid& grid, const Walks& w, int lane, Found& found) {
    const Line<Pack> ray{{w.y[0][lane], w.y[1][lane], w.y[2][lane]}, {w.d[0][lane], w.d[1][lane], w.d[2][lane]}};
    const float jitter = w.jitter[lane];
    if (!(w.first[lane] <= w.last[lane])) return __builtin_inff();
    int32_t k = static_cast<int32_t>(w.first[lane]);
    const int32_t last = static_cast<int32_t>(w.last[lane]);
    bool all = true;
    for (int number = 0; k <= last && all; ++number) {
        const float next = w.s[number + 1][lane] - jitter;
        const int32_t end = next > static_cast<float>(last) ? last : static_cast<int32_t>(std::ceil(next)) - 1;
        if (end < k) continue;
        const Piece<float> piece = piece_at(w, number, lane);
        const Piece<Pack> pieces{piece.t, piece.s, piece.ahead, piece.turn};
        const Groups groups = groups_of(w.reach[number][lane] * grid.cells_per_half_size, kLeastGroup);
        all = walk_piece<kContracted>(grid, ray, pieces, Pack(jitter), groups, k, end, found);
        k = end + 1;
    }
    if (all || found.last >= last) return __builtin_inff();
    const float s = static_cast<float>(found.last) + 0.5f + jitter;
    int number = 0;
    while (w.s[number + 1][lane] <= s) ++number;
    return distance_at(piece_at(w, number, lane), s);
}

// Counts the samples of a chunk of rays; returns how much of the arena's row is used then.  Rays from one on that makes
// this more than max_total cannot be served: the number of that one is put into `stopped`.
template <bool kContracted>
int64_t count_chunk(const MarchParams& p, const Grid& grid, int64_t chunk, float* row, int64_t used, int64_t& stopped) {
    const int64_t end = (chunk + 1) * kChunk < p.rays ? (chunk + 1) * kChunk : p.rays;
    Walks w;
    for (int64_t first = chunk * kChunk; first < end; first += kLanes) {
        const int count = end - first < kLanes ? static_cast<int>(end - first) : kLanes;
        prepare<kContracted>(p, first, count, w);
        for (int lane = 0; lane < count; ++lane) {
            Found found{row + used, 0, p.max_samples, 0};
            p.ends[first + lane] = walk<kContracted>(grid, w, lane, found);
            p.places[first + lane] = row + used - p.arena;
            p.offsets[first + lane + 1] = found.count;
            used += found.count;
            if (used > p.max_total) {
                stopped = first + lane;
                return used;
            }
        }
    }
    return used;
}

// The rays that there is not room for end where they would have begun.
void refuse(const MarchParams& p, int64_t ray) {
    const float start = p.starts == nullptr ? p.near : p.starts[ray];
    p.ends[ray] = std::fabs(start) < kFarthest ? fmax_(start, p.near) : __builtin_inff();
    p.offsets[ray + 1] = static_cast<int32_t>(p.total);
}

void march_count(MarchParams& p) {
    const Grid grid = grid_of(p);
    const int64_t chunks = (p.rays + kChunk - 1) / kChunk;
    int64_t next = 0, stop = p.rays;
#pragma omp parallel num_threads(p.threads)
    {
        float* row = p.arena + omp_get_thread_num() * p.arena_row;
        int64_t used = 0;
        for (;;) {
            // In ascending order, so that whoever finds its own rays too many knows that none behind them is served.
            const int64_t chunk = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
            if (chunk >= chunks || chunk * kChunk >= __atomic_load_n(&stop, __ATOMIC_RELAXED)) break;
            int64_t stopped = p.rays;
            used = p.contracted ? count_chunk<true>(p, grid, chunk, row, used, stopped)
                                : count_chunk<false>(p, grid, chunk, row, used, stopped);
            if (stopped == p.rays) continue;
            int64_t before = __atomic_load_n(&stop, __ATOMIC_RELAXED);
            while (stopped < before && !__atomic_compare_exchange_n(&stop, &before, stopped, false, __ATOMIC_RELAXED,
                                                                    __ATOMIC_RELAXED)) {
            }
            break;
        }
    }
    p.total = 0, p.served = 0, p.offsets[0] = 0;
    for (; p.served < stop && p.total + p.offsets[p.served + 1] <= p.max_total; ++p.served) {
        p.total += p.offsets[p.served + 1];
        p.offsets[p.served + 1] = static_cast<int32_t>(p.total);
    }
    for (int64_t ray = p.served; ray < p.rays; ++ray) refuse(p, ray);
}

template <bool kContracted>
void place_ray(const MarchParams& p, int64_t ray) {
    const float scale = 1.0f / p.half_size;
    const float* o = p.origins + 3 * ray;
    const float* d = p.directions + 3 * ray;
    const Line<Pack> line{{(o[0] - p.center_x) * scale, (o[1] - p.center_y) * scale, (o[2] - p.center_z) * scale},
                          {d[0] * scale, d[1] * scale, d[2] * scale}};
    const Pack unit(p.step * p.half_size), zero(0.0f), one(1.0f);
    const int64_t begin = p.offsets[ray], end = p.offsets[ray + 1];
    const float* from = p.arena + p.places[ray] - begin;
    for (int64_t i = begin; i < end; i += kLanes) {
        const int count = end - i < kLanes ? static_cast<int>(end - i) : kLanes;
        const Mask present = first_lanes(count);
        const Pack t = load_masked(from + i, present);
        const Point<Pack> y = point_at(line, t), u = unit_of<kContracted>(y);
        const Pack m = kContracted ? measure(y) : one;
        const auto inside = [&](Pack a) { return fmin_(fmax_(a, zero), one); };
        store_masked(p.distances + i, t, present);
        store_masked(p.lengths + i, unit * m * m, present);
        for (int k = 0; k < count; ++k) p.ray_of[i + k] = static_cast<int32_t>(ray);
        if (count == kLanes) {
            store_rows3(p.positions + 3 * i, inside(u.x), inside(u.y), inside(u.z));
        } else {
            float rows[3 * kLanes];
            store_rows3(rows, inside(u.x), inside(u.y), inside(u.z));
            std::memcpy(p.positions + 3 * i, rows, sizeof(float) * 3 * static_cast<size_t>(count));
        }
    }
}

void march_place(const MarchParams& p) {
#pragma omp parallel for schedule(static)
    for (int64_t ray = 0; ray < p.served; ++ray) {
        if (p.contracted)
            place_ray<true>(p, ray);
        else
            place_ray<false>(p, ray);
    }
}

template <bool kContracted>
void backward_ray(const MarchBackwardParams& p, int64_t ray) {
    const float scale = 1.0f / p.half_size;
    const float* o = p.origins + 3 * ray;
    const float* d = p.directions + 3 * ray;
    const Line<Pack> line{{(o[0] - p.center_x) * scale, (o[1] - p.center_y) * scale, (o[2] - p.center_z) * scale},
                          {d[0] * scale, d[1] * scale, d[2] * scale}};
    const Pack zero(0.0f);
    Pack origin[3] = {zero, zero, zero}, direction[3] = {zero, zero, zero};
    const int64_t end = p.offsets[ray + 1];
    for (int64_t i = p.offsets[ray]; i < end; i += kLanes) {
        const int count = end - i < kLanes ? static_cast<int>(end - i) : kLanes;
        float spare[3 * kLanes];
        const Pack3 g = load_rows3(whole_rows<3>(p.position_gradient, i, count, spare));
        const Pack t = load_masked(p.distances + i, first_lanes(count));
        const Point<Pack> back = unit_backward<kContracted>(point_at(line, t), {g.x, g.y, g.z});
        origin[0] = origin[0] + back.x, origin[1] = origin[1] + back.y, origin[2] = origin[2] + back.z;
        direction[0] = fma_(t, back.x, direction[0]);
        direction[1] = fma_(t, back.y, direction[1]);
        direction[2] = fma_(t, back.z, direction[2]);
    }
    for (int axis = 0; axis < 3; ++axis) {
        p.origin_gradient[3 * ray + axis] = scale * sum(origin[axis]);
        p.direction_gradient[3 * ray + axis] = scale * sum(direction[axis]);
    }
}

void march_backward(const MarchBackwardParams& p) {
#pragma omp parallel for schedule(static)
    for (int64_t ray = 0; ray < p.rays; ++ray) {
        if (p.contracted)
            backward_ray<true>(p, ray);
        else
            backward_ray<false>(p, ray);
    }
}

}  // namespace

void bind_ray_march(nb::module_& m) {
    auto c = nb::class_<MarchParams>(m, "MarchParams").def(nb::init<>());
    RECON_BIND_POINTER(c, MarchParams, origins);
    RECON_BIND_POINTER(c, MarchParams, directions);
    RECON_BIND_POINTER(c, MarchParams, jitter);
    RECON_BIND_POINTER(c, MarchParams, starts);
    RECON_BIND_POINTER(c, MarchParams, bits);
    RECON_BIND_VALUE(c, MarchParams, rays);
    RECON_BIND_VALUE(c, MarchParams, max_total);
    RECON_BIND_VALUE(c, MarchParams, max_samples);
    RECON_BIND_VALUE(c, MarchParams, resolution);
    RECON_BIND_VALUE(c, MarchParams, contracted);
    RECON_BIND_VALUE(c, MarchParams, center_x);
    RECON_BIND_VALUE(c, MarchParams, center_y);
    RECON_BIND_VALUE(c, MarchParams, center_z);
    RECON_BIND_VALUE(c, MarchParams, half_size);
    RECON_BIND_VALUE(c, MarchParams, step);
    RECON_BIND_VALUE(c, MarchParams, near);
    RECON_BIND_VALUE(c, MarchParams, far);
    RECON_BIND_POINTER(c, MarchParams, offsets);
    RECON_BIND_POINTER(c, MarchParams, ends);
    RECON_BIND_VALUE(c, MarchParams, served);
    RECON_BIND_VALUE(c, MarchParams, total);
    RECON_BIND_POINTER(c, MarchParams, arena);
    RECON_BIND_POINTER(c, MarchParams, places);
    RECON_BIND_VALUE(c, MarchParams, arena_row);
    RECON_BIND_VALUE(c, MarchParams, threads);
    RECON_BIND_POINTER(c, MarchParams, positions);
    RECON_BIND_POINTER(c, MarchParams, distances);
    RECON_BIND_POINTER(c, MarchParams, lengths);
    RECON_BIND_POINTER(c, MarchParams, ray_of);
    auto b = nb::class_<MarchBackwardParams>(m, "MarchBackwardParams").def(nb::init<>());
    RECON_BIND_POINTER(b, MarchBackwardParams, origins);
    RECON_BIND_POINTER(b, MarchBackwardParams, directions);
    RECON_BIND_POINTER(b, MarchBackwardParams, distances);
    RECON_BIND_POINTER(b, MarchBackwardParams, offsets);
    RECON_BIND_POINTER(b, MarchBackwardParams, position_gradient);
    RECON_BIND_POINTER(b, MarchBackwardParams, origin_gradient);
    RECON_BIND_POINTER(b, MarchBackwardParams, direction_gradient);
    RECON_BIND_VALUE(b, MarchBackwardParams, rays);
    RECON_BIND_VALUE(b, MarchBackwardParams, contracted);
    RECON_BIND_VALUE(b, MarchBackwardParams, center_x);
    RECON_BIND_VALUE(b, MarchBackwardParams, center_y);
    RECON_BIND_VALUE(b, MarchBackwardParams, center_z);
    RECON_BIND_VALUE(b, MarchBackwardParams, half_size);
    m.def("march_count", &march_count, nb::call_guard<nb::gil_scoped_release>());
    m.def("march_place", &march_place, nb::call_guard<nb::gil_scoped_release>());
    m.def("march_backward", &march_backward, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
