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

// Depth of the Gaussian's centre, and how that of its plane changes per pixel.
struct DepthPlane {
    float depth, slope_x, slope_y;
};

enum class Forward {
    kPlain,
    kDepth,  // there is a median depth to find or a channel to tilt
    kCount,  // pairs are counted
};

template <int D, Forward kWhat>
RECON_FN void forward_rows(const BlendParams& p, const float* record, const DepthPlane& plane, const PairView& pair,
                           int first, int last, int strip, const ForwardPlanes& t, int64_t* counts) {
    const int d = channel_count<D>(p);
    const Pack along_row = Pack(plane.slope_x) * (strip_lanes(strip) - Pack(pair.dx));
    const Pack scaled_lanes = strip_lanes(strip) * Pack(record[kScale]), threshold(p.log2_cutoff);
    Pack color[D > 0 ? D : 1];
    for (int k = 0; k < D; ++k) color[k] = Pack(record[kRecordChannels + k]);
    for (int row = first; row <= last; ++row) {
        const int at = place(strip, row);
        const Pack w = scaled_lanes + Pack(pair.offset[row]);
        const Pack exponent = log2_alpha(w, Pack(pair.base[row]));
        const Pack before = load(t.transmittance + at);
        const Mask taken = (exponent >= threshold) & (before >= Pack(kMinTransmittance));
        if constexpr (kWhat == Forward::kCount) {
            counts[0] += kLanes;
            counts[1] += __builtin_popcount(bits(taken));
        }
        if (kStrips > 1 && !any(taken)) continue;
        const Pack weight = alpha_sample(exponent, taken).alpha * before;
        const Pack after = before - weight;
        store(t.transmittance + at, after);
        if constexpr (kWhat == Forward::kDepth) {
            if (p.slopes) {
                const Pack tilt = fma_(Pack(plane.slope_y), Pack(pair.below[row]), along_row);
                float* c = t.channels + p.slope_channel * kPixels + at;
                store(c, fma_(weight, tilt, load(c)));
            }
            if (p.median_depth) {
                const Mask crosses = (before > Pack(0.5f)) & (after <= Pack(0.5f));
                store(t.median + at, select(crosses, Pack(plane.depth), load(t.median + at)));
            }
        }
        if constexpr (D > 0) {
            for (int k = 0; k < D; ++k)
                store(t.channels + k * kPixels + at, fma_(weight, color[k], load(t.channels + k * kPixels + at)));
        } else {
            for (int k = 0; k < d; ++k) {
                float* c = t.channels + k * kPixels + at;
                store(c, fma_(weight, Pack(record[kRecordChannels + k]), load(c)));
            }
        }
    }
}

DepthPlane depth_plane(const BlendParams& p, int64_t g) {
    return {p.median_depth ? p.depths[g] : 0.0f, p.slopes ? p.slopes[2 * g] : 0.0f,
            p.slopes ? p.slopes[2 * g + 1] : 0.0f};
}

template <int D, Forward kWhat>
void forward_tile(const BlendParams& p, int tile_index, float* scratch) {
    const int d = channel_count<D>(p);
    const ForwardPlanes t{scratch, scratch + kPixels, scratch + 2 * kPixels};
    TileView tile = start_tile(p, tile_index, t.transmittance);
    std::memset(t.median, 0, sizeof(float) * static_cast<size_t>(kPixels * (1 + d)));
    const int64_t begin = p.offsets[tile_index], end = p.offsets[tile_index + 1];
    int64_t* counts = kWhat == Forward::kCount ? p.counts + 2 * tile_index : nullptr;
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
            const DepthPlane plane = kWhat == Forward::kDepth ? depth_plane(p, p.entries[2 * (at + i)]) : DepthPlane{};
            for (int strip = 0; strip < kStrips; ++strip)
                forward_rows<D, kWhat>(p, record, plane, pair, static_cast<int>(batch.first[strip][i]),
                                       static_cast<int>(batch.last[strip][i]), strip, t, counts);
        }
        find_alive(t.transmittance, tile);
    }
    p.processed[tile_index] = static_cast<int32_t>((at < end ? at : end) - begin);
    if (p.background)
        for (int k = 0; k < d; ++k)
            for (int j = 0; j < kPixels; j += kLanes) {
                float* c = t.channels + k * kPixels + j;
                store(c, fma_(load(t.transmittance + j), Pack(p.background[k]), load(c)));
            }
    write_planes<D>(p, tile, t.channels, p.out_channels, d);
    if (p.median_depth) write_planes<1>(p, tile, t.median, p.median_depth, 1);
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
