// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward pass of blending share: the records that tiles read, the state of a tile, and how
// a Gaussian looks from a tile.  Included by cpu.cpp only.
#pragma once
#include <cstring>
#include <memory>

#include "recon/kernels/binning/math.h"
#include "recon/kernels/binning/params.h"
#include "recon/kernels/blend/math.h"
#include "recon/kernels/blend/params.h"
#include "recon/kernels/common/rows.h"
#include "recon/kernels/common/transpose.h"

namespace recon {
namespace {

constexpr int kTile = kTileSize;
constexpr int kStrips = kTile / kLanes;
constexpr int kPixels = kTile * kTile;

// D channels, or any number (then in `channel_count`) where D is 0.
template <int D>
RECON_FN int channel_count(const BlendParams& p) {
    return D > 0 ? D : p.channel_count;
}

RECON_FN int tile_count(const BlendParams& p) {
    return ((p.width + kTile - 1) / kTile) * ((p.height + kTile - 1) / kTile);
}

// ---- records -------------------------------------------------------------------------------------------------------

// What a tile needs of a Gaussian, in one or two cache lines; the channels follow.
enum Record {
    kMeanX,
    kMeanY,
    kScale,        // w = scale (dx + skew_x dy)
    kSkewX,        // b / a
    kFalloff,      // (det / a) / (2 ln 2)
    kLog2Opacity,
    kSkewY,        // b / c
    kHalfWidth,    // negative: not drawn
    kExtremeX,     // skew_x · half height: where the ellipse is highest, dx = −extreme
    kChordY,
    kRecordChannels
};

constexpr int kRecordLine = 16;  // floats

// Writes the records of `count` Gaussians from `first` on, one pack of them.
void make_records(const BlendParams& p, int64_t first, int count) {
    float spare2[2 * kLanes], spare3[3 * kLanes], spare1[kLanes];
    const Pack2 mean = load_rows2(whole_rows<2>(p.means_px, first, count, spare2));
    const Pack3 conic = load_rows3(whole_rows<3>(p.conics, first, count, spare3));
    const Pack opacity = load(whole_rows<1>(p.opacities, first, count, spare1));
    const Pack det = determinant(conic.x, conic.y, conic.z);
    const Pack log2_opacity = log_(opacity) * Pack(kLog2e);
    const Ellipse<Pack> e = make_ellipse(conic.x, conic.y, conic.z, det, log2_opacity - Pack(p.log2_cutoff));
    Pack fields[kRecordLine];
    fields[kMeanX] = mean.x;
    fields[kMeanY] = mean.y;
    fields[kScale] = sqrt_(conic.x * Pack(0.5f * kLog2e));
    fields[kSkewX] = e.skew_x;
    fields[kFalloff] = det / conic.x * Pack(0.5f * kLog2e);
    fields[kLog2Opacity] = log2_opacity;
    fields[kSkewY] = e.skew_y;
    fields[kHalfWidth] = e.half_width;
    fields[kExtremeX] = e.skew_x * e.half_height;
    fields[kChordY] = e.chord_y;
    for (int f = kRecordChannels; f < kRecordLine; ++f) fields[f] = Pack(0.0f);
    for (int part = 0; part < kRecordLine / kLanes; ++part) {
        Pack square[kLanes];
        for (int f = 0; f < kLanes; ++f) square[f] = fields[part * kLanes + f];
        transpose(square);
        for (int i = 0; i < count; ++i)
            store(p.records + (first + i) * p.record_stride + part * kLanes, square[i]);
    }
    for (int i = 0; i < count; ++i) {
        float* record = p.records + (first + i) * p.record_stride;
        const float* channels = p.channels + (first + i) * p.channel_count;
        float zero = 0;  // becomes NaN where a channel is not finite
        for (int k = 0; k < p.channel_count; ++k) {
            record[kRecordChannels + k] = channels[k];
            zero += 0.0f * channels[k];
        }
        if (!(zero == 0.0f)) record[kHalfWidth] = -1.0f;
    }
}

void make_all_records(const BlendParams& p) {
    constexpr int64_t kBlock = 1024;
    const int64_t blocks = (p.count + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t end = (block + 1) * kBlock < p.count ? (block + 1) * kBlock : p.count;
        for (int64_t g = block * kBlock; g < end; g += kLanes) {
            const int count = end - g < kLanes ? static_cast<int>(end - g) : kLanes;
            if (p.pair_starts[g] != p.pair_starts[g + count]) make_records(p, g, count);
        }
    }
}

// ---- tiles ---------------------------------------------------------------------------------------------------------

// A plane of the tile holds one number per pixel: strip by strip, row by row, a pack each.
RECON_FN int place(int strip, int row) { return (strip * kTile + row) * kLanes; }

struct TileView {
    float x0, y0;                // centre of the first pixel
    int columns, rows;           // pixels inside the picture
    int64_t first_pixel;         // in the picture
    int first_alive[kStrips];    // rows that still let light through; first > last where the strip is opaque
    int last_alive[kStrips];

    bool alive() const {
        for (int strip = 0; strip < kStrips; ++strip)
            if (first_alive[strip] <= last_alive[strip]) return true;
        return false;
    }
    int columns_in(int strip) const {
        const int left = columns - strip * kLanes;
        return left < 0 ? 0 : left < kLanes ? left : kLanes;
    }
};

// Pixels beyond the picture are opaque from the start.
TileView start_tile(const BlendParams& p, int tile, float* transmittance) {
    const int tiles_x = (p.width + kTile - 1) / kTile;
    const int x = tile % tiles_x * kTile, y = tile / tiles_x * kTile;
    TileView view{};
    view.x0 = static_cast<float>(x) + 0.5f;
    view.y0 = static_cast<float>(y) + 0.5f;
    view.columns = p.width - x < kTile ? p.width - x : kTile;
    view.rows = p.height - y < kTile ? p.height - y : kTile;
    view.first_pixel = static_cast<int64_t>(y) * p.width + x;
    for (int strip = 0; strip < kStrips; ++strip) {
        const Mask inside = first_lanes(view.columns_in(strip));
        for (int row = 0; row < kTile; ++row)
            store(transmittance + place(strip, row),
                  select(inside, Pack(row < view.rows ? 1.0f : 0.0f), Pack(0.0f)));
        view.first_alive[strip] = 0;
        view.last_alive[strip] = view.columns_in(strip) > 0 ? view.rows - 1 : -1;
    }
    return view;
}

void find_alive(const float* transmittance, TileView& view) {
    for (int strip = 0; strip < kStrips; ++strip) {
        const auto opaque = [&](int row) {
            return !any(load(transmittance + place(strip, row)) >= Pack(kMinTransmittance));
        };
        int first = view.first_alive[strip], last = view.last_alive[strip];
        while (first <= last && opaque(first)) ++first;
        while (first <= last && opaque(last)) --last;
        view.first_alive[strip] = first;
        view.last_alive[strip] = last;
    }
}

// Planes to and from `d` interleaved numbers per pixel of the picture.
template <int D>
void write_planes(const BlendParams& p, const TileView& tile, const float* planes, float* picture, int d) {
    for (int row = 0; row < tile.rows; ++row)
        for (int strip = 0; strip < kStrips; ++strip) {
            float* to = picture + (tile.first_pixel + static_cast<int64_t>(row) * p.width + strip * kLanes) * d;
            const float* from = planes + place(strip, row);
            const int columns = tile.columns_in(strip);
            if (columns == kLanes && D == 1) {
                store(to, load(from));
            } else if (columns == kLanes && D == 3) {
                store_rows3(to, load(from), load(from + kPixels), load(from + 2 * kPixels));
            } else if (columns == kLanes && D == 4) {
                store_rows4(to, load(from), load(from + kPixels), load(from + 2 * kPixels), load(from + 3 * kPixels));
            } else {
                for (int k = 0; k < d; ++k)
                    for (int x = 0; x < columns; ++x) to[x * d + k] = from[k * kPixels + x];
            }
        }
}

// Pixels beyond the picture become 0.
template <int D>
void read_planes(const BlendParams& p, const TileView& tile, const float* picture, float* planes, int d) {
    if (tile.columns < kTile || tile.rows < kTile)
        std::memset(planes, 0, sizeof(float) * static_cast<size_t>(kPixels * d));
    for (int row = 0; row < tile.rows; ++row)
        for (int strip = 0; strip < kStrips; ++strip) {
            const float* from = picture + (tile.first_pixel + static_cast<int64_t>(row) * p.width + strip * kLanes) * d;
            float* to = planes + place(strip, row);
            const int columns = tile.columns_in(strip);
            if (columns == kLanes && D == 1) {
                store(to, load(from));
            } else if (columns == kLanes && D == 3) {
                const Pack3 c = load_rows3(from);
                store(to, c.x), store(to + kPixels, c.y), store(to + 2 * kPixels, c.z);
            } else if (columns == kLanes && D == 4) {
                const Pack4 c = load_rows4(from);
                store(to, c.x), store(to + kPixels, c.y), store(to + 2 * kPixels, c.z), store(to + 3 * kPixels, c.w);
            } else {
                for (int k = 0; k < d; ++k)
                    for (int x = 0; x < columns; ++x) to[k * kPixels + x] = from[x * d + k];
            }
        }
}

// Memory of one thread, aligned to a cache line.
struct Scratch {
    std::unique_ptr<float[]> memory;
    float* data;
    explicit Scratch(int planes) : memory(new float[static_cast<size_t>(planes) * kPixels + 16]) {
        data = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64 / sizeof(float);
    }
};

// ---- Gaussians as a tile sees them ---------------------------------------------------------------------------------

// A pack of entries of the tile's list: the rows of each strip that each ellipse reaches and that are not opaque.
struct Batch {
    int count;
    int32_t record[kLanes];  // where each record starts
    float first[kStrips][kLanes], last[kStrips][kLanes];
};

// Records lie scattered over more than the second-level cache, so the next batch is asked for early.
RECON_FN void prefetch_records(const BlendParams& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && i < begin + kLanes; ++i)
        __builtin_prefetch(p.records + static_cast<int64_t>(p.entries[2 * i]) * p.record_stride);
}

void load_batch(const BlendParams& p, const TileView& tile, int64_t begin, int64_t end, Batch& batch) {
    batch.count = end - begin < kLanes ? static_cast<int>(end - begin) : kLanes;
    for (int i = 0; i < kLanes; ++i)
        batch.record[i] = p.entries[2 * (begin + (i < batch.count ? i : 0))] * p.record_stride;
    const auto field = [&](int f) { return gather(p.records + f, batch.record); };
    const Pack dx = field(kMeanX) - Pack(tile.x0), mean_y = field(kMeanY), dy = mean_y - Pack(tile.y0);
    const Pack skew = field(kSkewY), reach = field(kHalfWidth), chord = field(kChordY), extreme = field(kExtremeX);
    const Pack margin = bound_margin(mean_y, reach * abs_(skew));
    for (int strip = 0; strip < kStrips; ++strip) {
        const Pack low = Pack(static_cast<float>(strip * kLanes)) - dx;
        const Interval<Pack> rows = span(low, low + Pack(kLanes - 1.0f), skew, chord, reach, extreme);
        const Pack alive_first(static_cast<float>(tile.first_alive[strip]));
        const Pack alive_last(static_cast<float>(tile.last_alive[strip]));
        const Pack first = fmin_(fmax_(dy + rows.first - margin, alive_first), Pack(kTile));
        const Pack last = fmin_(fmax_(dy + rows.last + margin, Pack(-1.0f)), alive_last);
        store(batch.first[strip], ceil_(first));
        store(batch.last[strip], select(reach >= Pack(0.0f), floor_(last), Pack(-1.0f)));
    }
}

// Row by row constants of alpha's exponent; made for a whole batch first, since reading back what was stored just
// before, piece by piece, stalls.
struct PairView {
    float dx, dy;                     // mean minus the centre of the first pixel
    alignas(64) float offset[kTile];  // w = scale · column + offset
    alignas(64) float base[kTile];
    alignas(64) float below[kTile];   // the row minus the mean; set for the backward pass
};

RECON_FN void view_pair(const float* record, const TileView& tile, PairView& view) {
    view.dx = record[kMeanX] - tile.x0;
    view.dy = record[kMeanY] - tile.y0;
    for (int part = 0; part < kStrips; ++part) {
        const Pack below = lane_index() + Pack(static_cast<float>(part * kLanes) - view.dy);
        store(view.below + part * kLanes, below);
        store(view.offset + part * kLanes, Pack(record[kScale]) * fma_(Pack(record[kSkewX]), below, Pack(-view.dx)));
        store(view.base + part * kLanes, fnma_(Pack(record[kFalloff]) * below, below, Pack(record[kLog2Opacity])));
    }
}

RECON_FN Pack strip_lanes(int strip) { return lane_index() + Pack(static_cast<float>(strip * kLanes)); }

}  // namespace
}  // namespace recon
