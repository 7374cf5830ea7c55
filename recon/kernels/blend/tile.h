// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward pass of blending share: the records that tiles read, the state of a tile, and how
// a Gaussian looks from a tile.  Included by cpu.cpp only.
#pragma once
#include <omp.h>

#include <atomic>
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

// A tile is cut into blocks of one pack each, four pixels wide, since what is seen of most Gaussians is far narrower
// than the tile.  A plane of the tile holds one number per pixel: four strips of 16 rows of 4 pixels, so that the pixels
// of a block lie together whatever a pack's width.
constexpr int kTile = kTileSize;
constexpr int kPixels = kTile * kTile;
constexpr int kBlockWide = 4;
constexpr int kBlockHigh = kLanes / kBlockWide;
constexpr int kStrips = kTile / kBlockWide;
constexpr int kBlocksPerStrip = kTile / kBlockHigh;
constexpr int kBlocks = kStrips * kBlocksPerStrip;

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
    kScaleX,       // √(a / (2 ln 2))
    kSkewX,        // b / a
    kScaleY,       // √(det / a / (2 ln 2))
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
    fields[kScaleX] = sqrt_(conic.x * Pack(0.5f * kLog2e));
    fields[kSkewX] = e.skew_x;
    fields[kScaleY] = sqrt_(det / conic.x * Pack(0.5f * kLog2e));
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

RECON_FN int place(int row, int column) {
    return (column / kBlockWide * kTile + row) * kBlockWide + column % kBlockWide;
}

// Four packs hold the same four blocks row by row (kBlockHigh rows of 16 pixels) or block by block; these exchange the
// two.  Through registers: what was just stored in pieces cannot be read as a whole without waiting.
RECON_FN void blocks_from_rows(Pack (&p)[4]) {
    using namespace transposing;
    if constexpr (kLanes == 16) {
        const Pack a = shuffle<ExchangeBlocks<4, true>>(p[0], p[1]), b = shuffle<ExchangeBlocks<4, false>>(p[0], p[1]);
        const Pack c = shuffle<ExchangeBlocks<4, true>>(p[2], p[3]), d = shuffle<ExchangeBlocks<4, false>>(p[2], p[3]);
        p[0] = shuffle<ExchangeBlocks<8, true>>(a, c), p[2] = shuffle<ExchangeBlocks<8, false>>(a, c);
        p[1] = shuffle<ExchangeBlocks<8, true>>(b, d), p[3] = shuffle<ExchangeBlocks<8, false>>(b, d);
    } else if constexpr (kLanes == 8) {
        const Pack a = p[0], b = p[1], c = p[2], d = p[3];
        p[0] = shuffle<ExchangeBlocks<4, true>>(a, c), p[1] = shuffle<ExchangeBlocks<4, false>>(a, c);
        p[2] = shuffle<ExchangeBlocks<4, true>>(b, d), p[3] = shuffle<ExchangeBlocks<4, false>>(b, d);
    }
}
RECON_FN void rows_from_blocks(Pack (&p)[4]) {
    using namespace transposing;
    if constexpr (kLanes == 16) {
        blocks_from_rows(p);
    } else if constexpr (kLanes == 8) {
        const Pack a = p[0], b = p[1], c = p[2], d = p[3];
        p[0] = shuffle<ExchangeBlocks<4, true>>(a, b), p[2] = shuffle<ExchangeBlocks<4, false>>(a, b);
        p[1] = shuffle<ExchangeBlocks<4, true>>(c, d), p[3] = shuffle<ExchangeBlocks<4, false>>(c, d);
    }
}

// A plane from row by row to block by block, and back.
void blocks_from_rows(const float* rows, float* plane) {
    for (int group = 0; group < kBlocksPerStrip; ++group) {
        Pack p[4];
        for (int i = 0; i < 4; ++i) p[i] = load(rows + (group * 4 + i) * kLanes);
        blocks_from_rows(p);
        for (int i = 0; i < 4; ++i) store(plane + (i * kBlocksPerStrip + group) * kLanes, p[i]);
    }
}
void rows_from_blocks(const float* plane, float* rows) {
    for (int group = 0; group < kBlocksPerStrip; ++group) {
        Pack p[4];
        for (int i = 0; i < 4; ++i) p[i] = load(plane + (i * kBlocksPerStrip + group) * kLanes);
        rows_from_blocks(p);
        for (int i = 0; i < 4; ++i) store(rows + (group * 4 + i) * kLanes, p[i]);
    }
}

// Hands out tiles, runs of neighbours at a time: where the tiles of two threads meet, both write to the same lines of
// memory, which costs more than some work.  Never more than a row of tiles, and few of the last ones, so that all threads
// end at about the same time.
class TileRuns {
public:
    explicit TileRuns(const BlendParams& p)
        : tiles_(tile_count(p)), most_((p.width + kTile - 1) / kTile), shares_(4 * omp_get_max_threads()) {}

    // The next run [first, last); false where none is left.
    bool take(int& first, int& last) {
        first = next_.load(std::memory_order_relaxed);
        do {
            if (first >= tiles_) return false;
            const int fair = (tiles_ - first) / shares_;
            last = first + (fair < 1 ? 1 : fair < most_ ? fair : most_);
        } while (!next_.compare_exchange_weak(first, last, std::memory_order_relaxed));
        return true;
    }

private:
    std::atomic<int> next_{0};
    const int tiles_, most_, shares_;
};

struct TileView {
    float x0, y0;         // centre of the first pixel
    int columns, rows;    // pixels inside the picture
    int64_t first_pixel;  // in the picture
};

TileView view_tile(const BlendParams& p, int tile) {
    const int tiles_x = (p.width + kTile - 1) / kTile;
    const int x = tile % tiles_x * kTile, y = tile / tiles_x * kTile;
    TileView view{};
    view.x0 = static_cast<float>(x) + 0.5f;
    view.y0 = static_cast<float>(y) + 0.5f;
    view.columns = p.width - x < kTile ? p.width - x : kTile;
    view.rows = p.height - y < kTile ? p.height - y : kTile;
    view.first_pixel = static_cast<int64_t>(y) * p.width + x;
    return view;
}

// Transmittance before the first Gaussian.  Pixels beyond the picture are opaque from the start.
void start_transmittance(const TileView& tile, float* plane) {
    for (int strip = 0; strip < kStrips; ++strip)
        for (int row = 0; row < kTile; ++row)
            for (int x = 0; x < kBlockWide; ++x)
                plane[(strip * kTile + row) * kBlockWide + x] =
                    row < tile.rows && strip * kBlockWide + x < tile.columns ? 1.0f : 0.0f;
}

// A bit per block that lets light through anywhere.
uint64_t alive_blocks(const float* transmittance) {
    uint64_t alive = 0;
    for (int block = 0; block < kBlocks; ++block)
        if (any(load(transmittance + block * kLanes) >= Pack(kMinTransmittance))) alive |= uint64_t(1) << block;
    return alive;
}

// Planes to and from `d` interleaved numbers per pixel of the picture.
template <int D>
void write_planes(const BlendParams& p, const TileView& tile, const float* planes, float* picture, int d) {
    alignas(64) float rows[(D > 0 ? D : 1) * kPixels];
    for (int k = 0; k < D; ++k) rows_from_blocks(planes + k * kPixels, rows + k * kPixels);
    for (int row = 0; row < tile.rows; ++row)
        for (int x0 = 0; x0 < tile.columns; x0 += kLanes) {
            float* to = picture + (tile.first_pixel + static_cast<int64_t>(row) * p.width + x0) * d;
            const float* from = rows + row * kTile + x0;
            const int columns = tile.columns - x0 < kLanes ? tile.columns - x0 : kLanes;
            if (columns == kLanes && D == 1) {
                store(to, load(from));
            } else if (columns == kLanes && D == 3) {
                store_rows3(to, load(from), load(from + kPixels), load(from + 2 * kPixels));
            } else if (columns == kLanes && D == 4) {
                store_rows4(to, load(from), load(from + kPixels), load(from + 2 * kPixels), load(from + 3 * kPixels));
            } else {
                for (int k = 0; k < d; ++k)
                    for (int x = 0; x < columns; ++x)
                        to[x * d + k] = D > 0 ? from[k * kPixels + x] : planes[k * kPixels + place(row, x0 + x)];
            }
        }
}

// Pixels beyond the picture become 0.
template <int D>
void read_planes(const BlendParams& p, const TileView& tile, const float* picture, float* planes, int d) {
    alignas(64) float rows[(D > 0 ? D : 1) * kPixels];
    if (tile.columns < kTile || tile.rows < kTile) {
        std::memset(rows, 0, sizeof rows);
        if (D == 0) std::memset(planes, 0, sizeof(float) * static_cast<size_t>(kPixels * d));
    }
    for (int row = 0; row < tile.rows; ++row)
        for (int x0 = 0; x0 < tile.columns; x0 += kLanes) {
            const float* from = picture + (tile.first_pixel + static_cast<int64_t>(row) * p.width + x0) * d;
            float* to = rows + row * kTile + x0;
            const int columns = tile.columns - x0 < kLanes ? tile.columns - x0 : kLanes;
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
                    for (int x = 0; x < columns; ++x)
                        (D > 0 ? to[k * kPixels + x] : planes[k * kPixels + place(row, x0 + x)]) = from[x * d + k];
            }
        }
    for (int k = 0; k < D; ++k) blocks_from_rows(rows + k * kPixels, planes + k * kPixels);
}

// Memory of one thread, aligned to a cache line.
struct Scratch {
    std::unique_ptr<float[]> memory;
    float* data;
    explicit Scratch(size_t floats) : memory(new float[floats + 16]) {
        data = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64 / sizeof(float);
    }
};

// ---- Gaussians as a tile sees them ---------------------------------------------------------------------------------

// Alpha of a pixel at (X, Y) in the tile is 2^(top − w² − u²), w = grow_x X + grow_y Y + offset, u = fall Y + low;
// place_x is the mean's X.
enum PairField { kGrowX, kGrowY, kOffset, kFall, kLow, kTop, kPlaceX, kPairFields };

constexpr int kBlockWords = (kBlocks + 31) / 32;

// Which ellipse reaches which block: forward asks a block for its entries, backward an entry for its blocks.
enum class Reached { kEntries, kBlocks };

// The next entries of the tile's list.
template <int kMost>
struct Batch {
    static_assert(kMost <= 64);
    int count;
    const float* record[kMost];
    alignas(8) uint8_t entries[kBlocks][8];   // per block a bit for each entry
    int32_t blocks[kBlockWords][kMost];       // per entry a bit for each block
    alignas(64) float fields[kPairFields][kMost];

    uint64_t entries_of(int block) const {
        uint64_t all;
        std::memcpy(&all, entries[block], sizeof all);
        return all;
    }

    // Sets the bits of the pack of entries from `at` on, which come one pack after the other.
    RECON_FN void set_entries(int block, int at, uint32_t bits) {
        uint8_t* byte = entries[block] + at / 8;
        if constexpr (kLanes == 16) {
            const uint16_t both = static_cast<uint16_t>(bits);
            std::memcpy(byte, &both, sizeof both);
        } else if constexpr (kLanes == 8) {
            *byte = static_cast<uint8_t>(bits);
        } else {
            *byte = static_cast<uint8_t>(at % 8 == 0 ? bits : *byte | bits << 4);
        }
    }
};

// Records lie scattered over more than the second-level cache, so the next batch is asked for early.
RECON_FN void prefetch_records(const BlendParams& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
        __builtin_prefetch(p.records + static_cast<int64_t>(p.entries[2 * i]) * p.record_stride);
}

// As `span`, a little wider, with roots by approximation.
RECON_FN Interval<Pack> span_roughly(Pack low, Pack high, Pack skew, Pack chord, Pack reach, Pack extreme) {
    const Pack at_last = fmax_(fmin_(-extreme, high), low), at_first = fmax_(fmin_(extreme, high), low);
    const Pack reach2 = reach * reach, wider = chord * Pack(1.0006f), least(1e-30f);
    const Pack last = fma_(wider, sqrt_roughly(fmax_(fnma_(at_last, at_last, reach2), least)), -skew * at_last);
    const Pack first = fma_(wider, sqrt_roughly(fmax_(fnma_(at_first, at_first, reach2), least)), skew * at_first);
    return {-first, last};
}

// Finds which blocks a pack of ellipses reaches: along a strip they are those between two rows.
template <Reached kReached, int kMost>
RECON_FN void find_reached(const Pack (&f)[kRecordLine], Pack dx, Pack dy, Mask exist, int at, Batch<kMost>& batch) {
    const Pack reach = f[kHalfWidth], outside(-1.0f);
    const Pack margin = bound_margin(f[kMeanY], reach * abs_(f[kSkewY]));
    exist = exist & (reach >= Pack(0.0f));
    Ints words[kBlockWords];
    for (Ints& word : words) word = ints(0);
    for (int strip = 0; strip < kStrips; ++strip) {
        const Pack low = Pack(static_cast<float>(strip * kBlockWide)) - dx;
        const Interval<Pack> rows =
            span_roughly(low, low + Pack(kBlockWide - 1.0f), f[kSkewY], f[kChordY], reach, f[kExtremeX]);
        const Pack first = ceil_(fmin_(fmax_(dy + rows.first - margin, outside), Pack(kTile)));
        const Pack found = floor_(fmin_(fmax_(dy + rows.last + margin, outside), Pack(kTile)));
        const Pack last = select(exist & (first <= found), found, outside);
        for (int down = 0; down < kBlocksPerStrip; ++down) {
            const int block = strip * kBlocksPerStrip + down;
            const Mask here = (first <= Pack(static_cast<float>((down + 1) * kBlockHigh - 1))) &
                              (last >= Pack(static_cast<float>(down * kBlockHigh)));
            if constexpr (kReached == Reached::kEntries)
                batch.set_entries(block, at, bits(here));
            else
                words[block / 32] = set_bit(words[block / 32], here, static_cast<int32_t>(1u << block % 32));
        }
    }
    for (int word = 0; kReached == Reached::kBlocks && word < kBlockWords; ++word)
        store(batch.blocks[word] + at, words[word]);
}

template <Reached kReached, int kMost>
void load_batch(const BlendParams& p, const TileView& tile, int64_t begin, int64_t end, Batch<kMost>& batch) {
    batch.count = end - begin < kMost ? static_cast<int>(end - begin) : kMost;
    if (kReached == Reached::kEntries && batch.count < kMost) std::memset(batch.entries, 0, sizeof batch.entries);
    for (int at = 0; at < batch.count; at += kLanes) {
        const int count = batch.count - at < kLanes ? batch.count - at : kLanes;
        for (int i = 0; i < kLanes; ++i)
            batch.record[at + i] =
                p.records + static_cast<int64_t>(p.entries[2 * (begin + at + (i < count ? i : 0))]) * p.record_stride;
        Pack f[kRecordLine];
        for (int part = 0; part < kRecordLine / kLanes; ++part) {
            Pack square[kLanes];
            for (int i = 0; i < kLanes; ++i) square[i] = load(batch.record[at + i] + part * kLanes);
            transpose(square);
            for (int i = 0; i < kLanes; ++i) f[part * kLanes + i] = square[i];
        }
        const Pack dx = f[kMeanX] - Pack(tile.x0), dy = f[kMeanY] - Pack(tile.y0);
        const auto put = [&](PairField field, Pack value) { store(batch.fields[field] + at, value); };
        put(kGrowX, f[kScaleX]);
        put(kGrowY, f[kScaleX] * f[kSkewX]);
        put(kOffset, -f[kScaleX] * fma_(f[kSkewX], dy, dx));
        put(kFall, f[kScaleY]);
        put(kLow, -f[kScaleY] * dy);
        put(kTop, f[kLog2Opacity]);
        put(kPlaceX, dx);
        find_reached<kReached>(f, dx, dy, first_lanes(count), at, batch);
    }
}

// Where the pixels of each block lie in the tile.
struct PixelTable {
    alignas(64) float x[kPixels] = {};
    alignas(64) float y[kPixels] = {};
    constexpr PixelTable() {
        for (int i = 0; i < kPixels; ++i) {
            x[i] = static_cast<float>(i / (kTile * kBlockWide) * kBlockWide + i % kBlockWide);
            y[i] = static_cast<float>(i / kBlockWide % kTile);
        }
    }
};
constexpr PixelTable kPixelTable;

}  // namespace
}  // namespace recon
