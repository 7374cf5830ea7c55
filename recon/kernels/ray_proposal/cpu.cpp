// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of drawing samples: a thread takes one ray at a time, with SIMD over its places and then its edges.
// Edges are drawn at evenly spaced shares, so each place tells at once which edges lie in it, without any search.
#include <cmath>
#include <cstring>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/simd.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/ray_proposal/math.h"
#include "recon/kernels/ray_proposal/params.h"

namespace recon {
namespace {

constexpr int64_t kRaysAtOnce = 32;

// The sums of lanes 0 .. i in each lane i.
RECON_FN Pack running_sum(Pack a) {
#if RECON_AVX512
    const __m512i zero = _mm512_setzero_si512();
#define RECON_MOVED_UP(n) Pack(_mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(a.v), zero, 16 - n)))
    a = a + RECON_MOVED_UP(1);
    a = a + RECON_MOVED_UP(2);
    a = a + RECON_MOVED_UP(4);
    return a + RECON_MOVED_UP(8);
#undef RECON_MOVED_UP
#elif defined(__AVX2__)
    const VecF zero{};
    a = a.v + __builtin_shufflevector(zero, a.v, 0, 8, 9, 10, 11, 12, 13, 14);
    a = a.v + __builtin_shufflevector(zero, a.v, 0, 0, 8, 9, 10, 11, 12, 13);
    return a.v + __builtin_shufflevector(zero, a.v, 0, 0, 0, 0, 8, 9, 10, 11);
#else
    const VecF zero{};
    a = a.v + __builtin_shufflevector(zero, a.v, 0, 4, 5, 6);
    return a.v + __builtin_shufflevector(zero, a.v, 0, 0, 4, 5);
#endif
}

struct Scratch {
    float stored[kMostPlaces];
    float light[kMostPlaces + 3];  // of place i before [i + 1] and behind [i + 2]; the ends are repeated
    float weights[kMostPlaces];
    float sums[kMostPlaces + 1];        // of the weights before each place
    int32_t first_edge[kMostPlaces + 1];  // in each place or behind it
    int32_t place_of[kMostIntervals + 1 + 2 * kLanes];
    float edges[kMostIntervals + 1 + 2 * kLanes];
};

// The last lane in every lane.
RECON_FN Pack last_lane(Pack a) {
#if RECON_AVX512
    return _mm512_permutexvar_ps(_mm512_set1_epi32(15), a.v);
#elif defined(__AVX2__)
    return __builtin_shufflevector(a.v, a.v, 7, 7, 7, 7, 7, 7, 7, 7);
#else
    return __builtin_shufflevector(a.v, a.v, 3, 3, 3, 3);
#endif
}

// How much light is left before and behind each place.
template <bool kContracted>
RECON_FN void look_up(const ProposalParams& p, const ProposalRay& r, Scratch& s) {
    const Line<Pack> line{{r.line.y[0], r.line.y[1], r.line.y[2]}, {r.line.d[0], r.line.d[1], r.line.d[2]}};
    const Pack base(r.base), span(r.span);
    Pack depth_before(0.0f);
    s.light[0] = s.light[1] = 1.0f;
    for (int i = 0; i < p.places; i += kLanes) {
        const Pack from = fma_(span, load(p.table + i), base), to = fma_(span, load(p.table + i + 1), base);
        const auto cell =
            place_cell<kContracted>(line, from, to, p.half_size, static_cast<float>(p.resolution));
        const Pack stored = gather(p.densities, truncated(cell.number));
        store(s.stored + i, stored);
        const Pack depth = running_sum(place_depth(stored, cell.cells, p.unknown_depth)) + depth_before;
        depth_before = last_lane(depth);
        store(s.light + i + 2, exp_(-depth));
    }
    s.light[p.places + 2] = s.light[p.places + 1];
}

// Weights and their sums before each place; returns the sum of all.
RECON_FN float weigh(const ProposalParams& p, Scratch& s) {
    Pack total(0.0f);
    for (int i = 0; i < p.places; i += kLanes) {
        const Pack ends = widened(load(s.light + i), load(s.light + i + 1), load(s.light + i + 2), load(s.light + i + 3));
        store(s.weights + i, ends);
        total = total + ends;
    }
    const Pack factor((1.0f - p.even) / fmax_(sum(total), kLeastTotal));
    const Pack even(p.even / static_cast<float>(p.places));
    Pack before(0.0f);
    s.sums[0] = 0.0f;
    for (int i = 0; i < p.places; i += kLanes) {
        const Pack weight = place_weight(load(s.stored + i), load(s.weights + i), factor, even);
        const Pack sums = running_sum(weight) + before;
        store(s.sums + i + 1, sums);
        before = last_lane(sums);
    }
    return s.sums[p.places];
}

// In which place each edge lies.
RECON_FN void find_places(const ProposalParams& p, const ProposalRay& r, float total, Scratch& s) {
    const int edges = p.intervals + 1;
    const Pack factor(1.0f / (p.scale * total)), shift(p.first + r.jitter), zero(0.0f), last(static_cast<float>(edges));
    for (int i = 0; i < p.places; i += kLanes) {
        const Pack k = ceil_(fmin_(fmax_(fma_(load(s.sums + i), factor, -shift), zero), last));
        store(s.first_edge + i, truncated(k));
    }
    s.first_edge[0] = 0;
    s.first_edge[p.places] = edges;
    for (int i = 0; i < p.places; i += kLanes) {
        uint32_t some = bits(load(s.first_edge + i) < load(s.first_edge + i + 1));
        for (; some != 0; some &= some - 1) {
            const int place = i + __builtin_ctz(some);
            const Ints number = ints(place);
            // What is written too much is overwritten by the next place.
            for (int k = s.first_edge[place]; k < s.first_edge[place + 1]; k += kLanes) store(s.place_of + k, number);
        }
    }
}

RECON_FN void draw_edges(const ProposalParams& p, const ProposalRay& r, float total, Scratch& s) {
    const Pack base(r.base), span(r.span), lane = lane_index();
    for (int k = p.intervals + 1; k < p.intervals + 1 + kLanes; ++k) s.place_of[k] = 0;
    for (int k = 0; k <= p.intervals; k += kLanes) {
        const Ints place = load(s.place_of + k);
        const Pack wanted = edge_share(lane + Pack(static_cast<float>(k)), p.first + r.jitter, p.scale) * Pack(total);
        const Pack edge = edge_between(wanted, gather(s.sums, place), gather(s.sums + 1, place),
                                       gather(p.table, place), gather(p.table + 1, place));
        store(s.edges + k, fma_(span, edge, base));
    }
}

template <bool kContracted>
RECON_FN void place_samples(const ProposalParams& p, const ProposalRay& r, int64_t ray, const Scratch& s) {
    const Line<Pack> line{{r.line.y[0], r.line.y[1], r.line.y[2]}, {r.line.d[0], r.line.d[1], r.line.d[2]}};
    const Pack zero(0.0f), one(1.0f);
    for (int k = 0; k < p.intervals; k += kLanes) {
        const int count = p.intervals - k < kLanes ? p.intervals - k : kLanes;
        const int64_t at = ray * p.intervals + k;
        const Mask present = first_lanes(count);
        const Pack from = load(s.edges + k), to = load(s.edges + k + 1), t = Pack(0.5f) * (from + to);
        const Point<Pack> u = unit_of<kContracted>(point_at(line, t));
        const auto inside = [&](Pack a) { return fmin_(fmax_(a, zero), one); };
        store_masked(p.distances + at, t, present);
        store_masked(p.lengths + at, fmax_(to - from, zero), present);
        if (count == kLanes) {
            store_rows3(p.positions + 3 * at, inside(u.x), inside(u.y), inside(u.z));
        } else {
            float rows[3 * kLanes];
            store_rows3(rows, inside(u.x), inside(u.y), inside(u.z));
            std::memcpy(p.positions + 3 * at, rows, sizeof(float) * 3 * static_cast<size_t>(count));
        }
    }
}

template <bool kContracted>
void propose_ray(const ProposalParams& p, int64_t ray, Scratch& s) {
    const ProposalRay r = proposal_ray(p, ray);
    const int64_t begin = ray * p.intervals, end = begin + p.intervals;
    p.offsets[ray + 1] = static_cast<int32_t>(end);
    p.ends[ray] = __builtin_inff();
    for (int64_t i = begin; i < end; ++i) p.ray_of[i] = static_cast<int32_t>(ray);
    if (!r.usable) {
        for (int64_t i = begin; i < end; ++i) p.distances[i] = p.near, p.lengths[i] = 0.0f;
        for (int64_t i = 3 * begin; i < 3 * end; ++i) p.positions[i] = 0.5f;
        return;
    }
    look_up<kContracted>(p, r, s);
    const float total = weigh(p, s);
    find_places(p, r, total, s);
    draw_edges(p, r, total, s);
    place_samples<kContracted>(p, r, ray, s);
}

void propose(const ProposalParams& p) {
    p.offsets[0] = 0;
#pragma omp parallel
    {
        Scratch scratch;
        std::memset(&scratch, 0, sizeof scratch);
#pragma omp for schedule(dynamic, kRaysAtOnce)
        for (int64_t ray = 0; ray < p.rays; ++ray) {
            if (p.contracted)
                propose_ray<true>(p, ray, scratch);
            else
                propose_ray<false>(p, ray, scratch);
        }
    }
}

}  // namespace

void bind_ray_proposal(nb::module_& m) {
    auto c = nb::class_<ProposalParams>(m, "ProposalParams").def(nb::init<>());
    RECON_BIND_POINTER(c, ProposalParams, origins);
    RECON_BIND_POINTER(c, ProposalParams, directions);
    RECON_BIND_POINTER(c, ProposalParams, jitter);
    RECON_BIND_POINTER(c, ProposalParams, table);
    RECON_BIND_POINTER(c, ProposalParams, densities);
    RECON_BIND_VALUE(c, ProposalParams, rays);
    RECON_BIND_VALUE(c, ProposalParams, places);
    RECON_BIND_VALUE(c, ProposalParams, intervals);
    RECON_BIND_VALUE(c, ProposalParams, resolution);
    RECON_BIND_VALUE(c, ProposalParams, contracted);
    RECON_BIND_VALUE(c, ProposalParams, center_x);
    RECON_BIND_VALUE(c, ProposalParams, center_y);
    RECON_BIND_VALUE(c, ProposalParams, center_z);
    RECON_BIND_VALUE(c, ProposalParams, half_size);
    RECON_BIND_VALUE(c, ProposalParams, near);
    RECON_BIND_VALUE(c, ProposalParams, far);
    RECON_BIND_VALUE(c, ProposalParams, even);
    RECON_BIND_VALUE(c, ProposalParams, unknown_depth);
    RECON_BIND_VALUE(c, ProposalParams, first);
    RECON_BIND_VALUE(c, ProposalParams, scale);
    RECON_BIND_POINTER(c, ProposalParams, positions);
    RECON_BIND_POINTER(c, ProposalParams, distances);
    RECON_BIND_POINTER(c, ProposalParams, lengths);
    RECON_BIND_POINTER(c, ProposalParams, ray_of);
    RECON_BIND_POINTER(c, ProposalParams, offsets);
    RECON_BIND_POINTER(c, ProposalParams, ends);
    m.def("propose", &propose, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
