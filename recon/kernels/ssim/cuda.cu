// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of the photometric loss.  A block owns 16×16 pixels, a thread one of them; channels come one after
// another.  The window is applied along rows into shared memory, and then down.  The first kernel sums the loss and
// leaves three derivatives for each pixel, the second filters those into the gradient.  Sums run in a fixed order.
//
// Source: Wang et al. 2004; fusing the filters into one pass follows Taming 3DGS (Mallick et al. 2024).
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/ssim/cuda.h"
#include "recon/kernels/ssim/math.h"

namespace recon {
namespace {

constexpr int kSide = 16, kReach = kSsimRadius, kWide = kSide + 2 * kReach;

// exp(-d²/(2·1.5²)) for d = 0 .. 5, normalised over the eleven taps.
RECON_FN float tap(int distance) {
    switch (distance < 0 ? -distance : distance) {
        case 0: return 0.26601173f;
        case 1: return 0.21300554f;
        case 2: return 0.10936069f;
        case 3: return 0.03600077f;
        case 4: return 0.00759876f;
        default: return 0.00102838f;
    }
}

// Four quantities of a block and its surroundings, and the same filtered along rows.
struct ForwardRows {
    float x[kWide][kWide], y[kWide][kWide];
    SsimMoments<float> along[kWide][kSide];
    PerWarp<double> sums;
};
struct BackwardRows {
    float given[3][kWide][kWide];
    float along[3][kWide][kSide];
};

struct Place {
    int x, y;  // pixels
    int left, top;
    bool inside;
};
RECON_FN Place find_place(const SsimParams& p) {
    const int across = static_cast<int>((p.width + kSide - 1) / kSide), block = static_cast<int>(blockIdx.x);
    Place place;
    place.left = block % across * kSide, place.top = block / across * kSide;
    place.x = place.left + static_cast<int>(threadIdx.x) % kSide;
    place.y = place.top + static_cast<int>(threadIdx.x) / kSide;
    place.inside = place.x < p.width && place.y < p.height;
    return place;
}

RECON_FN float target_at(const SsimParams& p, int64_t pixel, int channel) {
    const int64_t at = pixel * p.channels + channel;
    const float target = p.target_bytes != nullptr ? static_cast<float>(p.target_bytes[at]) * (1.0f / 255.0f)
                                                   : p.target[at];
    if (p.mask == nullptr || !p.mask_is_alpha) return target;
    const float behind = p.background[channel], share = static_cast<float>(p.mask[pixel]) * (1.0f / 255.0f);
    return fma_(share, target - behind, behind);
}

RECON_FN float weight_at(const SsimParams& p, int64_t pixel) {
    float weight = p.weight != nullptr ? p.weight[pixel] : 1.0f;
    if (p.mask != nullptr && !p.mask_is_alpha) weight *= static_cast<float>(p.mask[pixel]) * (1.0f / 255.0f);
    return weight;
}

RECON_FN void load_surroundings(const SsimParams& p, const Place& place, int channel, ForwardRows& rows) {
    for (int at = static_cast<int>(threadIdx.x); at < kWide * kWide; at += kSide * kSide) {
        const int row = at / kWide, column = at % kWide;
        const int64_t x = place.left + column - kReach, y = place.top + row - kReach;
        const bool inside = x >= 0 && y >= 0 && x < p.width && y < p.height;
        const int64_t pixel = y * p.width + x;
        rows.x[row][column] = inside ? p.image[pixel * p.channels + channel] : 0.0f;
        rows.y[row][column] = inside ? target_at(p, pixel, channel) : 0.0f;
    }
}

RECON_FN SsimMoments<float> moments_at(ForwardRows& rows) {
    for (int at = static_cast<int>(threadIdx.x); at < kWide * kSide; at += kSide * kSide) {
        const int row = at / kSide, column = at % kSide;
        SsimMoments<float> m{0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int d = -kReach; d <= kReach; ++d) {
            const float x = rows.x[row][column + kReach + d], y = rows.y[row][column + kReach + d], t = tap(d);
            m.x = fma_(t, x, m.x);
            m.y = fma_(t, y, m.y);
            m.squares = fma_(t, fma_(x, x, y * y), m.squares);
            m.xy = fma_(t, x * y, m.xy);
        }
        rows.along[row][column] = m;
    }
    __syncthreads();
    const int row = static_cast<int>(threadIdx.x) / kSide, column = static_cast<int>(threadIdx.x) % kSide;
    SsimMoments<float> sum{0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int d = -kReach; d <= kReach; ++d) {
        const SsimMoments<float> m = rows.along[row + kReach + d][column];
        const float t = tap(d);
        sum.x = fma_(t, m.x, sum.x);
        sum.y = fma_(t, m.y, sum.y);
        sum.squares = fma_(t, m.squares, sum.squares);
        sum.xy = fma_(t, m.xy, sum.xy);
    }
    return sum;
}

RECON_FN void load_derivatives(const SsimLaunch& p, const Place& place, int channel, BackwardRows& rows) {
    const SsimParams& q = p.loss;
    const int64_t plane = q.height * q.width * q.channels;
    for (int at = static_cast<int>(threadIdx.x); at < kWide * kWide; at += kSide * kSide) {
        const int row = at / kWide, column = at % kWide;
        const int64_t x = place.left + column - kReach, y = place.top + row - kReach;
        const bool inside = x >= 0 && y >= 0 && x < q.width && y < q.height;
        const int64_t from = (y * q.width + x) * q.channels + channel;
        for (int d = 0; d < 3; ++d) rows.given[d][row][column] = inside ? p.derivatives[d * plane + from] : 0.0f;
    }
}

RECON_FN void filter_derivatives(BackwardRows& rows, float (&sums)[3]) {
    for (int at = static_cast<int>(threadIdx.x); at < kWide * kSide; at += kSide * kSide) {
        const int row = at / kSide, column = at % kSide;
        for (int i = 0; i < 3; ++i) {
            float sum = 0.0f;
#pragma unroll
            for (int d = -kReach; d <= kReach; ++d) sum = fma_(tap(d), rows.given[i][row][column + kReach + d], sum);
            rows.along[i][row][column] = sum;
        }
    }
    __syncthreads();
    const int row = static_cast<int>(threadIdx.x) / kSide, column = static_cast<int>(threadIdx.x) % kSide;
    for (int i = 0; i < 3; ++i) {
        sums[i] = 0.0f;
#pragma unroll
        for (int d = -kReach; d <= kReach; ++d) sums[i] = fma_(tap(d), rows.along[i][row + kReach + d][column], sums[i]);
    }
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(ssim_forward, SsimLaunch, 256) {
    RECON_SHARED(ForwardRows, rows);
    const SsimParams& q = p.loss;
    const Place place = find_place(q);
    const int64_t pixel = static_cast<int64_t>(place.y) * q.width + place.x, plane = q.height * q.width * q.channels;
    const float weight = place.inside ? weight_at(q, pixel) : 0.0f;
    float similar = 0.0f, apart = 0.0f;
    for (int channel = 0; channel < q.channels; ++channel) {
        load_surroundings(q, place, channel, rows);
        __syncthreads();
        const SsimValue<float> value = ssim_of_moments(moments_at(rows));
        if (weight != 0.0f) {
            const int64_t at = pixel * q.channels + channel;
            similar = fma_(weight, value.value, similar);
            apart = fma_(weight, abs_(q.image[at] - target_at(q, pixel, channel)), apart);
        }
        if (place.inside && q.gradient != nullptr) {
            float* to = p.derivatives + pixel * q.channels + channel;
            const float d[] = {value.d_x, value.d_xx, value.d_xy};
            for (int i = 0; i < 3; ++i) to[i * plane] = weight != 0.0f ? weight * d[i] : 0.0f;
        }
        __syncthreads();
    }
    const double sums[] = {weight, similar, apart};
    for (int i = 0; i < 3; ++i) {
        double total;
        block_exclusive_sum(sums[i], rows.sums, total);
        if (threadIdx.x == 0) p.block_sums[3 * static_cast<int64_t>(blockIdx.x) + i] = total;
    }
}

// One block.
RECON_KERNEL(ssim_finish, SsimLaunch, 256) {
    RECON_SHARED(PerWarp<double>, scratch);
    const SsimParams& q = p.loss;
    double totals[3];
    for (int i = 0; i < 3; ++i) {
        double own = 0;
        for (int64_t block = threadIdx.x; block < p.blocks; block += 256) own += p.block_sums[3 * block + i];
        block_exclusive_sum(own, scratch, totals[i]);
    }
    if (threadIdx.x != 0) return;
    const double weights = totals[0] * static_cast<double>(q.channels), inverse = 1.0 / (weights > 1e-12 ? weights : 1e-12);
    const double loss = static_cast<double>(q.l1_weight) * totals[2] * inverse +
                        static_cast<double>(q.ssim_weight) * (1.0 - totals[1] * inverse);
    p.result[0] = loss;
    p.result[1] = inverse;
    if (p.skip != nullptr && !(abs_(loss) < 1e300)) *p.skip = 1;
}

RECON_KERNEL(ssim_backward, SsimLaunch, 256) {
    RECON_SHARED(BackwardRows, rows);
    const SsimParams& q = p.loss;
    const Place place = find_place(q);
    const int64_t pixel = static_cast<int64_t>(place.y) * q.width + place.x;
    const float weight = place.inside ? weight_at(q, pixel) : 0.0f;
    const float inverse = static_cast<float>(p.result[1]);
    const float by_l1 = q.l1_weight * inverse * weight, by_ssim = -q.ssim_weight * inverse;
    for (int channel = 0; channel < q.channels; ++channel) {
        load_derivatives(p, place, channel, rows);
        __syncthreads();
        float sums[3];
        filter_derivatives(rows, sums);
        if (place.inside) {
            const int64_t at = pixel * q.channels + channel;
            const float x = q.image[at], y = target_at(q, pixel, channel);
            // A pixel that does not count in any window may be NaN.
            const float by_square = sums[1] != 0.0f ? 2.0f * x * sums[1] : 0.0f;
            const float by_product = sums[2] != 0.0f ? y * sums[2] : 0.0f;
            const float sign = weight == 0.0f ? 0.0f : x > y ? by_l1 : x < y ? -by_l1 : 0.0f;
            q.gradient[at] = fma_(by_ssim, sums[0] + by_square + by_product, sign);
        }
        __syncthreads();
    }
}
