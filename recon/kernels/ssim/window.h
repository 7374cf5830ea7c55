// SPDX-License-Identifier: Apache-2.0
// The 11-tap Gaussian over lines of interleaved channels.  Nothing is taken apart by channel: going down, every sample
// stands alone, and going along a line the neighbours lie `channels` samples apart.
//
// Going down, kGroup rows are filtered at once: each of the kGroup + 10 source rows is read once and added to every
// result that it reaches, and the results stay in registers.  The order of the additions is that of the rows, so a
// row's result does not depend on the group that it is computed in.
#pragma once
#include "recon/kernels/common/simd.h"
#include "recon/kernels/ssim/math.h"

namespace recon {

inline constexpr int kTaps = 2 * kSsimRadius + 1;
// Four results of four moments fill 16 of the 32 registers of AVX-512; the other sets have 16.
inline constexpr int kGroup = kLanes == 16 ? 4 : 2;
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

// The four moments of kGroup rows at sample `i`: moment m of row o goes to line m * kGroup + o of `out`.
RECON_FN void moments_down(const float* const* x, const float* const* y, int64_t i, float* out, int64_t line) {
    Pack sums[4][kGroup];
#pragma GCC unroll 14
    for (int row = 0; row < kSourceRows; ++row) {
        const Pack a = load(x[row] + i), b = load(y[row] + i);
        spread(a, row, sums[0]);
        spread(b, row, sums[1]);
        spread(fma_(a, a, b * b), row, sums[2]);
        spread(a * b, row, sums[3]);
    }
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m)
#pragma GCC unroll 4
        for (int o = 0; o < kGroup; ++o) store(out + (m * kGroup + o) * line + i, sums[m][o]);
}

// The same for the three derivatives, of which derivative d lies `d * plane` behind its row.
RECON_FN void derivatives_down(const float* const* rows, int64_t plane, int64_t i, float* out, int64_t line) {
    Pack sums[3][kGroup];
#pragma GCC unroll 14
    for (int row = 0; row < kSourceRows; ++row) {
        spread(load(rows[row] + i), row, sums[0]);
        spread(load(rows[row] + plane + i), row, sums[1]);
        spread(load(rows[row] + 2 * plane + i), row, sums[2]);
    }
#pragma GCC unroll 4
    for (int d = 0; d < 3; ++d)
#pragma GCC unroll 4
        for (int o = 0; o < kGroup; ++o) store(out + (d * kGroup + o) * line + i, sums[d][o]);
}

// The filter along the line, at `center`; neighbours lie `step` samples apart.
RECON_FN Pack filter_along(const float* center, int64_t step) {
    Pack sum = load(center) * Pack(kGauss[kSsimRadius]);
#pragma GCC unroll 5
    for (int k = 1; k <= kSsimRadius; ++k)
        sum = fma_(load(center - k * step) + load(center + k * step), Pack(kGauss[kSsimRadius + k]), sum);
    return sum;
}

}  // namespace recon
