// SPDX-License-Identifier: Apache-2.0
// From Gaussians to the tiles that they touch, a pack of Gaussians at a time.
//
// A Gaussian's tiles form a run in each row of tiles.  Gaussians of up to kRows rows, nearly all of them, find their
// runs together, a lane each; a taller one alone, a row per lane.
#pragma once

#include "recon/kernels/binning/lanes.h"
#include "recon/kernels/binning/math.h"
#include "recon/kernels/binning/params.h"
#include "recon/kernels/binning/work.h"
#include "recon/kernels/common/rows.h"
#include "recon/kernels/common/transpose.h"

namespace recon {
namespace {

constexpr int kRows = 4, kColumns = 4;  // of tiles, in a Record's cover

int tiles_along(int32_t pixels) { return (pixels + kTileSize - 1) / kTileSize; }

struct Inputs {
    Pack2 mean;
    Pack3 conic;
    Pack opacity, depth;
    Mask present;  // exists and is visible
};

RECON_FN Inputs load_inputs(const BinParams& p, int64_t first, int count) {
    float spare2[2 * kLanes], spare3[3 * kLanes], spare1[kLanes], spare[kLanes];
    uint8_t spare_bytes[kLanes];
    const uint8_t* visible = p.visible + first;
    if (count < kLanes) {
        std::memset(spare_bytes, 0, sizeof spare_bytes);
        std::memcpy(spare_bytes, visible, static_cast<size_t>(count));
        visible = spare_bytes;
    }
    Inputs in;
    in.present = nonzero_bytes(visible);
    if (!any(in.present)) return in;
    in.mean = load_rows2(whole_rows<2>(p.means_px, first, count, spare2));
    in.conic = load_rows3(whole_rows<3>(p.conics, first, count, spare3));
    in.opacity = load(whole_rows<1>(p.opacities, first, count, spare1));
    in.depth = load(whole_rows<1>(p.depths, first, count, spare));
    return in;
}

// Orders as the floats do, as unsigned numbers; -0 and +0 are one depth.
RECON_FN IntPack depth_keys(Pack depth) {
    const IntPack u = bit_pattern(depth + Pack(0.0f));
    return u ^ ((u >> 31) | splat(INT32_MIN));
}

// First and last index of the pixel centres in `range` (positions), clamped to the picture.
RECON_FN void pixel_range(Interval<Pack> range, Pack margin, float size, Pack& first, Pack& last) {
    const Pack low = range.first - margin - Pack(0.5f), high = range.last + margin - Pack(0.5f);
    first = ceil_(fmin_(fmax_(low, Pack(0.0f)), Pack(size)));
    last = floor_(fmin_(fmax_(high, Pack(-1.0f)), Pack(size - 1.0f)));
}

// The tiles of whole numbers of pixels.
RECON_FN IntPack tiles_of(Pack pixel, Mask valid, float otherwise) {
    return truncate(select(valid, pixel, Pack(otherwise))) >> 4;
}

struct Shapes {
    Pack x, y;
    Ellipse<Pack> ellipse;
    IntPack x0, x1, y0, y1;  // bounding tiles, inclusive; 0 where there is none
    Mask touches;            // any pixel of the picture
    IntPack whole;           // all bits where every bounding tile is touched
};

RECON_FN Shapes find_shapes(const BinParams& p, const Inputs& in) {
    Shapes s;
    s.x = in.mean.x;
    s.y = in.mean.y;
    const Pack a = in.conic.x, b = in.conic.y, c = in.conic.z, limit(1e30f);
    const Pack det = determinant(a, b, c);
    const Mask valid = in.present & conic_is_valid(a, b, c, det) & (in.opacity >= Pack(p.alpha_cutoff)) &
                       (in.opacity <= limit) & (abs_(in.depth) <= Pack(3.4e38f)) & (abs_(s.x) <= limit) &
                       (abs_(s.y) <= limit);
    const Pack ratio = select(valid, in.opacity * Pack(1.0f / p.alpha_cutoff), Pack(1.0f));
    s.ellipse = make_ellipse(a, b, c, det, log_(ratio) * Pack(1.44269504f));
    Pack x0, x1, y0, y1;
    const Pack half_width = s.ellipse.half_width, half_height = s.ellipse.half_height;
    const Pack width(static_cast<float>(p.width)), height(static_cast<float>(p.height));
    pixel_range({s.x - half_width, s.x + half_width}, bound_margin(s.x, half_width), float(p.width), x0, x1);
    pixel_range({s.y - half_height, s.y + half_height}, bound_margin(s.y, half_height), float(p.height), y0, y1);
    s.touches = valid & (x0 <= x1) & (y0 <= y1);
    s.x0 = tiles_of(x0, s.touches, 0.0f);
    s.x1 = tiles_of(x1, s.touches, 0.0f);
    s.y0 = tiles_of(y0, s.touches, 0.0f);
    s.y1 = tiles_of(y1, s.touches, 0.0f);
    // A convex shape touches every tile of a row or column that holds it whole.
    const Mask inside = (s.x - half_width >= Pack(0.0f)) & (s.x + half_width <= width) &
                        (s.y - half_height >= Pack(0.0f)) & (s.y + half_height <= height);
    s.whole = as_integers(inside) & ((s.x0 == s.x1) | (s.y0 == s.y1));
    return s;
}

// Which tiles a pack of Gaussians touches.
struct Runs {
    int32_t first[kRows][kLanes], count[kRows][kLanes];  // row by row of tiles, each Gaussian's slots
    IntPack corner, cover;                               // as in Record
    IntPack total;                                       // pairs
};

// The tiles that ellipses reach in the rows of tiles `row`.
RECON_FN void reach_in_rows(const BinParams& p, const Shapes& s, IntPack row, IntPack& from, IntPack& to) {
    const Pack low = fma_(to_float(row), Pack(static_cast<float>(kTileSize)), Pack(0.5f) - s.y);
    const Pack high = fmin_(low + Pack(kTileSize - 1.0f), Pack(static_cast<float>(p.height) - 0.5f) - s.y);
    const Interval<Pack> reach = span_of_rows(s.ellipse, low, high);
    Pack first, last;
    pixel_range({reach.first + s.x, reach.last + s.x}, bound_margin(s.x, s.ellipse.half_width),
                static_cast<float>(p.width), first, last);
    const Mask some = first <= last;
    from = tiles_of(first, some, kTileSize);
    to = tiles_of(last, some, 0.0f);
}

// 2^exponent, for exponents from 0 to 30; not every instruction set shifts by lane.
RECON_FN IntPack power_of_two(IntPack exponent) { return truncate(Pack((FloatLanes)((exponent + 127) << 23))); }

// Fills `rows` rows of runs, of Gaussians `high` rows high (0: not here).
RECON_FN void find_runs(const BinParams& p, const Shapes& s, IntPack high, IntPack chunk_slots, int rows, Runs& runs) {
    const int tiles_x = tiles_along(p.width);
    IntPack row = s.y0, slots = chunk_slots + s.y0 * tiles_x, fits = splat(-1);
    runs.corner = slots + s.x0;
    runs.cover = runs.total = IntPack{};
    for (int r = 0; r < rows; ++r) {
        IntPack from, to;
        reach_in_rows(p, s, row, from, to);
        from = s.whole ? s.x0 : from;
        to = s.whole ? s.x1 : to;
        const IntPack count = (to - from + 1) & (high > r), left = from - s.x0;
        store(runs.first[r], slots + from);
        store(runs.count[r], count);
        runs.total += count;
        // Rounding may let a row reach a tile beyond the bounding ones.
        fits &= (count == 0) | ((left >= 0) & (to - s.x0 < kColumns));
        const IntPack bit = (left & (kColumns - 1)) + r * kColumns;
        runs.cover += power_of_two(bit + (count & (2 * kColumns - 1))) - power_of_two(bit);
        row += 1;
        slots += tiles_x;
    }
    runs.cover &= fits;
}

// Writes `count` slots from `first` on and returns where they end.  Writes up to a pack more.
RECON_FN int32_t* append_run(int32_t* to, int32_t first, int32_t count) {
    store(to, lane_numbers() + first);
    for (int32_t done = kLanes; done < count; done += kLanes) store(to + done, lane_numbers() + (first + done));
    return to + count;
}

// What a bit of a cover stands for: the slot that lies so far from the corner.
RECON_FN int32_t cover_offset(int bit, int tiles_x) { return bit / kColumns * tiles_x + bit % kColumns; }

#if RECON_AVX512
static_assert(kRows * kColumns == kLanes);

RECON_FN IntPack cover_offsets(int tiles_x) {
    return lane_numbers() / kColumns * tiles_x + (lane_numbers() & (kColumns - 1));
}

// The slots of a cover side by side, in their order.
RECON_FN IntPack covered_slots(uint32_t cover, int32_t corner, IntPack offsets) {
    return (IntPack)_mm512_maskz_compress_epi32(static_cast<__mmask16>(cover), (__m512i)offsets) + corner;
}
#endif

RECON_FN Pack lane(Pack a, int i) {
    float t[kLanes];
    store(t, a);
    return Pack(t[i]);
}

// Writes the tiles of lane `i`, which spans the rows of tiles `y0` to `y1`, as append_run.
int32_t* append_tall(const BinParams& p, const Shapes& s, int i, int y0, int y1, int32_t chunk_slot, int32_t* out) {
    Shapes one;
    one.x = lane(s.x, i);
    one.y = lane(s.y, i);
    one.ellipse = {lane(s.ellipse.skew_x, i),      lane(s.ellipse.skew_y, i),  lane(s.ellipse.half_width, i),
                   lane(s.ellipse.half_height, i), lane(s.ellipse.chord_x, i), lane(s.ellipse.chord_y, i)};
    const bool whole = s.whole[i] != 0;
    const int tiles_x = tiles_along(p.width);
    int32_t from[kLanes], to[kLanes];
    for (int y = y0; y <= y1; y += kLanes) {
        IntPack first, last;
        reach_in_rows(p, one, lane_numbers() + y, first, last);
        store(from, whole ? splat(s.x0[i]) : first);
        store(to, whole ? splat(s.x1[i]) : last);
        const int rows = y1 - y + 1 < kLanes ? y1 - y + 1 : kLanes;
        for (int r = 0; r < rows; ++r)
            out = append_run(out, chunk_slot + (y + r) * tiles_x + from[r], to[r] - from[r] + 1);
    }
    return out;
}

}  // namespace
}  // namespace recon
