// SPDX-License-Identifier: Apache-2.0
// The forward pass of blending; included by cpu.cpp only.
#pragma once
#include "recon/kernels/blend/tile.h"

namespace recon {
namespace {

constexpr int kForwardBatch = 64;
using ForwardPairs = Batch<kForwardBatch>;

struct ForwardPlanes {
    float* transmittance;
    float* median;
    float* channels;  // D planes
};

enum class Forward {
    kPlain,
    kDepth,  // there is a median depth to find or a channel to tilt
    kCount,  // pairs are counted
};

// The tilted channel and the median depth at the pixels of a block.  `g` is the Gaussian.
RECON_FN void blend_depth(const BlendParams& p, int64_t g, const TileView& tile, int at, Pack weight, Pack before,
                          Pack after, const ForwardPlanes& t) {
    if (p.slopes) {
        const Pack dx = load(kPixelTable.x + at) - Pack(p.means_px[2 * g] - tile.x0);
        const Pack dy = load(kPixelTable.y + at) - Pack(p.means_px[2 * g + 1] - tile.y0);
        const Pack tilt = fma_(Pack(p.slopes[2 * g]), dx, Pack(p.slopes[2 * g + 1]) * dy);
        float* tilted = t.channels + p.channel_count * kPixels + at;
        store(tilted, fma_(weight, tilt, load(tilted)));
    }
    if (p.median_depth) {
        const Mask crosses = (before > Pack(0.5f)) & (after <= Pack(0.5f));
        store(t.median + at, select(crosses, Pack(p.depths[g]), load(t.median + at)));
    }
}

// Blends the entries that reach a block, one after another, so that what belongs to its pixels stays in registers;
// returns whether it still lets light through.  `list` is the batch's first entry.
template <int D, Forward kWhat>
bool forward_block(const BlendParams& p, const TileView& tile, const ForwardPairs& batch, const int32_t* list,
                   int block, const ForwardPlanes& t, int64_t* counts) {
    const int d = channel_count<D>(p), at = block * kLanes;
    const Pack x = load(kPixelTable.x + at), y = load(kPixelTable.y + at);
    const Pack threshold(p.log2_cutoff), opaque(kMinTransmittance), most(kMaxAlpha);
    Pack transmittance = load(t.transmittance + at), channels[D > 0 ? D : 1];
    for (int k = 0; k < D; ++k) channels[k] = load(t.channels + k * kPixels + at);
    for (uint64_t left = batch.entries_of(block); left != 0; left &= left - 1) {
        const int64_t i = __builtin_ctzll(left);
        const auto field = [&](PairField f) { return Pack(batch.fields[f][i]); };
        const Pack w = fma_(field(kGrowX), x, fma_(field(kGrowY), y, field(kOffset)));
        const Pack u = fma_(field(kFall), y, field(kLow)), exponent = log2_alpha(w, u, field(kTop));
        const Mask near = exponent >= threshold, alive = not_below(transmittance, opaque);
        const Pack alpha = fmin_(exp2_(exponent, near), most);
        const Pack weight = mul_or_zero(alive, alpha, transmittance), before = transmittance;
        transmittance = fnma_or_keep(alive, alpha, transmittance, transmittance);
        const float* color = batch.record[i] + kRecordChannels;
        for (int k = 0; k < D; ++k) channels[k] = fma_(weight, Pack(color[k]), channels[k]);
        for (int k = 0; D == 0 && k < d; ++k) {
            float* c = t.channels + k * kPixels + at;
            store(c, fma_(weight, Pack(color[k]), load(c)));
        }
        if (kWhat == Forward::kDepth) blend_depth(p, list[2 * i], tile, at, weight, before, transmittance, t);
        if (kWhat == Forward::kCount) {
            counts[0] += kLanes;
            counts[1] += __builtin_popcount(bits(near & alive));
        }
    }
    store(t.transmittance + at, transmittance);
    for (int k = 0; k < D; ++k) store(t.channels + k * kPixels + at, channels[k]);
    return any(transmittance >= opaque);
}

// Puts the background behind the channels, and adds what depth planes gave.
void finish_channels(const BlendParams& p, const ForwardPlanes& t, int d) {
    for (int j = 0; j < kPixels; j += kLanes) {
        const Pack transmittance = load(t.transmittance + j);
        for (int k = 0; p.background && k < d; ++k) {
            float* c = t.channels + k * kPixels + j;
            store(c, fma_(transmittance, Pack(p.background[k]), load(c)));
        }
        if (p.slopes) {
            float* c = t.channels + p.slope_channel * kPixels + j;
            store(c, load(c) + load(t.channels + d * kPixels + j));
        }
        store(t.transmittance + j, Pack(1.0f) - transmittance);
    }
}

template <int D, Forward kWhat>
void forward_tile(const BlendParams& p, int tile_index, float* scratch) {
    const int d = channel_count<D>(p);
    const ForwardPlanes t{scratch, scratch + kPixels, scratch + 2 * kPixels};
    const TileView tile = view_tile(p, tile_index);
    start_transmittance(tile, t.transmittance);
    std::memset(t.median, 0, sizeof(float) * static_cast<size_t>(kPixels * (2 + d)));
    const int64_t begin = p.offsets[tile_index], end = p.offsets[tile_index + 1];
    int64_t counts[2] = {0, 0}, at = begin;
    uint64_t alive = alive_blocks(t.transmittance);
    ForwardPairs batch;
    for (; at < end && alive != 0; at += kForwardBatch) {
        load_batch<Reached::kEntries>(p, tile, at, end, batch);
        prefetch_records(p, at + kForwardBatch, at + 2 * kForwardBatch < end ? at + 2 * kForwardBatch : end);
        for (uint64_t left = alive; left != 0; left &= left - 1) {
            const int block = __builtin_ctzll(left);
            if (!forward_block<D, kWhat>(p, tile, batch, p.entries + 2 * at, block, t, counts))
                alive &= ~(uint64_t(1) << block);
        }
    }
    if (kWhat == Forward::kCount) p.counts[2 * tile_index] = counts[0], p.counts[2 * tile_index + 1] = counts[1];
    p.processed[tile_index] = static_cast<int32_t>((at < end ? at : end) - begin);
    finish_channels(p, t, d);
    write_planes<D>(p, tile, t.channels, p.out_channels, d);
    if (p.median_depth) write_planes<1>(p, tile, t.median, p.median_depth, 1);
    write_planes<1>(p, tile, t.transmittance, p.out_alpha, 1);
}

template <int D>
void forward(const BlendParams& p) {
    make_all_records(p);
    TileRuns runs(p);
#pragma omp parallel
    {
        Scratch scratch(static_cast<size_t>(3 + p.channel_count) * kPixels);
        for (int tile, last; runs.take(tile, last);)
            for (; tile < last; ++tile) {
                if (p.counts)
                    forward_tile<D, Forward::kCount>(p, tile, scratch.data);
                else if (p.median_depth || p.slopes)
                    forward_tile<D, Forward::kDepth>(p, tile, scratch.data);
                else
                    forward_tile<D, Forward::kPlain>(p, tile, scratch.data);
            }
    }
}

}  // namespace
}  // namespace recon
