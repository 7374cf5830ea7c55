// SPDX-License-Identifier: Apache-2.0
// The backward pass of blending; included by cpu.cpp only.
#pragma once
#include "recon/kernels/blend/tile.h"

namespace recon {
namespace {

// What a pair contributes to its Gaussian's gradient: moments of h over its pixels, channels and statistics.
enum PairGradient { kH, kHx, kHy, kHxx, kHxy, kHyy, kPairChannels };
enum PairStatistic { kAbsX, kAbsY, kWeightSum, kWeightMax, kPairStatistics };

struct BackwardPlanes {
    float* transmittance;
    float* rest;      // what is still to come: suffix − T_end dL/dA
    float* spare;
    float* channels;  // dL/dC, D planes
};

RECON_FN bool wants_statistics(const BlendParams& p) { return p.grad_means_abs != nullptr || p.gradient_sum != nullptr; }

// ---- sums over lanes -----------------------------------------------------------------------------------------------

template <int S>
struct KeepOwn {
    static constexpr int of(int lane) { return lane & S ? kLanes + lane : lane; }
};
template <int S>
struct TakeOther {
    static constexpr int of(int lane) { return (lane & S ? kLanes : 0) + (lane ^ S); }
};

// Adds lanes that are S apart: those of `a` into the lanes without the bit S, those of `b` into the others.
template <int S, int kCount>
RECON_FN void fold(Pack (&v)[kLanes]) {
#pragma GCC unroll 16
    for (int i = 0; i < S; ++i) {
        const Pack a = v[i], b = i + S < kCount ? v[i + S] : a;
        v[i] = shuffle<KeepOwn<S>>(a, b) + shuffle<TakeOther<S>>(a, b);
    }
}

// Lane i of the result is the sum of the lanes of v[i], for i below kCount.
template <int kCount>
RECON_FN Pack sums_of(Pack (&v)[kLanes]) {
    if constexpr (kLanes >= 16) fold<8, kCount>(v);
    if constexpr (kLanes >= 8) fold<4, (kCount < 8 ? kCount : 8)>(v);
    fold<2, (kCount < 4 ? kCount : 4)>(v);
    fold<1, (kCount < 2 ? kCount : 2)>(v);
    return v[0];
}

RECON_FN float largest(Pack a) {
    float t[kLanes];
    store(t, a);
    float most = t[0];
    for (int i = 1; i < kLanes; ++i) most = t[i] > most ? t[i] : most;
    return most;
}

// ---- one pair ------------------------------------------------------------------------------------------------------

// The gradient of one pair, lane by lane: each element still has to be summed over its lanes.
template <int D, bool kStatistics>
struct PairSums {
    static constexpr int kSums = kPairChannels + D + (kStatistics ? kWeightMax : 0);
    Pack sums[kSums];
    Pack weight_max;

    RECON_FN void clear() {
        for (int j = 0; j < kSums; ++j) sums[j] = Pack(0.0f);
        weight_max = Pack(0.0f);
    }

    // Writes whole packs; what lies behind the last number is of no meaning.
    RECON_FN void write(float* out) {
        for (int begin = 0; begin < kSums; begin += kLanes) {
            Pack group[kLanes];
            for (int j = 0; j < kLanes; ++j) group[j] = begin + j < kSums ? sums[begin + j] : Pack(0.0f);
            store(out + begin, sums_of<(kSums < kLanes ? kSums : kLanes)>(group));
        }
        if constexpr (kStatistics) out[kSums] = largest(weight_max);
    }
};

template <int D, bool kStatistics>
RECON_FN void backward_rows(const BlendParams& p, const float* record, const PairView& pair, int first, int last,
                            int strip, const BackwardPlanes& t, PairSums<D, kStatistics>& out, float* out_channels) {
    const int d = channel_count<D>(p);
    const Pack lanes = strip_lanes(strip), threshold(p.log2_cutoff), zero(0.0f);
    const Pack scaled_lanes = lanes * Pack(record[kScale]);
    Pack color[D > 0 ? D : 1], grad_color[D > 0 ? D : 1];
    for (int k = 0; k < D; ++k) color[k] = Pack(record[kRecordChannels + k]), grad_color[k] = zero;
    Pack h0 = zero, h1 = zero, h2 = zero, abs_x = zero, abs_y = zero, weight_sum = zero, weight_max = zero;
    // a (dx + skew dy) = w · (a / scale), and b dx + c dy = skew · that + (det / a) dy.
    const float along_x = record[kScale] * (2.0f * kLn2);
    const Pack along_y(along_x * record[kSkewX]), falloff(record[kFalloff] * (2.0f * kLn2));
    for (int row = first; row <= last; ++row) {
        const int at = place(strip, row);
        const Pack w = scaled_lanes + Pack(pair.offset[row]);
        const Pack exponent = log2_alpha(w, Pack(pair.base[row]));
        const Pack before = load(t.transmittance + at);
        const Mask taken = (exponent >= threshold) & (before >= Pack(kMinTransmittance));
        if (kStrips > 1 && !any(taken)) continue;
        const AlphaSample<Pack> sample = alpha_sample(exponent, taken);
        const Pack weight = sample.alpha * before;
        store(t.transmittance + at, before - weight);
        Pack v = zero;
        if constexpr (D > 0) {
            for (int k = 0; k < D; ++k) {
                const Pack g = load(t.channels + k * kPixels + at);
                v = k == 0 ? g * color[0] : fma_(g, color[k], v);
                grad_color[k] = fma_(weight, g, grad_color[k]);
            }
        } else {
            for (int k = 0; k < d; ++k) {
                const Pack g = load(t.channels + k * kPixels + at);
                v = fma_(g, Pack(record[kRecordChannels + k]), v);
                out_channels[k] += sum(weight * g);
            }
        }
        const Pack rest = fnma_(weight, v, load(t.rest + at));
        store(t.rest + at, rest);
        const Pack h = select(taken & sample.free, log_alpha_gradient(weight, sample.alpha, v, rest), zero);
        const Pack below(pair.below[row]), hy = h * below;
        h0 = h0 + h;
        h1 = h1 + hy;
        h2 = fma_(hy, below, h2);
        if constexpr (kStatistics) {
            abs_x = abs_x + abs_(h * w);
            abs_y = abs_y + abs_(h * fma_(along_y, w, falloff * below));
            weight_sum = weight_sum + weight;
            weight_max = fmax_(weight_max, weight);
        }
    }
    const Pack dx = lanes - Pack(pair.dx), hx = h0 * dx;
    Pack* s = out.sums;
    s[kH] = s[kH] + h0;
    s[kHx] = s[kHx] + hx;
    s[kHy] = s[kHy] + h1;
    s[kHxx] = fma_(hx, dx, s[kHxx]);
    s[kHxy] = fma_(h1, dx, s[kHxy]);
    s[kHyy] = s[kHyy] + h2;
    for (int k = 0; k < D; ++k) s[kPairChannels + k] = s[kPairChannels + k] + grad_color[k];
    if constexpr (kStatistics) {
        s += kPairChannels + D;
        s[kAbsX] = fma_(abs_x, Pack(along_x), s[kAbsX]);
        s[kAbsY] = s[kAbsY] + abs_y;
        s[kWeightSum] = s[kWeightSum] + weight_sum;
        out.weight_max = fmax_(out.weight_max, weight_max);
    }
}

// ---- tiles ---------------------------------------------------------------------------------------------------------

template <int D>
void load_gradients(const BlendParams& p, const TileView& tile, const BackwardPlanes& t) {
    const int d = channel_count<D>(p);
    read_planes<D>(p, tile, p.grad_out_channels, t.channels, d);
    read_planes<D>(p, tile, p.out_channels, t.spare, d);
    for (int j = 0; j < kPixels; j += kLanes) {
        Pack total(0.0f);
        for (int k = 0; k < d; ++k)
            total = fma_(load(t.spare + k * kPixels + j), load(t.channels + k * kPixels + j), total);
        store(t.rest + j, total);
    }
    if (p.grad_out_alpha == nullptr) return;
    alignas(64) float alpha[kPixels];
    read_planes<1>(p, tile, p.out_alpha, alpha, 1);
    read_planes<1>(p, tile, p.grad_out_alpha, t.spare, 1);
    for (int j = 0; j < kPixels; j += kLanes)
        store(t.rest + j, fma_(load(alpha + j) - Pack(1.0f), load(t.spare + j), load(t.rest + j)));
}

// With any number of channels, theirs and the statistics follow the moments one by one.
template <int D, bool kStatistics>
RECON_FN void write_pair(PairSums<D, kStatistics>& sums, const float* channels, int d, float* out) {
    if constexpr (D > 0) {
        sums.write(out);
    } else {
        float line[kPairChannels + kPairStatistics + kLanes];
        sums.write(line);
        std::memcpy(out, line, sizeof(float) * kPairChannels);
        std::memcpy(out + kPairChannels, channels, sizeof(float) * static_cast<size_t>(d));
        if (kStatistics)
            std::memcpy(out + kPairChannels + d, line + kPairChannels, sizeof(float) * kPairStatistics);
    }
}

template <int D, bool kStatistics>
void backward_tile(const BlendParams& p, int tile_index, float* scratch, float* channel_sums) {
    const int d = channel_count<D>(p);
    const BackwardPlanes t{scratch, scratch + kPixels, scratch + 2 * kPixels, scratch + (2 + d) * kPixels};
    TileView tile = start_tile(p, tile_index, t.transmittance);
    load_gradients<D>(p, tile, t);
    const int64_t begin = p.offsets[tile_index], end = p.offsets[tile_index + 1];
    const int64_t stop = begin + p.processed[tile_index];
    const auto pair_line = [&](int64_t i) {
        return p.pair_gradients + static_cast<int64_t>(p.entries[2 * i + 1]) * p.pair_stride;
    };
    Batch batch;
    PairView pairs[kLanes];
    PairSums<D, kStatistics> sums;
    for (int64_t at = begin; at < stop; at += kLanes) {
        load_batch(p, tile, at, stop, batch);
        prefetch_records(p, at + kLanes, stop);
        for (int i = 0; i < batch.count; ++i) __builtin_prefetch(pair_line(at + i), 1);
        for (int i = 0; i < batch.count; ++i) view_pair(p.records + batch.record[i], tile, pairs[i]);
        for (int i = 0; i < batch.count; ++i) {
            const float* record = p.records + batch.record[i];
            const PairView& pair = pairs[i];
            sums.clear();
            if (D == 0) std::memset(channel_sums, 0, sizeof(float) * static_cast<size_t>(d));
            for (int strip = 0; strip < kStrips; ++strip)
                backward_rows<D, kStatistics>(p, record, pair, static_cast<int>(batch.first[strip][i]),
                                              static_cast<int>(batch.last[strip][i]), strip, t, sums, channel_sums);
            write_pair(sums, channel_sums, d, pair_line(at + i));
        }
        find_alive(t.transmittance, tile);
    }
    for (int64_t i = stop; i < end; ++i)
        std::memset(pair_line(i), 0, sizeof(float) * static_cast<size_t>(p.pair_stride));
}

// ---- Gaussians -----------------------------------------------------------------------------------------------------

// Turns moments into gradients.
void write_gradients(const BlendParams& p, int64_t g, const float* total, float weight_max) {
    const int d = p.channel_count;
    const float a = p.conics[3 * g], b = p.conics[3 * g + 1], c = p.conics[3 * g + 2];
    p.grad_means_px[2 * g] = a * total[kHx] + b * total[kHy];
    p.grad_means_px[2 * g + 1] = b * total[kHx] + c * total[kHy];
    p.grad_conics[3 * g] = -0.5f * total[kHxx];
    p.grad_conics[3 * g + 1] = -total[kHxy];
    p.grad_conics[3 * g + 2] = -0.5f * total[kHyy];
    p.grad_opacities[g] = total[kH] / p.opacities[g];
    for (int k = 0; k < d; ++k) p.grad_channels[g * d + k] = total[kPairChannels + k];
    const float* s = total + kPairChannels + d;
    if (p.grad_means_abs) {
        p.grad_means_abs[2 * g] = s[kAbsX];
        p.grad_means_abs[2 * g + 1] = s[kAbsY];
        p.weight_sum[g] = s[kWeightSum];
        p.weight_max[g] = weight_max;
    }
    if (p.gradient_sum) {
        p.gradient_sum[g] += sqrt_(s[kAbsX] * s[kAbsX] + s[kAbsY] * s[kAbsY]);
        p.seen[g] += 1.0f;
        p.most_weight[g] = fmax_(p.most_weight[g], weight_max);
    }
}

// Sums the pairs of one Gaussian, in their order.
void sum_pairs(const BlendParams& p, int64_t g, float* total) {
    const int64_t first = p.pair_starts[g], last = p.pair_starts[g + 1];
    if (first == last) return;
    const int where_max = kPairChannels + p.channel_count + kWeightMax;
    const int used = wants_statistics(p) ? where_max + 1 : kPairChannels + p.channel_count;
    float weight_max = 0;
    for (int j = 0; j < used; j += kLanes) {
        const float* line = p.pair_gradients + first * p.pair_stride + j;
        Pack sum = load(line), most = sum;
        for (int64_t pair = first + 1; pair < last; ++pair) {
            line += p.pair_stride;
            sum = sum + load(line);
            most = fmax_(most, load(line));
        }
        store(total + j, most);
        if (wants_statistics(p) && where_max >= j && where_max < j + kLanes) weight_max = total[where_max];
        store(total + j, sum);
    }
    write_gradients(p, g, total, weight_max);
}

template <int D>
void backward(const BlendParams& p) {
    const int tiles = tile_count(p), d = p.channel_count;
#pragma omp parallel
    {
        Scratch scratch(2 + 2 * d), sums(1 + (d + kPixels - 1) / kPixels);
#pragma omp for schedule(dynamic, 1)
        for (int tile = 0; tile < tiles; ++tile) {
            if (wants_statistics(p))
                backward_tile<D, true>(p, tile, scratch.data, sums.data);
            else
                backward_tile<D, false>(p, tile, scratch.data, sums.data);
        }
#pragma omp for schedule(dynamic, 1024)
        for (int64_t g = 0; g < p.count; ++g) sum_pairs(p, g, sums.data);
    }
}

}  // namespace
}  // namespace recon
