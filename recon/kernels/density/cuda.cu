// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of density control: which Gaussians go, which are split, and where all of them come to stand.
//
// As many are split as the budget allows, those of the highest scores.  The score of the last of them is found byte by
// byte, from the highest: a histogram over those that agree in the bytes above, and the byte at which the count from
// above reaches what is left.  Scores above 0 are in the order of their bits.  Among equals the first ones are taken.
//
// A thread owns a Gaussian; density_pick is one block, in which a thread owns a byte's value.
//
// Source of the selection: Alabi et al., "Fast k-selection algorithms for graphics processing units", 2012 (radix
// select).
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/density/cuda.h"
#include "recon/kernels/density/math.h"

namespace recon {
namespace {

RECON_FN void add_to(int64_t* counter, int64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(counter), static_cast<unsigned long long>(value));
}

RECON_FN bool finite(float a) { return abs_(a) <= 3.4028235e38f; }

RECON_FN bool stays(const DensityLaunch& p, int64_t i) {
    const float *m = p.means + 3 * i, *s = p.log_scales + 3 * i;
    const float opacity = 1.0f / (1.0f + exp_(-p.opacity_logits[i]));
    const bool shows = p.counters[kAnyWeight] == 0 || p.most_weight[i] >= p.least_weight || p.seen[i] == 0.0f;
    const bool small = s[0] <= p.most_log_scale && s[1] <= p.most_log_scale && s[2] <= p.most_log_scale;
    return shows && small && opacity >= p.least_opacity && finite(m[0]) && finite(m[1]) && finite(m[2]);
}

// Whether a score takes part in the pass over byte `digit`: it agrees with the threshold in all bytes above.
RECON_FN bool takes_part(float score, uint32_t threshold, int digit) {
    if (!(score > 0.0f)) return false;
    return digit == 3 || (__float_as_uint(score) >> (8 * digit + 8)) == (threshold >> (8 * digit + 8));
}

RECON_FN bool equals_threshold(const DensityLaunch& p, float score) {
    return score > 0.0f && __float_as_uint(score) == static_cast<uint32_t>(p.counters[kThreshold]);
}

struct ByteHistogram {
    uint32_t of[256];
};

}  // namespace
}  // namespace recon

using namespace recon;

// Not every rasterizer tells the weights.
RECON_KERNEL(density_look, DensityLaunch, 256) {
    const int64_t i = global_thread();
    if (i < p.count && p.most_weight[i] > 0.0f) p.counters[kAnyWeight] = 1;  // whoever comes last writes the same
}

RECON_KERNEL(density_score, DensityLaunch, 256) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    const int64_t i = global_thread();
    const bool kept = i < p.count && stays(p, i);
    const float score = kept ? p.gradient_sum[i] / fmax_(p.seen[i], 1.0f) : -1.0f;
    if (i < p.count) p.scores[i] = kept && !(score > 0.0f) ? 0.0f : score;
    int64_t keeps, candidates;
    block_exclusive_sum(int64_t(kept ? 1 : 0), sums, keeps);
    block_exclusive_sum(int64_t(kept && score > 0.0f ? 1 : 0), sums, candidates);
    if (threadIdx.x != 0) return;
    if (keeps != 0) add_to(p.counters + kKeptRows, keeps);
    if (candidates != 0) add_to(p.counters + kCandidates, candidates);
}

RECON_KERNEL(density_histogram, DensityLaunch, 256) {
    RECON_SHARED(ByteHistogram, histogram);
    histogram.of[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t threshold = static_cast<uint32_t>(p.counters[kThreshold]);
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = global_thread(); i < p.count; i += stride) {
        const float score = p.scores[i];
        if (takes_part(score, threshold, p.digit))
            atomicAdd(&histogram.of[(__float_as_uint(score) >> (8 * p.digit)) & 0xffu], 1u);
    }
    __syncthreads();
    const uint32_t here = histogram.of[threadIdx.x];
    if (here != 0) atomicAdd(p.histogram + threadIdx.x, here);
}

// One block.
RECON_KERNEL(density_pick, DensityLaunch, 256) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    const uint32_t value = 255u - threadIdx.x;
    const int64_t here = p.histogram[value];
    int64_t left = p.counters[kLeft];
    if (p.digit == 3) {
        const int64_t room = p.budget - p.counters[kKeptRows], most = room > 0 ? room : 0;
        left = most < p.counters[kCandidates] ? most : p.counters[kCandidates];
    }
    int64_t total;
    const int64_t above = block_exclusive_sum(here, sums, total);
    __syncthreads();  // all have read what is written now
    p.histogram[value] = 0;
    if (left == 0 && threadIdx.x == 0) {
        // None is split: no score above 0 has all bits set.
        p.counters[kThreshold] = 0xffffffffll;
        p.counters[kLeft] = p.counters[kTies] = 0;
    }
    if (left > above && left <= above + here) {
        p.counters[kThreshold] |= static_cast<int64_t>(value << (8 * p.digit));
        p.counters[kLeft] = p.counters[kTies] = left - above;
    }
}

RECON_KERNEL(density_ties, DensityLaunch, 256) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    const int64_t i = global_thread();
    int64_t total;
    block_exclusive_sum(int64_t(i < p.count && equals_threshold(p, p.scores[i]) ? 1 : 0), sums, total);
    if (threadIdx.x == 0) p.block_sums[blockIdx.x] = total;
}

RECON_KERNEL(density_copies, DensityLaunch, 256) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    const int64_t i = global_thread(), before = p.block_sums[blockIdx.x];
    const float score = i < p.count ? p.scores[i] : -1.0f;
    const bool tie = equals_threshold(p, score);
    int64_t total;
    const int64_t rank = before + block_exclusive_sum(int64_t(tie ? 1 : 0), sums, total);
    const bool above = score > 0.0f && __float_as_uint(score) > static_cast<uint32_t>(p.counters[kThreshold]);
    const int copies = score < 0.0f ? 0 : above || (tie && rank < p.counters[kTies]) ? 2 : 1;
    if (i < p.count) p.copies[i] = static_cast<uint8_t>(copies);
    block_exclusive_sum(int64_t(i < p.count ? copies : 0), sums, total);
    if (threadIdx.x == 0) p.block_sums[blockIdx.x] = total;
}

RECON_KERNEL(density_starts, DensityLaunch, 256) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    const int64_t i = global_thread();
    int64_t total;
    const int64_t before = block_exclusive_sum(int64_t(i < p.count ? p.copies[i] : 0), sums, total);
    if (i < p.count) p.starts[i] = p.block_sums[blockIdx.x] + before;
}

// After the rows were moved, both copies of a Gaussian that is split stand where its halves go.
RECON_KERNEL(density_split, SplitLaunch, 128) {
    const int64_t i = global_thread();
    if (i >= p.count || p.copies[i] != 2) return;
    const int64_t row = p.starts[i];
    float log_scale[3], offset[3];
    for (int k = 0; k < 3; ++k) log_scale[k] = p.log_scales.value[3 * row + k];
    split_gaussian(p.quats.value + 4 * row, log_scale, offset);
    for (int half = 0; half < 2; ++half) {
        const int64_t at = row + half;
        for (int k = 0; k < 3; ++k) {
            p.means.value[3 * at + k] += half == 0 ? offset[k] : -offset[k];
            p.log_scales.value[3 * at + k] = log_scale[k];
        }
        const TrainedRows rows[] = {p.means, p.quats, p.log_scales, p.opacity_logits, p.sh};
        const int64_t widths[] = {3, 4, 3, 1, p.sh_floats};
#pragma unroll
        for (int t = 0; t < 5; ++t)
            for (int64_t k = 0; k < widths[t]; ++k)
                rows[t].first_moment[at * widths[t] + k] = rows[t].second_moment[at * widths[t] + k] = 0.0f;
    }
}
