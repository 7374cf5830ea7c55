// SPDX-License-Identifier: Apache-2.0
// The forward pass of blending; included by cpu.cpp only.
#pragma once
#include "recon/kernels/blend/tile.h"

namespace recon {
namespace {

struct ForwardPlanes {
    float* transmittance;
    float* median;
    float* channels;  // D planes
};

template <int D, bool kMedian>
RECON_FN void forward_rows(const BlendParams& p, const float* record, float depth, const PairView& pair, int first,
                           int last, int strip, const ForwardPlanes& t) {
    const int d = channel_count<D>(p);
    const Pack scaled_lanes = strip_lanes(strip) * Pack(record[kScale]), threshold(p.log2_cutoff);
    Pack color[D > 0 ? D : 1];
    for (int k = 0; k < D; ++k) color[k] = Pack(record[kRecordChannels + k]);
    for (int row = first; row <= last; ++row) {
        const int at = place(strip, row);
        const Pack w = scaled_lanes + Pack(pair.offset[row]);
        const Pack exponent = log2_alpha(w, Pack(pair.base[row]));
        const Pack before = load(t.transmittance + at);
        const Mask taken = (exponent >= threshold) & (before >= Pack(kMinTransmittance));
        if (kStrips > 1 && !any(taken)) continue;
        const Pack weight = alpha_sample(exponent, taken).alpha * before;
        const Pack after = before - weight;
        store(t.transmittance + at, after);
        if constexpr (D > 0) {
            for (int k = 0; k < D; ++k)
                store(t.channels + k * kPixels + at, fma_(weight, color[k], load(t.channels + k * kPixels + at)));
        } else {
            for (int k = 0; k < d; ++k) {
                float* c = t.channels + k * kPixels + at;
                store(c, fma_(weight, Pack(record[kRecordChannels + k]), load(c)));
            }
        }
        if constexpr (kMedian) {
            const Mask crosses = (before > Pack(0.5f)) & (after <= Pack(0.5f));
            store(t.median + at, select(crosses, Pack(depth), load(t.median + at)));
        }
    }
}

template <int D, bool kMedian>
void forward_tile(const BlendParams& p, int tile_index, float* scratch) {
    const int d = channel_count<D>(p);
    const ForwardPlanes t{scratch, scratch + kPixels, scratch + 2 * kPixels};
    TileView tile = start_tile(p, tile_index, t.transmittance);
    std::memset(t.median, 0, sizeof(float) * static_cast<size_t>(kPixels * (1 + d)));
    const int64_t begin = p.offsets[tile_index], end = p.offsets[tile_index + 1];
    int64_t at = begin;
    Batch batch;
    PairView pairs[kLanes];
    for (; at < end && tile.alive(); at += kLanes) {
        load_batch(p, tile, at, end, batch);
        prefetch_records(p, at + kLanes, end);
        for (int i = 0; i < batch.count; ++i) view_pair(p.records + batch.record[i], tile, pairs[i]);
        for (int i = 0; i < batch.count; ++i) {
            const float* record = p.records + batch.record[i];
            const PairView& pair = pairs[i];
            const float depth = kMedian ? p.depths[p.entries[2 * (at + i)]] : 0.0f;
            for (int strip = 0; strip < kStrips; ++strip)
                forward_rows<D, kMedian>(p, record, depth, pair, static_cast<int>(batch.first[strip][i]),
                                         static_cast<int>(batch.last[strip][i]), strip, t);
        }
        find_alive(t.transmittance, tile);
    }
    p.processed[tile_index] = static_cast<int32_t>((at < end ? at : end) - begin);
    write_planes<D>(p, tile, t.channels, p.out_channels, d);
    if (kMedian) write_planes<1>(p, tile, t.median, p.median_depth, 1);
    for (int j = 0; j < kPixels; j += kLanes) store(t.transmittance + j, Pack(1.0f) - load(t.transmittance + j));
    write_planes<1>(p, tile, t.transmittance, p.out_alpha, 1);
}

template <int D>
void forward(const BlendParams& p) {
    make_all_records(p);
    const int tiles = tile_count(p);
#pragma omp parallel
    {
        Scratch scratch(2 + p.channel_count);
#pragma omp for schedule(dynamic, 1)
        for (int tile = 0; tile < tiles; ++tile) {
            if (p.median_depth)
                forward_tile<D, true>(p, tile, scratch.data);
            else
                forward_tile<D, false>(p, tile, scratch.data);
        }
    }
}

}  // namespace
}  // namespace recon
