// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of drawing samples: a warp owns a ray and takes 32 of its places at a time; what runs along the ray is
// a scan over the warp and is carried to the next 32.  Light and sums of weights wait in shared memory for the edges,
// each of which is found in them by bisection.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/ray_proposal/math.h"
#include "recon/kernels/ray_proposal/params.h"

namespace recon {
namespace {

constexpr int kProposalThreads = 128;

struct ProposalScratch {
    float light[kProposalThreads / kWarp][kMostPlaces + 3];  // of place i before [i + 1] and behind [i + 2]
    float sums[kProposalThreads / kWarp][kMostPlaces + 1];   // of the weights before each place; densities at first
};

RECON_FN float last_of(float value) { return __shfl_sync(kAllLanes, value, kWarp - 1); }

template <bool kContracted>
RECON_FN void look_up(const ProposalParams& p, const ProposalRay& r, float* light, float* stored) {
    float depth_before = 0.0f;
    for (int first = 0; first < p.places; first += kWarp) {
        const int i = first + lane_number();
        float density = 0.0f, depth = 0.0f;
        if (i < p.places) {
            const float from = fma_(r.span, p.table[i], r.base), to = fma_(r.span, p.table[i + 1], r.base);
            const PlaceCell<float> cell =
                place_cell<kContracted>(r.line, from, to, p.half_size, static_cast<float>(p.resolution));
            density = p.densities[static_cast<int32_t>(cell.number)];
            depth = place_depth(density, cell.cells, p.unknown_depth);
        }
        depth = depth_before + warp_inclusive_sum(depth);
        depth_before = last_of(depth);
        if (i < p.places) stored[i + 1] = density, light[i + 2] = exp_(-depth);
    }
    if (lane_number() == 0) light[0] = light[1] = 1.0f, light[p.places + 2] = exp_(-depth_before);
    __syncwarp();
}

RECON_FN float ends_at(const float* light, int i) { return widened(light[i], light[i + 1], light[i + 2], light[i + 3]); }

// Turns densities into sums of weights; returns the last one.
RECON_FN float weigh(const ProposalParams& p, const float* light, float* sums) {
    float total = 0.0f, before = 0.0f;
    for (int i = lane_number(); i < p.places; i += kWarp) total += ends_at(light, i);
    const float factor = (1.0f - p.even) / fmax_(warp_sum(total), kLeastTotal);
    const float even = p.even / static_cast<float>(p.places);
    for (int first = 0; first < p.places; first += kWarp) {
        const int i = first + lane_number();
        const float weight = i < p.places ? place_weight(sums[i + 1], ends_at(light, i), factor, even) : 0.0f;
        const float sum = before + warp_inclusive_sum(weight);
        if (i < p.places) sums[i + 1] = sum;
        before = last_of(sum);
    }
    if (lane_number() == 0) sums[0] = 0.0f;
    __syncwarp();
    return before;
}

RECON_FN float draw_edge(const ProposalParams& p, const ProposalRay& r, const float* sums, float total, int k) {
    const float wanted = edge_share(static_cast<float>(k), p.first + r.jitter, p.scale) * total;
    int low = 0, high = p.places;  // sums[low] <= wanted, and not so at high
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (sums[middle] <= wanted)
            low = middle;
        else
            high = middle;
    }
    return fma_(r.span, edge_between(wanted, sums[low], sums[low + 1], p.table[low], p.table[low + 1]), r.base);
}

template <bool kContracted>
RECON_FN void propose_ray(const ProposalParams& p, int64_t ray, float* light, float* sums) {
    const ProposalRay r = proposal_ray(p, ray);
    float total = 0.0f;
    if (r.usable) {
        look_up<kContracted>(p, r, light, sums);
        total = weigh(p, light, sums);
    }
    for (int k = lane_number(); k < p.intervals; k += kWarp) {
        const int64_t at = ray * p.intervals + k;
        float t = p.near, length = 0.0f;
        Point<float> u{0.5f, 0.5f, 0.5f};
        if (r.usable) {
            const float from = draw_edge(p, r, sums, total, k), to = draw_edge(p, r, sums, total, k + 1);
            t = 0.5f * (from + to), length = fmax_(to - from, 0.0f);
            u = unit_of<kContracted>(point_at(r.line, t));
        }
        p.distances[at] = t, p.lengths[at] = length, p.ray_of[at] = static_cast<int32_t>(ray);
        p.positions[3 * at] = fmin_(fmax_(u.x, 0.0f), 1.0f);
        p.positions[3 * at + 1] = fmin_(fmax_(u.y, 0.0f), 1.0f);
        p.positions[3 * at + 2] = fmin_(fmax_(u.z, 0.0f), 1.0f);
    }
    if (lane_number() != 0) return;
    p.offsets[ray + 1] = static_cast<int32_t>((ray + 1) * p.intervals);
    p.ends[ray] = __uint_as_float(0x7f800000u);
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(propose_samples, ProposalParams, 128) {
    RECON_SHARED(ProposalScratch, scratch);
    const int64_t ray = global_thread() / kWarp;
    if (ray >= p.rays) return;
    float* light = scratch.light[warp_number()];
    float* sums = scratch.sums[warp_number()];
    if (p.contracted)
        propose_ray<true>(p, ray, light, sums);
    else
        propose_ray<false>(p, ray, light, sums);
}
