// SPDX-License-Identifier: Apache-2.0
// The 11-tap Gaussian over lines of interleaved channels.  Nothing is taken apart by channel: going down, every sample
// stands alone, and going along a line the neighbours lie `channels` samples apart.
//
// Going down, kGroup rows are filtered at once: each of the kGroup + 10 source rows is read once and added to every
// result that it reaches, and the results stay in registers.  The order of the additions is that of the rows, so a
// row's result does not depend on the group that it is computed in.
#pragma once
#include "recon/kernels/common/simd.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/ssim/math.h"

namespace recon {

inline constexpr int kTaps = 2 * kSsimRadius + 1;
inline constexpr int kGroup = 4;
inline constexpr int kSourceRows = kGroup + kTaps - 1;

// exp(-d²/(2·1.5²)) for d = -5..5, normalised over the eleven taps.
inline constexpr float kGauss[kTaps] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f, 0.21300554f, 0.26601173f,
                                        0.21300554f, 0.10936069f, 0.03600077f, 0.00759876f, 0.00102838f};

// Adds `value` of source row `row` to the results that it reaches.
RECON_FN void spread(Pack value, int row, Pack (&sums)[kGroup]) {
#pragma GCC unroll 4
    for (int o = 0; o < kGroup; ++o) {
        const int tap = row - o;
        if (tap < 0 || tap >= kTaps) continue;
        sums[o] = tap == 0 ? value * Pack(kGauss[0]) : fma_(value, Pack(kGauss[tap]), sums[o]);
    }
}

// Stores the results of line `first` and the kGroup - 1 lines that follow it.
RECON_FN void store_group(const Pack (&sums)[kGroup], int first, int64_t i, float* out, int64_t line) {
#pragma GCC unroll 4
    for (int o = 0; o < kGroup; ++o) store(out + (first + o) * line + i, sums[o]);
}

// The four moments of kGroup rows at sample `i`: moment m of row o goes to line m * kGroup + o of `out`.
RECON_FN void moments_down(const float* const* x, const float* const* y, int64_t i, float* out, int64_t line) {
    // Four results of four moments fill 16 of the 32 registers of AVX-512; the other sets have 16 and go down twice.
    constexpr int kRounds = kLanes == 16 ? 1 : 2;
#pragma GCC unroll 2
    for (int round = 0; round < kRounds; ++round) {
        const bool means = round == 0, products = round == kRounds - 1;
        Pack sums[4][kGroup];
#pragma GCC unroll 14
        for (int row = 0; row < kSourceRows; ++row) {
            const Pack a = load(x[row] + i), b = load(y[row] + i);
            if (means) spread(a, row, sums[0]);
            if (means) spread(b, row, sums[1]);
            if (products) spread(fma_(a, a, b * b), row, sums[2]);
            if (products) spread(a * b, row, sums[3]);
        }
#pragma GCC unroll 4
        for (int m = 0; m < 4; ++m)
            if (m < 2 ? means : products) store_group(sums[m], m * kGroup, i, out, line);
    }
}

// The same for the three derivatives, of which derivative d lies `d * plane` behind its row.
RECON_FN void derivatives_down(const float* const* rows, int64_t plane, int64_t i, float* out, int64_t line) {
#pragma GCC unroll 3
    for (int d = 0; d < 3; ++d) {
        Pack sums[kGroup];
#pragma GCC unroll 14
        for (int row = 0; row < kSourceRows; ++row) spread(load(rows[row] + d * plane + i), row, sums);
        store_group(sums, d * kGroup, i, out, line);
    }
}

// Lane i of the result is lane First + i of `a` followed by `b`.
template <int First>
struct FromLane {
    static constexpr int of(int lane) { return First + lane; }
};

// The two neighbours K pixels to the left and right of the lanes of `center`, added.
template <int Step, int K>
RECON_FN Pack both_sides(const float* center, int64_t step, Pack before, Pack here, Pack after) {
    // Loads that straddle cache lines are what the long packs wait for; the shuffles of two pairs relieve them.
    if constexpr (kLanes == 16 && Step > 0 && K <= 2)
        return shuffle<FromLane<kLanes - K * Step>>(before, here) + shuffle<FromLane<K * Step>>(here, after);
    else
        return load(center - K * step) + load(center + K * step);
}

// The filter along the line, at `center`, whose neighbours lie `step` samples apart.  `Step` says the same where it is
// known beforehand, else it is 0.
template <int Step>
RECON_FN Pack filter_along(const float* center, int64_t step) {
    static_assert(2 * Step < kLanes || kLanes < 16, "two neighbours must lie within the next pack");
    const Pack before = load(center - kLanes), here = load(center), after = load(center + kLanes);
    Pack sum = here * Pack(kGauss[5]);
    sum = fma_(both_sides<Step, 1>(center, step, before, here, after), Pack(kGauss[6]), sum);
    sum = fma_(both_sides<Step, 2>(center, step, before, here, after), Pack(kGauss[7]), sum);
    sum = fma_(both_sides<Step, 3>(center, step, before, here, after), Pack(kGauss[8]), sum);
    sum = fma_(both_sides<Step, 4>(center, step, before, here, after), Pack(kGauss[9]), sum);
    return fma_(both_sides<Step, 5>(center, step, before, here, after), Pack(kGauss[10]), sum);
}

}  // namespace recon
