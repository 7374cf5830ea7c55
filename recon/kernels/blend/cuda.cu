// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of blending.  A warp owns a block of 8×4 pixels and walks its tile's list on its own, 32 entries at a
// time: a lane tests for one entry whether its ellipse reaches the block, and only those that do are blended.
//
// Backward, the warp gathers buckets of 32 Gaussians that reach its block.  First its lanes are pixels: they take each
// Gaussian of the bucket once more, front to back with the forward's totals (what is still to come is the total less
// what was), and leave the weight and h = dL/d ln(alpha) of each pair in shared memory.  Then its lanes are Gaussians:
// each sums its column over the 32 pixels, so that no sum runs across lanes and what goes to memory is one row of
// moments for each Gaussian and block.
//
// Those rows are added by float atomics, in whatever order blocks come: recon/bench/records/CUDA.md says why.
//
// Sources: the pass per Gaussian instead of per pixel is from Taming 3DGS (Mallick et al. 2024) and Faster-GS (Hahlbohm
// et al. 2026).  They keep a checkpoint of every pixel for every bucket, written by the forward pass; with blocks as
// small as a warp the replay costs less than their memory traffic, and leaves out what does not reach the block.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/binning/params.h"
#include "recon/kernels/blend/cuda.h"
#include "recon/kernels/blend/math.h"
#include "recon/kernels/blend/moments.cuh"
#include "recon/kernels/blend/records.cuh"

namespace recon {
namespace {

constexpr int kBlockWide = 8, kBlockHigh = 4;
constexpr int kBlocksWide = kTileSize / kBlockWide, kBlocksPerTile = kBlocksWide * (kTileSize / kBlockHigh);

// The block of a warp, and the pixel of a lane.
struct Pixel {
    float x0, y0;  // centre of the block's first pixel
    float x, y;    // centre of the lane's own
    int64_t index;
    bool inside;
    int tile;
};

RECON_FN Pixel find_pixel(const BlendLaunch& p, int tile, int block) {
    const int tiles_x = (p.width + kTileSize - 1) / kTileSize;
    const int left = tile % tiles_x * kTileSize + block % kBlocksWide * kBlockWide;
    const int top = tile / tiles_x * kTileSize + block / kBlocksWide * kBlockHigh;
    const int x = left + lane_number() % kBlockWide, y = top + lane_number() / kBlockWide;
    Pixel pixel;
    pixel.x0 = static_cast<float>(left) + 0.5f, pixel.y0 = static_cast<float>(top) + 0.5f;
    pixel.x = static_cast<float>(x) + 0.5f, pixel.y = static_cast<float>(y) + 0.5f;
    pixel.index = static_cast<int64_t>(y) * p.width + x;
    pixel.inside = x < p.width && y < p.height;
    pixel.tile = tile;
    return pixel;
}

// A Gaussian that reaches the block, with `D` channels of which the last may not be used.
template <int D>
struct alignas(16) Slot {
    GaussianRecord record;
    float channels[D == 3 ? 4 : D];
};

// The lane's entry of the list; `id` is -1 where it does not reach the block.
struct Entry {
    GaussianRecord record;
    int id;
};
RECON_FN Entry read_entry(const BlendLaunch& p, const Pixel& pixel, int at, int end) {
    Entry e;
    e.id = at < end ? p.ids[at] : -1;
    if (e.id < 0) return e;
    e.record = read_record(p.records + static_cast<int64_t>(e.id) * kRecordFloats);
    const float x1 = pixel.x0 + static_cast<float>(kBlockWide - 1), y1 = pixel.y0 + static_cast<float>(kBlockHigh - 1);
    bool taken = reaches(e.record, pixel.x0, pixel.y0, x1, y1, p.log2_cutoff);
    if (taken) {
        // A Gaussian with a channel that is not finite is not drawn.
        float zero = 0.0f;
        for (int k = 0; k < p.channel_count; ++k)
            zero += 0.0f * p.channels[static_cast<int64_t>(e.id) * p.channel_count + k];
        taken = zero == 0.0f;
    }
    if (!taken) e.id = -1;
    return e;
}
template <int D>
RECON_FN void fill_slot(const BlendLaunch& p, const Entry& e, Slot<D>& slot) {
    slot.record = e.record;
    const float* from = p.channels + static_cast<int64_t>(e.id) * p.channel_count + p.first_channel;
    for (int k = 0; k < D; ++k) slot.channels[k] = D == 3 || k < p.used_channels ? from[k] : 0.0f;
}

struct Sample {
    float raw, alpha;  // before and after the clamp; 0 below the cutoff
};
RECON_FN Sample sample_at(const GaussianRecord& r, const Pixel& pixel, float log2_cutoff) {
    const float exponent = exponent_at(r, pixel.x, pixel.y);
    const float raw = exponent >= log2_cutoff ? exp2_(exponent) : 0.0f;
    return {raw, fmin_(raw, kMaxAlpha)};
}

// ---- forward -------------------------------------------------------------------------------------------------------

// Of the depth planes and the median depth.
struct DepthSlot {
    float depth, slope_x, slope_y;
};
template <int D>
struct ForwardScratch {
    Slot<D> slots[kBlocksPerTile][kWarp];
    DepthSlot depths[D == 3 ? 1 : kBlocksPerTile][D == 3 ? 1 : kWarp];
};

RECON_FN DepthSlot read_depth(const BlendLaunch& p, int id) {
    DepthSlot slot{0.0f, 0.0f, 0.0f};
    if (p.median_depth != nullptr) slot.depth = p.depths[id];
    if (p.slopes != nullptr) slot.slope_x = p.slopes[2 * id], slot.slope_y = p.slopes[2 * id + 1];
    return slot;
}

template <int D>
struct Blending {
    float transmittance, median, tilt;
    float channels[D];
};

template <int D>
RECON_FN void blend_one(const Slot<D>& slot, const Pixel& pixel, float log2_cutoff, const DepthSlot* depth,
                        Blending<D>& b) {
    const Sample sample = sample_at(slot.record, pixel, log2_cutoff);
    const float before = b.transmittance;
    const float weight = before >= kMinTransmittance ? sample.alpha * before : 0.0f;
    b.transmittance = before - weight;
#pragma unroll
    for (int k = 0; k < D; ++k) b.channels[k] = fma_(weight, slot.channels[k], b.channels[k]);
    if (depth == nullptr) return;
    const float dx = pixel.x - slot.record.mean_x, dy = pixel.y - slot.record.mean_y;
    b.tilt = fma_(weight, fma_(depth->slope_x, dx, depth->slope_y * dy), b.tilt);
    if (before > 0.5f && b.transmittance <= 0.5f) b.median = depth->depth;
}

template <int D>
RECON_FN void write_picture(const BlendLaunch& p, const Pixel& pixel, const Blending<D>& b) {
    if (!pixel.inside) return;
    float* to = p.out_channels + pixel.index * p.channel_count + p.first_channel;
    for (int k = 0; k < D; ++k) {
        if (D != 3 && k >= p.used_channels) break;
        const float behind = p.background == nullptr ? 0.0f : p.background[p.first_channel + k];
        const float tilt = D != 3 && p.first_channel + k == p.slope_channel ? b.tilt : 0.0f;
        to[k] = fma_(b.transmittance, behind, b.channels[k]) + tilt;
    }
    if (p.first_channel != 0) return;
    p.out_alpha[pixel.index] = 1.0f - b.transmittance;
    if (D != 3 && p.median_depth != nullptr) p.median_depth[pixel.index] = b.median;
}

template <int D>
RECON_FN void forward(const BlendLaunch& p, ForwardScratch<D>& scratch) {
    const int tile = static_cast<int>(blockIdx.x), warp = warp_number(), lane = lane_number();
    const Pixel pixel = find_pixel(p, tile, warp);
    Slot<D>* slots = scratch.slots[warp];
    DepthSlot* depths = scratch.depths[D == 3 ? 0 : warp];
    const bool with_depth = D != 3 && (p.median_depth != nullptr || p.slopes != nullptr);
    Blending<D> b;
    b.transmittance = pixel.inside ? 1.0f : 0.0f, b.median = 0.0f, b.tilt = 0.0f;
    for (int k = 0; k < D; ++k) b.channels[k] = 0.0f;
    const int end = p.offsets[tile + 1];
    for (int at = p.offsets[tile]; at < end; at += kWarp) {
        if (__ballot_sync(kAllLanes, b.transmittance >= kMinTransmittance) == 0) break;
        const Entry e = read_entry(p, pixel, at + lane, end);
        if (e.id >= 0) {
            fill_slot<D>(p, e, slots[lane]);
            if (with_depth) depths[lane] = read_depth(p, e.id);
        }
        __syncwarp();  // a vote alone does not order what was written to shared memory
        for (unsigned left = __ballot_sync(kAllLanes, e.id >= 0); left != 0; left &= left - 1) {
            const int i = __ffs(left) - 1;
            blend_one<D>(slots[i], pixel, p.log2_cutoff, with_depth ? depths + i : nullptr, b);
        }
        __syncwarp();
    }
    write_picture<D>(p, pixel, b);
}

// ---- backward ------------------------------------------------------------------------------------------------------

constexpr int kBackwardWarps = 4;  // half a tile
constexpr int kColumn = kWarp + 1;  // so that lanes that read down a column meet no bank twice

// What a warp keeps of a bucket, and then what it sends to memory.
template <int D>
struct Bucket {
    static constexpr int kRow = kMoments + (D == 3 ? 0 : D);
    Slot<D> slots[kWarp];
    int ids[kWarp];
    float pixel_gradients[kWarp][D == 3 ? 4 : D];
    float weights[kWarp * kColumn];  // then the rows that go to memory
    float h[kWarp * kColumn];
    static_assert(kRow * kWarp <= 2 * kWarp * kColumn, "the rows fit in where the pairs were");
};
template <int D>
struct BackwardScratch {
    Bucket<D> buckets[kBackwardWarps];
};

template <int D>
struct Replay {
    float transmittance, rest;  // rest: what is still to come, less T_end dL/dA
    float gradient[D];
};

// Lanes are pixels.
template <int D>
RECON_FN void replay(const BlendLaunch& p, const Pixel& pixel, int count, Bucket<D>& bucket, Replay<D>& r) {
    for (int i = 0; i < count; ++i) {
        const Slot<D>& slot = bucket.slots[i];
        const Sample sample = sample_at(slot.record, pixel, p.log2_cutoff);
        const bool alive = r.transmittance >= kMinTransmittance;
        const float weight = alive ? sample.alpha * r.transmittance : 0.0f;
        r.transmittance -= weight;
        float v = 0.0f;
#pragma unroll
        for (int k = 0; k < D; ++k) v = fma_(r.gradient[k], slot.channels[k], v);
        r.rest = fnma_(weight, v, r.rest);
        const bool moves = alive && sample.raw <= kMaxAlpha;
        bucket.weights[i * kColumn + lane_number()] = weight;
        bucket.h[i * kColumn + lane_number()] = log_alpha_gradient(moves, weight, sample.alpha, v, r.rest);
    }
}

// The sums of one Gaussian over the block's pixels.
template <int D>
struct Sums {
    float h, hx, hy, hxx, hxy, hyy;  // x and y from the Gaussian's centre
    float channels[D];
    float abs_x, abs_y, weight_sum, weight_max;
};

// Lanes are Gaussians.
template <int D>
RECON_FN Sums<D> sum_pixels(const BlendLaunch& p, const Pixel& pixel, const Bucket<D>& bucket) {
    const int lane = lane_number();
    const GaussianRecord& record = bucket.slots[lane].record;
    const float* weights = bucket.weights + lane * kColumn;
    const float* column = bucket.h + lane * kColumn;
    const float from_x = pixel.x0 - record.mean_x, from_y = pixel.y0 - record.mean_y;
    // Of 2 ln 2: a dx + b dy is so much times scale_x w, c dy + b dx that times skew and scale_y u.
    const float turn_x = 2.0f * kLn2 * record.scale_x, turn_y = 2.0f * kLn2 * record.scale_y;
    Sums<D> s{};
    // Rows one after another: all pixels at once would take twice the registers.
#pragma unroll 1
    for (int row = 0; row < kBlockHigh; ++row) {
        const float dy = from_y + static_cast<float>(row);
        float h = 0.0f, hx = 0.0f, hxx = 0.0f;
#pragma unroll
        for (int x = 0; x < kBlockWide; ++x) {
            const int at = row * kBlockWide + x;
            const float here = column[at], weight = weights[at];
            const float dx = from_x + static_cast<float>(x), times_x = here * dx;
            h += here;
            hx += times_x;
            hxx = fma_(times_x, dx, hxx);
#pragma unroll
            for (int k = 0; k < D; ++k) s.channels[k] = fma_(weight, bucket.pixel_gradients[at][k], s.channels[k]);
            if (p.statistics) {
                const float w = fma_(record.scale_x, dx, record.skewed_x * dy), u = record.scale_y * dy;
                const float along = turn_x * w;
                s.abs_x += abs_(here * along);
                s.abs_y += abs_(here * fma_(record.skew_x, along, turn_y * u));
                s.weight_sum += weight;
                s.weight_max = fmax_(s.weight_max, weight);
            }
        }
        const float times_y = h * dy;
        s.h += h, s.hx += hx, s.hxx += hxx, s.hy += times_y;
        s.hxy = fma_(hx, dy, s.hxy);
        s.hyy = fma_(times_y, dy, s.hyy);
    }
    return s;
}

// Adds the sums to memory, neighbouring numbers by neighbouring lanes.
template <int D>
RECON_FN void send(const BlendLaunch& p, int count, const Sums<D>& s, Bucket<D>& bucket) {
    constexpr int kRow = Bucket<D>::kRow;
    const int lane = lane_number();
    float* rows = bucket.weights;
    __syncwarp();  // all have read what is overwritten now
    float* own = rows + lane * kRow;
    const float values[] = {s.h, s.hx, s.hy, s.hxx, s.hxy, s.hyy};
    for (int m = 0; m < 6; ++m) own[m] = values[m];
    if constexpr (D == 3) {
        for (int k = 0; k < 3; ++k) own[kRed + k] = s.channels[k];
    } else {
        for (int k = 0; k < 3; ++k) own[kRed + k] = 0.0f;
        for (int k = 0; k < D; ++k) own[kMoments + k] = s.channels[k];
    }
    own[kAbsX] = s.abs_x, own[kAbsY] = s.abs_y, own[kWeightMax] = s.weight_max;
    __syncwarp();
    for (int at = lane; at < count * kRow; at += kWarp) {
        const int i = at / kRow, column = at % kRow;
        const float value = rows[at];
        if (value == 0.0f) continue;
        const int64_t id = bucket.ids[i];
        if (column >= kMoments) {
            if (column - kMoments < p.used_channels)
                atomicAdd(p.grad_channels + id * p.channel_count + p.first_channel + column - kMoments, value);
        } else if (column == kWeightMax) {
            // Weights are not negative, and such floats are in the order of their bits.
            atomicMax(reinterpret_cast<int*>(p.moments + id * kMoments + column), __float_as_int(value));
        } else {
            atomicAdd(p.moments + id * kMoments + column, value);
        }
    }
    if (p.weight_sum != nullptr && lane < count) atomicAdd(p.weight_sum + bucket.ids[lane], s.weight_sum);
    __syncwarp();
}

template <int D>
RECON_FN void finish_bucket(const BlendLaunch& p, const Pixel& pixel, int count, Bucket<D>& bucket, Replay<D>& r) {
    __syncwarp();
    replay<D>(p, pixel, count, bucket, r);
    __syncwarp();
    // Lanes without a Gaussian sum what was left behind and send nothing.
    send<D>(p, count, sum_pixels<D>(p, pixel, bucket), bucket);
}

template <int D>
RECON_FN Replay<D> start_replay(const BlendLaunch& p, const Pixel& pixel, Bucket<D>& bucket) {
    Replay<D> r;
    r.transmittance = pixel.inside ? 1.0f : 0.0f, r.rest = 0.0f;
    const int64_t at = pixel.index * p.channel_count + p.first_channel;
    for (int k = 0; k < D; ++k) {
        const bool used = pixel.inside && (D == 3 || k < p.used_channels);
        r.gradient[k] = used ? p.grad_out_channels[at + k] : 0.0f;
        if (used) r.rest = fma_(p.out_channels[at + k], r.gradient[k], r.rest);
        bucket.pixel_gradients[lane_number()][k] = r.gradient[k];
    }
    if (p.grad_out_alpha != nullptr && pixel.inside && p.first_channel == 0)
        r.rest = fma_(p.out_alpha[pixel.index] - 1.0f, p.grad_out_alpha[pixel.index], r.rest);
    return r;
}

template <int D>
RECON_FN void backward(const BlendLaunch& p, BackwardScratch<D>& scratch) {
    if (p.skip != nullptr && *p.skip != 0) return;
    const int unit = static_cast<int>(blockIdx.x) * kBackwardWarps + warp_number(), lane = lane_number();
    const int tile = unit / kBlocksPerTile;
    const Pixel pixel = find_pixel(p, tile, unit % kBlocksPerTile);
    Bucket<D>& bucket = scratch.buckets[warp_number()];
    Replay<D> r = start_replay<D>(p, pixel, bucket);
    int count = 0;
    const int end = p.offsets[tile + 1];
    for (int at = p.offsets[tile]; at < end; at += kWarp) {
        if (__ballot_sync(kAllLanes, r.transmittance >= kMinTransmittance) == 0) break;
        const Entry e = read_entry(p, pixel, at + lane, end);
        for (unsigned left = __ballot_sync(kAllLanes, e.id >= 0); left != 0;) {
            const int place = count + __popc(left & lanes_below(lane));
            const bool fits = ((left >> lane) & 1u) != 0 && place < kWarp;
            if (fits) {
                fill_slot<D>(p, e, bucket.slots[place]);
                bucket.ids[place] = e.id;
            }
            const unsigned taken = __ballot_sync(kAllLanes, fits);
            count += __popc(taken);
            left &= ~taken;
            if (count < kWarp) continue;
            finish_bucket<D>(p, pixel, count, bucket, r);
            count = 0;
        }
    }
    if (count > 0) finish_bucket<D>(p, pixel, count, bucket, r);
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(blend_forward_3, BlendLaunch, 256) {
    RECON_SHARED(ForwardScratch<3>, scratch);
    forward<3>(p, scratch);
}

RECON_KERNEL(blend_forward_8, BlendLaunch, 256) {
    RECON_SHARED(ForwardScratch<8>, scratch);
    forward<8>(p, scratch);
}

RECON_KERNEL(blend_backward_3, BlendLaunch, 128) {
    RECON_SHARED(BackwardScratch<3>, scratch);
    backward<3>(p, scratch);
}

RECON_KERNEL(blend_backward_8, BlendLaunch, 128) {
    RECON_SHARED(BackwardScratch<8>, scratch);
    backward<8>(p, scratch);
}

// A thread owns a Gaussian and turns its moments into gradients.
RECON_KERNEL(blend_gradients, BlendLaunch, 256) {
    const int64_t i = global_thread();
    if (i >= p.count) return;
    const float *m = p.moments + i * kMoments, *c = p.conics + 3 * i;
    const bool touched = p.touched[i] != 0;
    ScreenMoments s{};
    if (touched) s = screen_moments(m, c[0], c[1], c[2], p.opacities[i]);
    p.grad_means_px[2 * i] = s.mean_x, p.grad_means_px[2 * i + 1] = s.mean_y;
    p.grad_conics[3 * i] = s.conic_xx, p.grad_conics[3 * i + 1] = s.conic_xy, p.grad_conics[3 * i + 2] = s.conic_yy;
    p.grad_opacities[i] = s.opacity;
    if (p.channel_count == 3)
        for (int k = 0; k < 3; ++k) p.grad_channels[3 * i + k] = touched ? m[kRed + k] : 0.0f;
    if (p.grad_means_abs == nullptr) return;
    p.grad_means_abs[2 * i] = m[kAbsX], p.grad_means_abs[2 * i + 1] = m[kAbsY];
    p.weight_max[i] = m[kWeightMax];
}
