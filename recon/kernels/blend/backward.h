// SPDX-License-Identifier: Apache-2.0
// The backward pass of blending; included by cpu.cpp only.
#pragma once
#include "recon/kernels/blend/tile.h"

namespace recon {
namespace {

// What a pair contributes to its Gaussian's gradient: moments of h over its pixels, channels and statistics.  First
// moments are in the Gaussian's own coordinates (w, u), where a needle's slopes do not cancel; second moments have the
// distance dx instead of w, since a slanted Gaussian's w is the difference of what may be far larger than dx.
enum PairGradient { kH, kHw, kHu, kHxx, kHxu, kHuu, kPairChannels };
// Statistics stand behind the channels: first what is summed, then the largest weight.
enum PairStatistic { kAbsX, kAbsY, kWeightSum, kPairStatistics };

// What is gathered besides gradients.
enum class Statistics {
    kNone,
    kDensity,  // absolute gradients and the largest weight, for density control
    kAll,      // the sum of weights too
};

constexpr int kBackwardBatch = 32;
using BackwardPairs = Batch<kBackwardBatch>;

struct BackwardPlanes {
    float* transmittance;
    float* rest;      // what is still to come: suffix − T_end dL/dA
    float* spare;     // D planes
    float* channels;  // dL/dC, D planes
    // Sums over blocks, lane by lane: for each entry of a batch `sums` packs; and maxima of weights, a pack each.
    float* sums;
    float* most;
    float* line;      // the former, summed over lanes
};

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

RECON_FN float largest(const float* lanes) {
    float most = lanes[0];
    for (int i = 1; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
    return most;
}

// ---- one block -----------------------------------------------------------------------------------------------------

RECON_FN void accumulate(float* sum, Pack a, Pack b) { store(sum, fma_(a, b, load(sum))); }

// Sums of a pair; where there are statistics the largest weight is the next number.
template <int D, Statistics kStatistics>
RECON_FN constexpr int sum_count(int d) {
    constexpr int sums = kStatistics == Statistics::kAll ? kPairStatistics : kWeightSum;
    return kPairChannels + (D > 0 ? D : d) + (kStatistics == Statistics::kNone ? 0 : sums);
}

// Takes an entry once more at the blocks that it reaches and that are lit, and sums over them lane by lane.
// `kClamps`: its alpha may reach the clamp.
template <int D, Statistics kStatistics, bool kClamps>
void backward_pair(const BlendParams& p, const BackwardPairs& batch, int i, uint64_t lit,
                   const BackwardPlanes& t) {
    const int d = channel_count<D>(p), sums = sum_count<D, kStatistics>(d);
    const auto field = [&](PairField f) { return Pack(batch.fields[f][i]); };
    const Pack grow_x = field(kGrowX), grow_y = field(kGrowY), offset = field(kOffset), fall = field(kFall);
    const Pack low = field(kLow), top = field(kTop), mean_x = field(kPlaceX);
    const Pack threshold(p.log2_cutoff), opaque(kMinTransmittance), most(kMaxAlpha), zero(0.0f);
    float *const transmittance = t.transmittance, *const rests = t.rest, *const channels = t.channels;
    const float* record_color = batch.record[i] + kRecordChannels;
    float* out = t.sums + static_cast<size_t>(i * sums) * kLanes;
    Pack moment[kPairChannels], color[D > 0 ? D : 1], by_color[D > 0 ? D : 1];
    Pack abs_x = zero, abs_y = zero, weight_sum = zero, weight_max = zero;
    for (Pack& m : moment) m = zero;
    for (int k = 0; k < D; ++k) color[k] = Pack(record_color[k]), by_color[k] = zero;
    for (int k = 0; D == 0 && k < d; ++k) store(out + (kPairChannels + k) * kLanes, zero);
    for (int word = 0; word < kBlockWords; ++word) {
        uint32_t left = static_cast<uint32_t>(batch.blocks[word][i]) & static_cast<uint32_t>(lit >> 32 * word);
        for (; left != 0; left &= left - 1) {
            const int64_t at = (word * 32 + __builtin_ctz(left)) * kLanes;
            const Pack x = load(kPixelTable.x + at), y = load(kPixelTable.y + at), before = load(transmittance + at);
            const Pack w = fma_(grow_x, x, fma_(grow_y, y, offset)), u = fma_(fall, y, low);
            const Pack exponent = log2_alpha(w, u, top);
            const Mask near = exponent >= threshold, alive = not_below(before, opaque);
            const Pack raw = exp2_(exponent, near), alpha = kClamps ? fmin_(raw, most) : raw;
            const Pack weight = mul_or_zero(alive, alpha, before);
            store(transmittance + at, fnma_or_keep(alive, alpha, before, before));
            Pack v = zero;
            for (int k = 0; k < D; ++k) {
                const Pack g = load(channels + k * kPixels + at);
                v = k == 0 ? g * color[0] : fma_(g, color[k], v);
                by_color[k] = fma_(weight, g, by_color[k]);
            }
            for (int k = 0; D == 0 && k < d; ++k) {
                const Pack g = load(channels + k * kPixels + at);
                v = fma_(g, Pack(record_color[k]), v);
                accumulate(out + (kPairChannels + k) * kLanes, weight, g);
            }
            const Pack rest = fnma_(weight, v, load(rests + at));
            store(rests + at, rest);
            const Mask moves = kClamps ? alive & (raw <= most) : alive;
            const Pack h = log_alpha_gradient(moves, weight, alpha, v, rest);
            const Pack dx = x - mean_x, hu = h * u, hx = h * dx;
            moment[kH] = moment[kH] + h;
            moment[kHw] = fma_(h, w, moment[kHw]);
            moment[kHu] = moment[kHu] + hu;
            moment[kHxx] = fma_(hx, dx, moment[kHxx]);
            moment[kHxu] = fma_(hx, u, moment[kHxu]);
            moment[kHuu] = fma_(hu, u, moment[kHuu]);
            if constexpr (kStatistics != Statistics::kNone) {
                const Pack hw = h * w;
                abs_x = abs_x + abs_(hw);
                abs_y = abs_y + abs_(fma_(grow_y, hw, fall * hu));
                if constexpr (kStatistics == Statistics::kAll) weight_sum = weight_sum + weight;
                weight_max = fmax_(weight_max, weight);
            }
        }
    }
    for (int j = 0; j < kPairChannels; ++j) store(out + j * kLanes, moment[j]);
    for (int k = 0; k < D; ++k) store(out + (kPairChannels + k) * kLanes, by_color[k]);
    if constexpr (kStatistics != Statistics::kNone) {
        out += (kPairChannels + d) * kLanes;
        store(out + kAbsX * kLanes, abs_x);
        store(out + kAbsY * kLanes, abs_y);
        if constexpr (kStatistics == Statistics::kAll) store(out + kWeightSum * kLanes, weight_sum);
        store(t.most + i * kLanes, weight_max);
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

// Where a pair's gradient goes.
RECON_FN float* pair_line(const BlendParams& p, int64_t entry) {
    return p.pair_gradients + static_cast<int64_t>(p.entries[2 * entry + 1]) * p.pair_stride;
}

// Sums what the blocks left over the lanes and writes the batch's pairs.  What lies behind a line's last number is of
// no meaning.
template <int D, Statistics kStatistics>
void write_pairs(const BlendParams& p, int64_t begin, int count, const BackwardPlanes& t) {
    const int sums = sum_count<D, kStatistics>(channel_count<D>(p));
    for (int j = 0; j < count * sums; j += kLanes) {
        Pack group[kLanes];
        for (int i = 0; i < kLanes; ++i) group[i] = load(t.sums + static_cast<size_t>(j + i) * kLanes);
        store(t.line + j, sums_of<kLanes>(group));
    }
    for (int i = 0; i < count; ++i) {
        float* line = pair_line(p, begin + i);
        int j = 0;
        for (; j + kLanes <= p.pair_stride; j += kLanes) store(line + j, load(t.line + i * sums + j));
        if (j < p.pair_stride) store_masked(line + j, load(t.line + i * sums + j), first_lanes(p.pair_stride - j));
        if constexpr (kStatistics != Statistics::kNone) line[sums] = largest(t.most + i * kLanes);
    }
}

// Floats that `backward_planes` cuts up.
size_t backward_floats(int d) {
    const size_t sums = static_cast<size_t>(kPairChannels + d + kPairStatistics);
    return static_cast<size_t>(2 + 2 * d) * kPixels + kBackwardBatch * (sums * (kLanes + 1) + kLanes) + 2 * kLanes;
}

BackwardPlanes backward_planes(float* memory, int d) {
    BackwardPlanes t{};
    const auto take = [&](size_t floats) {
        memory += floats;
        return memory - floats;
    };
    t.transmittance = take(kPixels);
    t.rest = take(kPixels);
    t.spare = take(static_cast<size_t>(d) * kPixels);
    t.channels = take(static_cast<size_t>(d) * kPixels);
    t.most = take(kBackwardBatch * kLanes);
    t.sums = take(static_cast<size_t>(kPairChannels + d + kPairStatistics) * kBackwardBatch * kLanes);
    t.line = memory;
    return t;
}

template <int D, Statistics kStatistics>
void backward_pairs(const BlendParams& p, const BackwardPairs& batch, uint64_t lit, const BackwardPlanes& t) {
    const float surely_below = std::log2(kMaxAlpha) - 1e-5f;
    for (int i = 0; i < batch.count; ++i) {
        if (D == 3 && batch.fields[kTop][i] < surely_below)
            backward_pair<D, kStatistics, false>(p, batch, i, lit, t);
        else
            backward_pair<D, kStatistics, true>(p, batch, i, lit, t);
    }
}

template <int D, Statistics kStatistics>
void backward_tile(const BlendParams& p, int tile_index, const BackwardPlanes& t) {
    const TileView tile = view_tile(p, tile_index);
    start_transmittance(tile, t.transmittance);
    load_gradients<D>(p, tile, t);
    const int64_t begin = p.offsets[tile_index], end = p.offsets[tile_index + 1];
    const int64_t stop = begin + p.processed[tile_index];
    uint64_t alive = alive_blocks(t.transmittance);
    BackwardPairs batch;
    for (int64_t at = begin; at < stop; at += kBackwardBatch) {
        load_batch<Reached::kBlocks>(p, tile, at, stop, batch);
        prefetch_records(p, at + kBackwardBatch, at + 2 * kBackwardBatch < stop ? at + 2 * kBackwardBatch : stop);
        for (int i = 0; i < batch.count; ++i) __builtin_prefetch(pair_line(p, at + i), 1);
        backward_pairs<D, kStatistics>(p, batch, alive, t);
        write_pairs<D, kStatistics>(p, at, batch.count, t);
        alive = alive_blocks(t.transmittance);
    }
    for (int64_t i = stop; i < end; ++i)
        std::memset(pair_line(p, i), 0, sizeof(float) * static_cast<size_t>(p.pair_stride));
}

// ---- Gaussians -----------------------------------------------------------------------------------------------------

// Up to a pack of consecutive Gaussians.
struct Rows {
    int64_t first;
    int count;

    RECON_FN void put(float* array, Pack x) const {
        if (count >= kLanes) return store(array + first, x);
        float spare[kLanes];
        store(spare, x);
        std::memcpy(array + first, spare, sizeof(float) * static_cast<size_t>(count));
    }
    RECON_FN void put2(float* array, Pack x, Pack y) const {
        if (count >= kLanes) return store_rows2(array + 2 * first, x, y);
        float spare[2 * kLanes];
        store_rows2(spare, x, y);
        std::memcpy(array + 2 * first, spare, sizeof(float) * static_cast<size_t>(2 * count));
    }
    RECON_FN void put3(float* array, Pack x, Pack y, Pack z) const {
        if (count >= kLanes) return store_rows3(array + 3 * first, x, y, z);
        float spare[3 * kLanes];
        store_rows3(spare, x, y, z);
        std::memcpy(array + 3 * first, spare, sizeof(float) * static_cast<size_t>(3 * count));
    }
    RECON_FN Pack get(const float* array) const {
        float spare[kLanes];
        return load(whole_rows<1>(array, first, count, spare));
    }
};

// Sums the pairs of each Gaussian in their order; a row of `totals` each, 0 for one without pairs.  Whole packs are read
// and written, beyond a row's end: the next row is written later, and both arrays have room behind their last row.
template <int D, Statistics kStatistics>
RECON_FN Mask sum_pairs(const BlendParams& p, const Rows& rows, float* totals) {
    constexpr bool kLargest = kStatistics != Statistics::kNone;
    const int where_max = sum_count<D, kStatistics>(p.channel_count), stride = p.pair_stride;
    float touched[kLanes];
    for (int i = 0; i < kLanes; ++i, totals += stride) {
        const int64_t g = rows.first + (i < rows.count ? i : 0);
        const int64_t first = p.pair_starts[g], last = i < rows.count ? p.pair_starts[g + 1] : first;
        touched[i] = last > first ? 1.0f : 0.0f;
        float weight_max = 0.0f;
        for (int j = 0; j < stride; j += kLanes) {
            const float* line = p.pair_gradients + first * stride + j;
            Pack sum(0.0f);
            for (int64_t pair = first; pair < last; ++pair, line += stride) sum = sum + load(line);
            store(totals + j, sum);
        }
        for (int64_t pair = first; kLargest && pair < last; ++pair)
            weight_max = fmax_(weight_max, p.pair_gradients[pair * stride + where_max]);
        if (kLargest) totals[where_max] = weight_max;
    }
    return load(touched) > Pack(0.0f);
}

template <Statistics kStatistics, class Column>
RECON_FN void write_statistics(const BlendParams& p, const Rows& rows, Mask touched, Pack scale_x, Column&& column) {
    const Pack weight_max = column(kStatistics == Statistics::kAll ? kPairStatistics : kWeightSum);
    const Pack abs_x = column(kAbsX) * scale_x * Pack(2.0f * kLn2), abs_y = column(kAbsY) * Pack(2.0f * kLn2);
    if constexpr (kStatistics == Statistics::kAll) {
        rows.put2(p.grad_means_abs, abs_x, abs_y);
        rows.put(p.weight_sum, column(kWeightSum));
        rows.put(p.weight_max, weight_max);
    }
    if (p.gradient_sum) {
        const Pack length = select(touched, sqrt_(fma_(abs_x, abs_x, abs_y * abs_y)), Pack(0.0f));
        rows.put(p.gradient_sum, rows.get(p.gradient_sum) + length);
        rows.put(p.seen, rows.get(p.seen) + select(touched, Pack(1.0f), Pack(0.0f)));
        rows.put(p.most_weight, fmax_(rows.get(p.most_weight), weight_max));
    }
}

// Turns moments into gradients.  With s and t the scales of w and u, a dx + b dy = 2 ln 2 s w,
// c dy + b dx = b/a (a dx + b dy) + 2 ln 2 t u, and dy = u/t.
template <int D, Statistics kStatistics>
void write_gradients(const BlendParams& p, const Rows& rows, float* totals) {
    const int d = channel_count<D>(p);
    const Mask touched = sum_pairs<D, kStatistics>(p, rows, totals);
    int32_t pair_rows[kLanes], record_rows[kLanes];
    for (int i = 0; i < kLanes; ++i)
        pair_rows[i] = i * p.pair_stride, record_rows[i] = (i < rows.count ? i : 0) * p.record_stride;
    const Pack zero(0.0f);
    const auto total = [&](int column) { return gather(totals + column, pair_rows); };
    // Nothing is known of a Gaussian that no tile lists; its gradient is 0.
    const auto known = [&](Pack value) { return select(touched, value, zero); };
    const auto record = [&](Record field) {
        return known(gather(p.records + rows.first * p.record_stride + field, record_rows));
    };
    const Pack scale_x = record(kScaleX), scale_y = record(kScaleY), skew = record(kSkewX);
    const Pack along_x = Pack(2.0f * kLn2) * scale_x * total(kHw), along_y = Pack(2.0f * kLn2) * scale_y * total(kHu);
    rows.put2(p.grad_means_px, along_x, fma_(skew, along_x, along_y));
    const Pack one_y = Pack(1.0f) / scale_y, yy = total(kHuu) * one_y * one_y;
    rows.put3(p.grad_conics, Pack(-0.5f) * total(kHxx), known(-total(kHxu) * one_y), known(Pack(-0.5f) * yy));
    rows.put(p.grad_opacities, known(total(kH) / rows.get(p.opacities)));
    if constexpr (D == 3) {
        rows.put3(p.grad_channels, total(kPairChannels), total(kPairChannels + 1), total(kPairChannels + 2));
    } else {
        for (int i = 0; i < rows.count; ++i)
            std::memcpy(p.grad_channels + (rows.first + i) * d, totals + i * p.pair_stride + kPairChannels,
                        sizeof(float) * static_cast<size_t>(d));
    }
    if constexpr (kStatistics != Statistics::kNone)
        write_statistics<kStatistics>(p, rows, touched, scale_x,
                                      [&](int column) { return total(kPairChannels + d + column); });
}

template <int D, Statistics kStatistics>
void backward(const BlendParams& p) {
    const int d = p.channel_count;
    const int64_t packs = (p.count + kLanes - 1) / kLanes;
    TileRuns runs(p);
#pragma omp parallel
    {
        Scratch scratch(backward_floats(d)), totals(static_cast<size_t>((p.pair_stride + 1) * kLanes));
        const BackwardPlanes planes = backward_planes(scratch.data, d);
        for (int tile, last; runs.take(tile, last);)
            for (; tile < last; ++tile) backward_tile<D, kStatistics>(p, tile, planes);
#pragma omp barrier
#pragma omp for schedule(dynamic, 64)
        for (int64_t pack = 0; pack < packs; ++pack) {
            const int64_t first = pack * kLanes, left = p.count - first;
            const Rows rows{first, left < kLanes ? static_cast<int>(left) : kLanes};
            if (p.pair_starts[first] != p.pair_starts[first + rows.count])
                write_gradients<D, kStatistics>(p, rows, totals.data);
        }
    }
}

template <int D>
void backward(const BlendParams& p) {
    if (p.grad_means_abs != nullptr)
        backward<D, Statistics::kAll>(p);
    else if (p.gradient_sum != nullptr)
        backward<D, Statistics::kDensity>(p);
    else
        backward<D, Statistics::kNone>(p);
}

}  // namespace
}  // namespace recon
