// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of blending.  A thread owns a tile of 16×16 pixels; a row of it is one pack of AVX-512.  On narrower
// instruction sets the tile is cut into strips of one pack's width, each with its own range of rows.  The state of
// the tile (transmittance, channels, gradients) stays in the first-level cache while the tile's list streams by.
//
// Backward goes through the list front to back again; a Gaussian's gradient is gathered in registers over the rows,
// reduced once per pair and written to that pair's own place, and a second loop, whose threads own Gaussians, sums
// the pairs of each in a fixed order.  So nothing is atomic and results do not depend on the number of threads.
#include <cstring>
#include <memory>

#include "recon/kernels/binning/math.h"
#include "recon/kernels/binning/params.h"
#include "recon/kernels/blend/math.h"
#include "recon/kernels/blend/params.h"
#include "recon/kernels/common/binding.h"

namespace recon {
namespace {

constexpr int kTile = kTileSize;
constexpr int kStrips = kTile / kLanes;
constexpr int kPixels = kTile * kTile;
constexpr int kAliveEvery = 16;  // entries between two looks at which rows are opaque
constexpr int kAhead = 8;        // entries between asking for a Gaussian's record and using it

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
    kExtremeX,     // skew_x · half height: where the ellipse is highest is dx = −extreme
    kChordY,
    kRecordChannels
};

// What a pair contributes to its Gaussian's gradient: moments of h over its pixels, channels and statistics.
enum PairGradient { kH, kHx, kHy, kHxx, kHxy, kHyy, kPairChannels };
enum PairStatistic { kAbsX, kAbsY, kWeightSum, kWeightMax, kPairStatistics };

// ---- records -------------------------------------------------------------------------------------------------------

struct RecordLanes {
    float x[kLanes], y[kLanes], a[kLanes], b[kLanes], c[kLanes], opacity[kLanes];
};

void make_records(const BlendParams& p, int64_t first, int count) {
    RecordLanes in;
    for (int i = 0; i < kLanes; ++i) {
        const int64_t g = first + (i < count ? i : 0);
        in.x[i] = p.means_px[2 * g];
        in.y[i] = p.means_px[2 * g + 1];
        in.a[i] = p.conics[3 * g];
        in.b[i] = p.conics[3 * g + 1];
        in.c[i] = p.conics[3 * g + 2];
        in.opacity[i] = p.opacities[g];
    }
    const Pack a = load(in.a), b = load(in.b), c = load(in.c);
    const Pack det = determinant(a, b, c);
    const Pack log2_opacity = log_(load(in.opacity)) * Pack(kLog2e);
    const Ellipse<Pack> e = make_ellipse(a, b, c, det, log2_opacity - Pack(p.log2_cutoff));
    float fields[kRecordChannels][kLanes];
    store(fields[kMeanX], load(in.x));
    store(fields[kMeanY], load(in.y));
    store(fields[kScale], sqrt_(a * Pack(0.5f * kLog2e)));
    store(fields[kSkewX], e.skew_x);
    store(fields[kFalloff], det / a * Pack(0.5f * kLog2e));
    store(fields[kLog2Opacity], log2_opacity);
    store(fields[kSkewY], e.skew_y);
    store(fields[kHalfWidth], e.half_width);
    store(fields[kExtremeX], e.skew_x * e.half_height);
    store(fields[kChordY], e.chord_y);
    for (int i = 0; i < count; ++i) {
        const int64_t g = first + i;
        if (p.pair_starts[g] == p.pair_starts[g + 1]) continue;
        float* record = p.records + g * p.record_stride;
        for (int f = 0; f < kRecordChannels; ++f) record[f] = fields[f][i];
        const float* channels = p.channels + g * p.channel_count;
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

// ---- what forward and backward share -------------------------------------------------------------------------------

// Per tile: which rows still let light through, and where the tile lies.
struct TileView {
    float x0, y0;              // centre of the first pixel
    int columns, rows;         // pixels inside the picture
    int first_alive[kStrips];  // rows; first > last where the strip is opaque
    int last_alive[kStrips];

    bool alive() const {
        for (int strip = 0; strip < kStrips; ++strip)
            if (first_alive[strip] <= last_alive[strip]) return true;
        return false;
    }
};

// [strip][row] packs.
using Plane = float[kPixels];
RECON_FN int place(int strip, int row) { return (strip * kTile + row) * kLanes; }

TileView start_tile(const BlendParams& p, int tile, float* transmittance) {
    const int tiles_x = (p.width + kTile - 1) / kTile;
    const int x = tile % tiles_x * kTile, y = tile / tiles_x * kTile;
    TileView view{x + 0.5f, y + 0.5f, p.width - x < kTile ? p.width - x : kTile,
                  p.height - y < kTile ? p.height - y : kTile, {}, {}};
    for (int strip = 0; strip < kStrips; ++strip) {
        const Mask inside = lane_index() < Pack(static_cast<float>(view.columns - strip * kLanes));
        for (int row = 0; row < kTile; ++row) {
            const Pack one = select(inside, Pack(row < view.rows ? 1.0f : 0.0f), Pack(0.0f));
            store(transmittance + place(strip, row), one);
        }
        view.first_alive[strip] = 0;
        view.last_alive[strip] = strip * kLanes < view.columns ? view.rows - 1 : -1;
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

// One Gaussian seen from one tile: row by row constants of alpha's exponent.
struct PairView {
    float dx, dy;  // mean minus the centre of the first pixel
    alignas(64) float offset[kTile];
    alignas(64) float base[kTile];
};

RECON_FN void view_pair(const float* record, const TileView& tile, PairView& view) {
    view.dx = record[kMeanX] - tile.x0;
    view.dy = record[kMeanY] - tile.y0;
    for (int part = 0; part < kStrips; ++part) {
        const Pack dy = lane_index() + Pack(static_cast<float>(part * kLanes) - view.dy);
        store(view.offset + part * kLanes, Pack(record[kScale]) * fma_(Pack(record[kSkewX]), dy, Pack(-view.dx)));
        store(view.base + part * kLanes,
              fma_(Pack(-record[kFalloff]) * dy, dy, Pack(record[kLog2Opacity])));
    }
}

struct Rows {
    int first, last;
};

RECON_FN int clamp_row(float row) { return row < -1.0f ? -1 : row > 17.0f ? 17 : static_cast<int>(row); }

// Asks for the record of the entry that comes up later; records lie scattered over more than the second-level cache.
RECON_FN void prefetch_record(const BlendParams& p, int32_t i, int32_t end) {
    const int64_t later = i + kAhead < end ? i + kAhead : end - 1;
    __builtin_prefetch(p.records + static_cast<int64_t>(p.entries[2 * later]) * p.record_stride);
}

// The rows of a strip that the ellipse reaches and that are not opaque.
RECON_FN Rows rows_in_strip(const float* record, const PairView& view, const TileView& tile, int strip) {
    const float low = static_cast<float>(strip * kLanes) - view.dx;
    const Interval<float> reach = span(low, low + (kLanes - 1), record[kSkewY], record[kChordY], record[kHalfWidth],
                                       record[kExtremeX]);
    const float margin = bound_margin(record[kMeanY], record[kHalfWidth] * abs_(record[kSkewY]));
    // Truncation rounds towards zero, which is downwards from here on.
    const int first = clamp_row(view.dy + reach.first - margin + 1.0f);
    const int last = clamp_row(view.dy + reach.last + margin);
    const int above = view.dy + reach.last + margin < 0.0f ? -1 : last;
    return {first < tile.first_alive[strip] ? tile.first_alive[strip] : first,
            above > tile.last_alive[strip] ? tile.last_alive[strip] : above};
}

RECON_FN Pack strip_lanes(int strip) { return lane_index() + Pack(static_cast<float>(strip * kLanes)); }

// ---- forward -------------------------------------------------------------------------------------------------------

// D channels, or any number (then in `channel_count`) where D is 0.
template <int D>
struct Channels {
    static RECON_FN int count(const BlendParams& p) { return D > 0 ? D : p.channel_count; }
};

template <int D, bool kMedian>
RECON_FN void forward_rows(const BlendParams& p, const float* record, float depth, const PairView& pair, Rows rows,
                           int strip, float* transmittance, float* channels, float* median) {
    const int d = Channels<D>::count(p);
    const Pack scale(record[kScale]), lanes = strip_lanes(strip), threshold(p.log2_cutoff);
    const Pack scaled_lanes = lanes * scale;
    Pack color[D > 0 ? D : 1];
    if constexpr (D > 0)
        for (int k = 0; k < D; ++k) color[k] = Pack(record[kRecordChannels + k]);
    for (int row = rows.first; row <= rows.last; ++row) {
        const int at = place(strip, row);
        const Pack w = scaled_lanes + Pack(pair.offset[row]);
        const Pack exponent = log2_alpha(w, Pack(pair.base[row]));
        const Pack before = load(transmittance + at);
        const Mask taken = (exponent >= threshold) & (before >= Pack(kMinTransmittance));
        if (kStrips > 1 && !any(taken)) continue;
        const Pack weight = alpha_sample(exponent, taken).alpha * before;
        const Pack after = before - weight;
        store(transmittance + at, after);
        if constexpr (D > 0) {
            for (int k = 0; k < D; ++k)
                store(channels + k * kPixels + at, fma_(weight, color[k], load(channels + k * kPixels + at)));
        } else {
            for (int k = 0; k < d; ++k) {
                float* c = channels + k * kPixels + at;
                store(c, fma_(weight, Pack(record[kRecordChannels + k]), load(c)));
            }
        }
        if constexpr (kMedian) {
            const Mask crosses = (before > Pack(0.5f)) & (after <= Pack(0.5f));
            store(median + at, select(crosses, Pack(depth), load(median + at)));
        }
    }
}

void write_plane(const TileView& tile, const float* plane, float* out, int64_t row_stride, int64_t pixel_stride) {
    for (int row = 0; row < tile.rows; ++row)
        for (int strip = 0; strip < kStrips; ++strip) {
            const float* from = plane + place(strip, row);
            float* to = out + row * row_stride + strip * kLanes * pixel_stride;
            const int columns = tile.columns - strip * kLanes < kLanes ? tile.columns - strip * kLanes : kLanes;
            for (int x = 0; x < columns; ++x) to[x * pixel_stride] = from[x];
        }
}

template <int D, bool kMedian>
void forward_tile(const BlendParams& p, int tile_index, float* scratch) {
    const int d = Channels<D>::count(p);
    float *transmittance = scratch, *median = scratch + kPixels, *channels = scratch + 2 * kPixels;
    TileView tile = start_tile(p, tile_index, transmittance);
    std::memset(median, 0, sizeof(float) * static_cast<size_t>(kPixels) * (1 + d));
    const int32_t begin = p.offsets[tile_index], end = p.offsets[tile_index + 1];
    int32_t i = begin;
    for (; i < end; ++i) {
        if ((i - begin) % kAliveEvery == 0 && i > begin) {
            find_alive(transmittance, tile);
            if (!tile.alive()) break;
        }
        prefetch_record(p, i, end);
        const int64_t g = p.entries[2 * static_cast<int64_t>(i)];
        const float* record = p.records + g * p.record_stride;
        if (!(record[kHalfWidth] >= 0.0f)) continue;
        PairView pair;
        view_pair(record, tile, pair);
        for (int strip = 0; strip < kStrips; ++strip)
            forward_rows<D, kMedian>(p, record, kMedian ? p.depths[g] : 0.0f, pair,
                                     rows_in_strip(record, pair, tile, strip), strip, transmittance, channels, median);
    }
    p.processed[tile_index] = i - begin;
    const int64_t first = static_cast<int64_t>(tile.y0) * p.width + static_cast<int64_t>(tile.x0);
    for (int k = 0; k < d; ++k)
        write_plane(tile, channels + k * kPixels, p.out_channels + first * d + k, int64_t(p.width) * d, d);
    if (kMedian) write_plane(tile, median, p.median_depth + first, p.width, 1);
    for (int j = 0; j < kPixels; j += kLanes) store(transmittance + j, Pack(1.0f) - load(transmittance + j));
    write_plane(tile, transmittance, p.out_alpha + first, p.width, 1);
}

int tile_count(const BlendParams& p) { return ((p.width + kTile - 1) / kTile) * ((p.height + kTile - 1) / kTile); }

// Memory of one thread, aligned to a cache line.
struct Scratch {
    std::unique_ptr<float[]> memory;
    float* data;
    explicit Scratch(int planes) : memory(new float[static_cast<size_t>(planes) * kPixels + 16]) {
        data = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64 / sizeof(float);
    }
};

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

// ---- backward ------------------------------------------------------------------------------------------------------

struct TileGradients {
    float* transmittance;
    float* rest;      // what is still to come: suffix − T_end dL/dA
    float* channels;  // dL/dC, D planes
};

void read_plane(const TileView& tile, const float* in, int64_t row_stride, int64_t pixel_stride, float* plane) {
    for (int row = 0; row < tile.rows; ++row)
        for (int strip = 0; strip < kStrips; ++strip) {
            float* to = plane + place(strip, row);
            const float* from = in + row * row_stride + strip * kLanes * pixel_stride;
            const int columns = tile.columns - strip * kLanes < kLanes ? tile.columns - strip * kLanes : kLanes;
            for (int x = 0; x < columns; ++x) to[x] = from[x * pixel_stride];
        }
}

template <int D>
void load_gradients(const BlendParams& p, const TileView& tile, float* spare, const TileGradients& t) {
    const int d = Channels<D>::count(p);
    const int64_t first = static_cast<int64_t>(tile.y0) * p.width + static_cast<int64_t>(tile.x0);
    std::memset(t.rest, 0, sizeof(Plane));
    std::memset(t.channels, 0, sizeof(Plane) * static_cast<size_t>(d));
    std::memset(spare, 0, sizeof(Plane));
    for (int k = 0; k < d; ++k) {
        read_plane(tile, p.grad_out_channels + first * d + k, int64_t(p.width) * d, d, t.channels + k * kPixels);
        read_plane(tile, p.out_channels + first * d + k, int64_t(p.width) * d, d, spare);
        for (int j = 0; j < kPixels; j += kLanes)
            store(t.rest + j, fma_(load(spare + j), load(t.channels + k * kPixels + j), load(t.rest + j)));
    }
    if (p.grad_out_alpha == nullptr) return;
    float alpha[kPixels];
    std::memset(alpha, 0, sizeof alpha);
    read_plane(tile, p.out_alpha + first, p.width, 1, alpha);
    read_plane(tile, p.grad_out_alpha + first, p.width, 1, spare);
    for (int j = 0; j < kPixels; j += kLanes)
        store(t.rest + j, fma_(load(alpha + j) - Pack(1.0f), load(spare + j), load(t.rest + j)));
}

// The gradient of one pair, lane by lane, over the rows of one strip.
template <int D, bool kStatistics>
RECON_FN void backward_rows(const BlendParams& p, const float* record, const PairView& pair, Rows rows, int strip,
                            const TileGradients& t, float* out) {
    const int d = Channels<D>::count(p);
    const Pack scale(record[kScale]), lanes = strip_lanes(strip), threshold(p.log2_cutoff), zero(0.0f);
    const Pack scaled_lanes = lanes * scale;
    Pack color[D > 0 ? D : 1], grad_color[D > 0 ? D : 1];
    for (int k = 0; k < D; ++k) color[k] = Pack(record[kRecordChannels + k]), grad_color[k] = zero;
    Pack h0 = zero, h1 = zero, h2 = zero, abs_x = zero, abs_y = zero, weight_sum = zero, weight_max = zero;
    // a (dx + skew dy) = w · (a / scale), and b dx + c dy = skew · that + (det / a) dy.
    const Pack along_x(record[kScale] * (2.0f * kLn2));
    const Pack along_y(record[kScale] * (2.0f * kLn2) * record[kSkewX]), falloff(record[kFalloff] * (2.0f * kLn2));
    for (int row = rows.first; row <= rows.last; ++row) {
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
                out[kPairChannels + k] += sum(weight * g);
            }
        }
        const Pack rest = fma_(-weight, v, load(t.rest + at));
        store(t.rest + at, rest);
        const Pack h = select(taken & sample.free, log_alpha_gradient(weight, sample.alpha, v, rest), zero);
        const Pack dy(static_cast<float>(row) - pair.dy);
        h0 = h0 + h;
        const Pack hy = h * dy;
        h1 = h1 + hy;
        h2 = fma_(hy, dy, h2);
        if constexpr (kStatistics) {
            abs_x = abs_x + abs_(h * w);
            abs_y = abs_y + abs_(h * fma_(along_y, w, falloff * dy));
            weight_sum = weight_sum + weight;
            weight_max = fmax_(weight_max, weight);
        }
    }
    const Pack dx = lanes - Pack(pair.dx);
    out[kH] += sum(h0);
    out[kHx] += sum(h0 * dx);
    out[kHy] += sum(h1);
    out[kHxx] += sum(h0 * dx * dx);
    out[kHxy] += sum(h1 * dx);
    out[kHyy] += sum(h2);
    for (int k = 0; k < D; ++k) out[kPairChannels + k] += sum(grad_color[k]);
    if constexpr (kStatistics) {
        float* s = out + kPairChannels + d;
        s[kAbsX] += sum(abs_x * along_x);
        s[kAbsY] += sum(abs_y);
        s[kWeightSum] += sum(weight_sum);
        float most[kLanes];
        store(most, weight_max);
        for (int j = 0; j < kLanes; ++j) s[kWeightMax] = most[j] > s[kWeightMax] ? most[j] : s[kWeightMax];
    }
}

template <int D, bool kStatistics>
void backward_tile(const BlendParams& p, int tile_index, float* scratch) {
    const TileGradients t{scratch, scratch + kPixels, scratch + 3 * kPixels};
    TileView tile = start_tile(p, tile_index, t.transmittance);
    load_gradients<D>(p, tile, scratch + 2 * kPixels, t);
    const int32_t begin = p.offsets[tile_index], end = p.offsets[tile_index + 1];
    const int32_t stop = begin + p.processed[tile_index];
    const size_t bytes = sizeof(float) * static_cast<size_t>(p.pair_stride);
    for (int32_t i = begin; i < end; ++i) {
        prefetch_record(p, i, end);
        const int32_t* entry = p.entries + 2 * static_cast<int64_t>(i);
        float* out = p.pair_gradients + static_cast<int64_t>(entry[1]) * p.pair_stride;
        std::memset(out, 0, bytes);
        const float* record = p.records + static_cast<int64_t>(entry[0]) * p.record_stride;
        if (i >= stop || !(record[kHalfWidth] >= 0.0f)) continue;
        if ((i - begin) % kAliveEvery == 0 && i > begin) find_alive(t.transmittance, tile);
        PairView pair;
        view_pair(record, tile, pair);
        for (int strip = 0; strip < kStrips; ++strip)
            backward_rows<D, kStatistics>(p, record, pair, rows_in_strip(record, pair, tile, strip), strip, t, out);
    }
}

// Sums the pairs of one Gaussian and turns moments into gradients.
void sum_pairs(const BlendParams& p, int64_t g, float* total) {
    const int d = p.channel_count;
    const int used = kPairChannels + d + (p.grad_means_abs ? kPairStatistics : 0);
    for (int j = 0; j < used; ++j) total[j] = 0;
    float most = 0;
    for (int64_t pair = p.pair_starts[g]; pair < p.pair_starts[g + 1]; ++pair) {
        const float* from = p.pair_gradients + pair * p.pair_stride;
        for (int j = 0; j < used; ++j) total[j] += from[j];
        if (p.grad_means_abs) {
            const float here = from[kPairChannels + d + kWeightMax];
            most = here > most ? here : most;
        }
    }
    const float a = p.conics[3 * g], b = p.conics[3 * g + 1], c = p.conics[3 * g + 2];
    const bool drawn = p.pair_starts[g] < p.pair_starts[g + 1];
    p.grad_means_px[2 * g] = drawn ? a * total[kHx] + b * total[kHy] : 0.0f;
    p.grad_means_px[2 * g + 1] = drawn ? b * total[kHx] + c * total[kHy] : 0.0f;
    p.grad_conics[3 * g] = -0.5f * total[kHxx];
    p.grad_conics[3 * g + 1] = -total[kHxy];
    p.grad_conics[3 * g + 2] = -0.5f * total[kHyy];
    p.grad_opacities[g] = drawn ? total[kH] / p.opacities[g] : 0.0f;
    for (int k = 0; k < d; ++k) p.grad_channels[g * d + k] = total[kPairChannels + k];
    if (p.grad_means_abs == nullptr) return;
    const float* s = total + kPairChannels + d;
    p.grad_means_abs[2 * g] = s[kAbsX];
    p.grad_means_abs[2 * g + 1] = s[kAbsY];
    p.weight_sum[g] = s[kWeightSum];
    p.weight_max[g] = most;
}

template <int D>
void backward(const BlendParams& p) {
    const int tiles = tile_count(p);
#pragma omp parallel
    {
        Scratch scratch(3 + p.channel_count);
#pragma omp for schedule(dynamic, 1)
        for (int tile = 0; tile < tiles; ++tile) {
            if (p.grad_means_abs)
                backward_tile<D, true>(p, tile, scratch.data);
            else
                backward_tile<D, false>(p, tile, scratch.data);
        }
        std::unique_ptr<float[]> total(new float[static_cast<size_t>(p.pair_stride)]);
#pragma omp for schedule(dynamic, 1024)
        for (int64_t g = 0; g < p.count; ++g) sum_pairs(p, g, total.get());
    }
}

void blend_forward(const BlendParams& p) {
    switch (p.channel_count) {
        case 1: return forward<1>(p);
        case 3: return forward<3>(p);
        case 4: return forward<4>(p);
        case 7: return forward<7>(p);
        default: return forward<0>(p);
    }
}

void blend_backward(const BlendParams& p) {
    switch (p.channel_count) {
        case 1: return backward<1>(p);
        case 3: return backward<3>(p);
        case 4: return backward<4>(p);
        case 7: return backward<7>(p);
        default: return backward<0>(p);
    }
}

}  // namespace

void bind_blend(nb::module_& m) {
    auto c = nb::class_<BlendParams>(m, "BlendParams").def(nb::init<>());
    RECON_BIND_POINTER(c, BlendParams, means_px);
    RECON_BIND_POINTER(c, BlendParams, conics);
    RECON_BIND_POINTER(c, BlendParams, opacities);
    RECON_BIND_POINTER(c, BlendParams, channels);
    RECON_BIND_POINTER(c, BlendParams, depths);
    RECON_BIND_POINTER(c, BlendParams, offsets);
    RECON_BIND_POINTER(c, BlendParams, entries);
    RECON_BIND_POINTER(c, BlendParams, pair_starts);
    RECON_BIND_POINTER(c, BlendParams, out_channels);
    RECON_BIND_POINTER(c, BlendParams, out_alpha);
    RECON_BIND_POINTER(c, BlendParams, median_depth);
    RECON_BIND_POINTER(c, BlendParams, records);
    RECON_BIND_POINTER(c, BlendParams, processed);
    RECON_BIND_POINTER(c, BlendParams, grad_out_channels);
    RECON_BIND_POINTER(c, BlendParams, grad_out_alpha);
    RECON_BIND_POINTER(c, BlendParams, pair_gradients);
    RECON_BIND_POINTER(c, BlendParams, grad_means_px);
    RECON_BIND_POINTER(c, BlendParams, grad_conics);
    RECON_BIND_POINTER(c, BlendParams, grad_opacities);
    RECON_BIND_POINTER(c, BlendParams, grad_channels);
    RECON_BIND_POINTER(c, BlendParams, grad_means_abs);
    RECON_BIND_POINTER(c, BlendParams, weight_sum);
    RECON_BIND_POINTER(c, BlendParams, weight_max);
    RECON_BIND_VALUE(c, BlendParams, count);
    RECON_BIND_VALUE(c, BlendParams, channel_count);
    RECON_BIND_VALUE(c, BlendParams, record_stride);
    RECON_BIND_VALUE(c, BlendParams, pair_stride);
    RECON_BIND_VALUE(c, BlendParams, width);
    RECON_BIND_VALUE(c, BlendParams, height);
    RECON_BIND_VALUE(c, BlendParams, log2_cutoff);
    m.attr("blend_record_floats") = static_cast<int>(kRecordChannels);
    m.attr("blend_pair_floats") = static_cast<int>(kPairChannels);
    m.attr("blend_statistics") = static_cast<int>(kPairStatistics);
    m.def("blend_forward", &blend_forward, nb::call_guard<nb::gil_scoped_release>());
    m.def("blend_backward", &blend_backward, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
