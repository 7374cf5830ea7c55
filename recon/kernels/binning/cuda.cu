// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of the tile lists.  Gaussians that touch a tile are sorted by depth (32-bit keys); in that order each
// writes its tiles, and a stable sort by tile alone, in as many bytes as the tiles need, leaves each tile's list in
// order of depth.  No pair is ever sorted by depth, and no key has 64 bits.
//
// A thread owns a Gaussian; the tiles of one that touches many are written by its warp, a lane per row of tiles.
#include "recon/kernels/binning/cuda.h"
#include "recon/kernels/binning/math.h"
#include "recon/kernels/binning/params.h"
#include "recon/kernels/blend/records.cuh"
#include "recon/kernels/cuda/device.h"

namespace recon {
namespace {

constexpr int kFewTiles = 16;

struct Range {
    int first, last;
};

// First and last index of the pixel centres in `range` (positions), clamped to the picture.
RECON_FN Range pixels_in(Interval<float> range, float margin, float size) {
    const float low = range.first - margin - 0.5f, high = range.last + margin - 0.5f;
    return {static_cast<int>(::ceilf(fmin_(fmax_(low, 0.0f), size))),
            static_cast<int>(::floorf(fmin_(fmax_(high, -1.0f), size - 1.0f)))};
}

struct Shape {
    float x, y;
    Ellipse<float> ellipse;
    int x0, x1, y0, y1;  // bounding tiles, inclusive
    bool touches;        // any pixel of the picture
    bool whole;          // every bounding tile is touched
};

// Mirrors shapes.h, one Gaussian at a time.
RECON_FN Shape find_shape(const TileListParams& p, int64_t i) {
    Shape s;
    s.x = p.means_px[2 * i], s.y = p.means_px[2 * i + 1];
    const float a = p.conics[3 * i], b = p.conics[3 * i + 1], c = p.conics[3 * i + 2];
    const float opacity = p.opacities[i], limit = 1e30f, det = determinant(a, b, c);
    s.touches = p.visible[i] != 0 && conic_is_valid(a, b, c, det) && opacity >= p.alpha_cutoff && opacity <= limit &&
                abs_(p.depths[i]) <= 3.4e38f && abs_(s.x) <= limit && abs_(s.y) <= limit;
    if (!s.touches) return s;
    s.ellipse = make_ellipse(a, b, c, det, log_(opacity / p.alpha_cutoff) * 1.44269504f);
    const float half_width = s.ellipse.half_width, half_height = s.ellipse.half_height;
    const float width = static_cast<float>(p.width), height = static_cast<float>(p.height);
    const Range columns = pixels_in({s.x - half_width, s.x + half_width}, bound_margin(s.x, half_width), width);
    const Range rows = pixels_in({s.y - half_height, s.y + half_height}, bound_margin(s.y, half_height), height);
    s.touches = columns.first <= columns.last && rows.first <= rows.last;
    s.x0 = columns.first / kTileSize, s.x1 = columns.last / kTileSize;
    s.y0 = rows.first / kTileSize, s.y1 = rows.last / kTileSize;
    // A convex shape touches every tile of a row or column that holds it whole.
    s.whole = s.x - half_width >= 0.0f && s.x + half_width <= width && s.y - half_height >= 0.0f &&
              s.y + half_height <= height && (s.x0 == s.x1 || s.y0 == s.y1);
    return s;
}

// The tiles that the ellipse reaches in a row of tiles; empty where first > last.
RECON_FN Range tiles_in_row(const TileListParams& p, const Shape& s, int row) {
    if (s.whole) return {s.x0, s.x1};
    const float low = static_cast<float>(row * kTileSize) + 0.5f - s.y;
    const float high = fmin_(low + static_cast<float>(kTileSize - 1), static_cast<float>(p.height) - 0.5f - s.y);
    const Interval<float> reach = span_of_rows(s.ellipse, low, high);
    const Range pixels = pixels_in({reach.first + s.x, reach.last + s.x}, bound_margin(s.x, s.ellipse.half_width),
                                   static_cast<float>(p.width));
    if (pixels.first > pixels.last) return {0, -1};
    return {pixels.first / kTileSize, pixels.last / kTileSize};
}

RECON_FN uint32_t depth_key(float depth) {
    const uint32_t u = __float_as_uint(depth + 0.0f);  // -0 and +0 are one depth
    return u ^ ((u >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

// Writes a run of a row's tiles to `at` and on, but nothing from `end` on.
RECON_FN int64_t write_run(const TileListParams& p, Range tiles, int row, int32_t id, int64_t at, int64_t end) {
    const int tiles_x = (p.width + kTileSize - 1) / kTileSize;
    for (int x = tiles.first; x <= tiles.last && at < end; ++x, ++at) {
        p.tile_keys[at] = static_cast<uint32_t>(row * tiles_x + x);
        p.pair_ids[at] = id;
    }
    return at;
}

// Should rounding have counted more tiles than are found now, the rest of the places go to no tile.
RECON_FN void write_nowhere(const TileListParams& p, int32_t id, int64_t at, int64_t end) {
    const int tiles_x = (p.width + kTileSize - 1) / kTileSize, tiles_y = (p.height + kTileSize - 1) / kTileSize;
    for (; at < end; ++at) {
        p.tile_keys[at] = static_cast<uint32_t>(tiles_x * tiles_y);
        p.pair_ids[at] = id;
    }
}

// All lanes together write the tiles of Gaussian `id`.
RECON_FN void write_together(const TileListParams& p, int32_t id, int64_t at, int64_t end) {
    const Shape s = find_shape(p, id);
    for (int first = s.y0; first <= s.y1; first += kWarp) {
        const int row = first + lane_number();
        const Range tiles = row <= s.y1 ? tiles_in_row(p, s, row) : Range{0, -1};
        const int here = tiles.last - tiles.first + 1;
        const int until = warp_inclusive_sum(here);
        write_run(p, tiles, row, id, at + until - here, end);
        at += __shfl_sync(kAllLanes, until, kWarp - 1);
    }
    if (lane_number() == 0) write_nowhere(p, id, at, end);
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(tiles_prepare, TileListParams, 256) {
    RECON_SHARED(PerWarp<int>, sums);
    const int64_t i = global_thread();
    int tiles = 0;
    if (i < p.count) {
        const Shape s = find_shape(p, i);
        if (s.touches)
            for (int row = s.y0; row <= s.y1; ++row) {
                const Range range = tiles_in_row(p, s, row);
                tiles += range.last - range.first + 1;
            }
        p.tile_counts[i] = tiles;
        p.touched[i] = tiles > 0 ? 1 : 0;
        if (tiles > 0) {
            p.depth_keys[i] = depth_key(p.depths[i]);
            const float* c = p.conics + 3 * i;
            write_record(p.records + kRecordFloats * i, s.x, s.y, c[0], c[1], c[2], p.opacities[i]);
        }
    }
    int total;
    block_exclusive_sum(tiles > 0 ? 1 : 0, sums, total);
    if (threadIdx.x == 0) p.block_sums[blockIdx.x] = total;
}

RECON_KERNEL(tiles_compact, TileListParams, 256) {
    RECON_SHARED(PerWarp<int>, sums);
    const int64_t i = global_thread();
    const bool listed = i < p.count && p.touched[i] != 0;
    int total;
    const int64_t at = p.block_sums[blockIdx.x] + block_exclusive_sum(listed ? 1 : 0, sums, total);
    if (!listed) return;
    p.keys[at] = p.depth_keys[i];
    p.ids[at] = static_cast<int32_t>(i);
}

RECON_KERNEL(tiles_count_pairs, TileListParams, 256) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    const int64_t i = global_thread();
    int64_t total;
    block_exclusive_sum(i < *p.listed ? static_cast<int64_t>(p.tile_counts[p.ids[i]]) : int64_t(0), sums, total);
    if (threadIdx.x == 0) p.pair_sums[blockIdx.x] = total;
}

RECON_KERNEL(tiles_emit, TileListParams, 256) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    if (*p.pairs == 0) return;
    const int64_t i = global_thread();
    const bool listed = i < *p.listed;
    const int32_t id = listed ? p.ids[i] : 0;
    const int tiles = listed ? p.tile_counts[id] : 0;
    int64_t total;
    const int64_t first = p.pair_sums[blockIdx.x] + block_exclusive_sum(static_cast<int64_t>(tiles), sums, total);
    if (tiles > 0 && tiles <= kFewTiles) {
        const Shape s = find_shape(p, id);
        int64_t at = first;
        for (int row = s.y0; s.touches && row <= s.y1; ++row)
            at = write_run(p, tiles_in_row(p, s, row), row, id, at, first + tiles);
        write_nowhere(p, id, at, first + tiles);
    }
    for (unsigned left = __ballot_sync(kAllLanes, tiles > kFewTiles); left != 0; left &= left - 1) {
        const int lane = __ffs(left) - 1;
        const int64_t at = __shfl_sync(kAllLanes, first, lane);
        write_together(p, __shfl_sync(kAllLanes, id, lane), at, at + __shfl_sync(kAllLanes, tiles, lane));
    }
}

// A thread owns the gap before a pair, and one more that after the last; it tells where the tiles between the two
// begin.  The pairs are sorted by now.
RECON_KERNEL(tiles_offsets, TileListParams, 256) {
    const int tiles_x = (p.width + kTileSize - 1) / kTileSize, tiles_y = (p.height + kTileSize - 1) / kTileSize;
    const int64_t pairs = *p.pairs, tiles = static_cast<int64_t>(tiles_x) * tiles_y;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = global_thread(); i <= pairs; i += stride) {
        const int64_t after = i < pairs ? static_cast<int64_t>(p.tile_keys[i]) : tiles;
        const int64_t before = i > 0 ? static_cast<int64_t>(p.tile_keys[i - 1]) : -1;
        for (int64_t tile = before + 1; tile <= after && tile <= tiles; ++tile) p.offsets[tile] = static_cast<int32_t>(i);
    }
}
