// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of volume compositing: a warp owns a ray and takes 32 of its samples at a time, front to back, or back
// to front in the backward pass.  What runs along the ray (transmittance, sums) is a scan over the warp and is carried
// to the next 32.
#include "recon/kernels/composite/math.h"
#include "recon/kernels/composite/params.h"
#include "recon/kernels/cuda/device.h"

namespace recon {
namespace {

constexpr int kLast = kWarp - 1;

RECON_FN float of_lane(float value, int lane) { return __shfl_sync(kAllLanes, value, lane); }
// What the lane before or behind holds, and `edge` where there is none.
RECON_FN float of_before(float value, float edge) {
    const float other = __shfl_up_sync(kAllLanes, value, 1);
    return lane_number() == 0 ? edge : other;
}
RECON_FN float of_behind(float value, float edge) {
    const float other = of_lane(value, lane_number() + 1);
    return lane_number() == kLast ? edge : other;
}
RECON_FN float warp_inclusive_product(float value) {
    const int lane = lane_number();
    for (int step = 1; step < kWarp; step *= 2) {
        const float other = __shfl_up_sync(kAllLanes, value, step);
        if (lane >= step) value *= other;
    }
    return value;
}
// The sum over this lane and those behind it.
RECON_FN float warp_suffix_sum(float value) {
    const int lane = lane_number();
    for (int step = 1; step < kWarp; step *= 2) {
        const float other = of_lane(value, lane + step);
        if (lane + step < kWarp) value += other;
    }
    return value;
}

// Light before and behind each lane's sample, for `light` before the first one.
struct Light {
    float before, behind;
};
RECON_FN Light pass_light(float light, float opacity) {
    const float product = warp_inclusive_product(light == 0.0f ? 0.0f : 1.0f - opacity);
    Light l{light * of_before(product, 1.0f), light * product};
    // Dark for good, even behind what is not a number.
    const unsigned dark = __ballot_sync(kAllLanes, l.behind < kDarkness);
    if ((dark & lanes_below(lane_number())) != 0) l.before = 0.0f;
    if ((dark & (lanes_below(lane_number()) | (1u << lane_number()))) != 0) l.behind = 0.0f;
    return l;
}

RECON_FN OpticalDepth<float> depth_of(const CompositeSamples& s, int64_t i) {
    return optical_depth(s.raw_density[i * s.density_stride], s.lengths[i] * s.length_scale, s.density_shift);
}

RECON_FN float place_of(const CompositeSamples& s, int64_t i) { return within_reach(s.distances[i] * s.length_scale); }
RECON_FN Spacing<float> spacing_of(const CompositeSamples& s, int64_t i) {
    return spacing(place_of(s, i), s.lengths[i] * s.length_scale);
}
// From sample i - 1 to i in the distance that distortion measures.
RECON_FN float step_to(const CompositeSamples& s, int64_t i) {
    const float x = place_of(s, i), before = place_of(s, i - 1);
    return (x - before) / ((1.0f + x) * (1.0f + before));
}

struct RaySums {
    float light, alpha = 0, crowding = 0;    // the same in all lanes
    float depth = 0, median = 0, distortion = 0;  // of the lane's samples
};

// Colours of 32 samples, and their sums; a lane adds up every 32nd channel.
RECON_FN void add_colors(const CompositeParams& p, int64_t i, bool on, float weight, float* color) {
    const int channels = static_cast<int>(p.channels);
    const float* raw = p.raw_color + i * p.color_stride;
    float* values = p.values + i * (channels + 1);
#pragma unroll 1
    for (int c = 0; c < channels; ++c) {
        const float value = on ? sigmoid(raw[c]) : 0.0f;
        if (on) values[c] = value;
        // 0 times what is not a number would be none either.
        const float total = warp_sum(weight == 0.0f ? 0.0f : weight * value);
        if (lane_number() == c % kWarp) color[c] += total;
    }
    if (on) values[channels] = p.samples.distances[i];
}

RECON_FN void add_samples(const CompositeParams& p, int ray_first, int i, bool on, RaySums& sums, float* color) {
    const CompositeSamples& s = p.samples;
    const OpticalDepth<float> d = on ? depth_of(s, i) : OpticalDepth<float>{0.0f, 0.0f};
    const float opacity = absorbed(d.depth);
    const Light light = pass_light(sums.light, opacity);
    const float weight = light.before == 0.0f ? 0.0f : light.before * opacity;
    const float total = warp_inclusive_sum(weight);
    if (p.rows == nullptr) {
        const float step = on && i > ray_first && light.before != 0.0f ? step_to(s, i) : 0.0f;
        const float alpha_before = sums.alpha + of_before(total, 0.0f);
        const float crowding = sums.crowding + warp_inclusive_sum(alpha_before * step);
        if (on) {
            const float own = (1.0f / 3.0f) * weight * spacing_of(s, i).width;
            sums.distortion += weight == 0.0f ? 0.0f : weight * fma_(2.0f, crowding, own);
            p.weights[i] = weight, p.behind[i] = light.behind, p.opacity[i] = opacity, p.slope[i] = d.slope;
            p.crowding[i] = light.before == 0.0f ? 0.0f : crowding;
        }
        sums.crowding = of_lane(crowding, kLast);
    }
    if (on && weight != 0.0f) sums.depth = fma_(weight, s.distances[i], sums.depth);
    if (on && light.before > 0.5f && light.behind <= 0.5f)
        sums.median = fma_(median_part(light.before, d.depth) - 0.5f, s.lengths[i], s.distances[i]);
    add_colors(p, i, on, weight, color);
    sums.light = of_lane(light.behind, kLast);
    sums.alpha += of_lane(total, kLast);
}

// What goes back along a ray, the same in all lanes: of what lies behind the 32 samples in hand.
struct Behind {
    float expected = 0, weight = 0, crowding = 0;
};

RECON_FN float by_crowding(const CompositeBackwardParams& p, int64_t i, bool lit, bool last, float weight,
                           float by_distortion, Behind& behind) {
    const float weights = warp_suffix_sum(weight);  // of this sample and those behind it
    const float step = lit && !last ? step_to(p.samples, i + 1) : 0.0f;
    const float weights_behind = behind.weight + of_behind(weights, 0.0f);
    const float crowding = behind.crowding + warp_suffix_sum(weights_behind * step);
    behind.weight += of_lane(weights, 0);
    behind.crowding = of_lane(crowding, 0);
    if (!lit) return 0.0f;
    return by_distortion * distortion_slope(p.crowding[i] + crowding, weight, spacing_of(p.samples, i).width);
}

// by_optical_depth for 32 samples at once: each takes what is expected behind it, E, to a v + (1 - a) E, and such maps
// follow each other.
RECON_FN float pass_expected(bool lit, float behind, float opacity, float value, float& expected) {
    const int lane = lane_number();
    float slope = lit ? 1.0f - opacity : 1.0f, start = lit ? opacity * value : 0.0f;
    for (int step = 1; step < kWarp; step *= 2) {
        const float next_slope = of_lane(slope, lane + step), next_start = of_lane(start, lane + step);
        if (lane + step < kWarp) start = fma_(slope, next_start, start), slope *= next_slope;
    }
    float own = of_behind(fma_(slope, expected, start), expected);
    expected = of_lane(fma_(slope, expected, start), 0);
    return lit ? by_optical_depth(behind, opacity, value, own) : 0.0f;
}

RECON_FN float by_value(const CompositeBackwardParams& p, int64_t ray, int64_t i) {
    const float* row = p.values + i * (p.channels + 1);
    float value = p.by_alpha[ray];
    if (p.by_depth != nullptr) value = fma_(p.by_depth[ray], row[p.channels], value);
    for (int64_t c = 0; c < p.channels; ++c) value = fma_(p.by_color[ray * p.channels + c], row[c], value);
    return value;
}

// Gradients of `count` samples' raw colours, which lie side by side.
RECON_FN void write_by_colors(const CompositeBackwardParams& p, int64_t ray, int64_t base, int count, float weight) {
    const int width = static_cast<int>(p.color_stride), channels = static_cast<int>(p.channels);
    for (int at = lane_number(); at - lane_number() < count * width; at += kWarp) {
        const int row = at / width, column = at - row * width;
        const float scale = of_lane(weight, row & kLast);
        if (at >= count * width) continue;
        float by = 0.0f;
        if (column < channels && scale != 0.0f) {
            const float value = p.values[(base + row) * (channels + 1) + column];
            by = scale * p.by_color[ray * channels + column] * fnma_(value, value, value);
        }
        p.by_raw_color[base * width + at] = by;
    }
}

// How many of 32 samples enough light reaches, from the first on.
RECON_FN int count_lit(const TruncateParams& p, int64_t i, bool on, float& light) {
    const float opacity = on ? absorbed(depth_of(p.samples, i).depth) : 0.0f;
    const float product = warp_inclusive_product(1.0f - opacity);
    const float before = light * of_before(product, 1.0f);
    const unsigned stop = __ballot_sync(kAllLanes, !on || !(before >= p.min_transmittance));
    light *= of_lane(product, kLast);
    return stop == 0 ? kWarp : __ffs(stop) - 1;
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(composite_forward, CompositeParams, 128) {
    const int64_t ray = global_thread() / kWarp;
    if (ray >= p.samples.rays) return;
    const int lane = lane_number();
    const bool anew = p.rows == nullptr;
    const int64_t row = anew ? ray : p.rows[ray];
    const int first = p.samples.offsets[ray], last = p.samples.offsets[ray + 1];
    float* color = p.color + row * p.channels;
    RaySums sums;
    sums.alpha = anew ? 0.0f : p.alpha[row];
    sums.light = 1.0f - sums.alpha;
    for (int64_t c = lane; anew && c < p.channels; c += kWarp) color[c] = 0.0f;
    for (int base = first; base < last; base += kWarp)
        add_samples(p, first, base + lane, base + lane < last, sums, color);
    const float depth = warp_sum(sums.depth), median = warp_sum(sums.median), distortion = warp_sum(sums.distortion);
    if (lane != 0) return;
    p.alpha[row] = sums.alpha;
    p.depth[row] = anew ? depth : p.depth[row] + depth;
    p.median_distance[row] = anew ? median : p.median_distance[row] + median;
    if (anew) {
        p.distortion[row] = distortion;
    } else {
        p.alive[ray] = sums.light >= p.min_transmittance && abs_(p.ends[ray]) <= 3e38f ? 1 : 0;
    }
}

RECON_KERNEL(composite_backward, CompositeBackwardParams, 128) {
    const int64_t ray = global_thread() / kWarp;
    if (ray >= p.samples.rays) return;
    const int lane = lane_number();
    const int64_t first = p.samples.offsets[ray], last = p.samples.offsets[ray + 1];
    const float by_distortion = p.by_distortion != nullptr ? p.by_distortion[ray] : 0.0f;
    const float inverse_near = p.near_scale > 0.0f ? 1.0f / p.near_scale : 0.0f;
    Behind behind;
    for (int64_t base = first + (last - first - 1) / kWarp * kWarp; base >= first && first < last; base -= kWarp) {
        const int64_t i = base + lane;
        const bool on = i < last, lit = on && !(i > first && p.behind[i - 1] == 0.0f);
        const float weight = lit ? p.weights[i] : 0.0f;
        float value = lit ? by_value(p, ray, i) : 0.0f;
        if (p.by_distortion != nullptr) value += by_crowding(p, i, lit, i + 1 >= last, weight, by_distortion, behind);
        const float by = pass_expected(lit, lit ? p.behind[i] : 0.0f, lit ? p.opacity[i] : 0.0f, value,
                                       behind.expected);
        const float near = on && p.near_scale > 0.0f ? near_factor(p.samples.distances[i], inverse_near) : 1.0f;
        if (lit) p.by_raw_density[i * p.by_density_stride] += by * p.slope[i] * near;
        write_by_colors(p, ray, base, static_cast<int>(last - base < kWarp ? last - base : kWarp), weight * near);
    }
}

RECON_KERNEL(truncate_rays, TruncateParams, 128) {
    const int64_t ray = global_thread() / kWarp;
    if (ray >= p.samples.rays) return;
    const int64_t first = p.samples.offsets[ray], last = p.samples.offsets[ray + 1];
    float light = p.transmittance != nullptr ? p.transmittance[ray] : 1.0f;
    int64_t kept = 0;
    for (int64_t base = first; base < last; base += kWarp) {
        const int64_t i = base + lane_number();
        const int lit = count_lit(p, i, i < last, light);
        kept += lit;
        if (lit < kWarp) break;
    }
    if (lane_number() == 0) p.kept_offsets[ray + 1] = static_cast<int32_t>(kept);
}

RECON_KERNEL(compact_rows, CompactParams, 128) {
    const int64_t ray = global_thread() / kWarp;
    if (ray >= p.rays) return;
    const int64_t from = p.offsets[ray], to = p.kept_offsets[ray], count = p.kept_offsets[ray + 1] - to;
    for (int64_t k = 0; k < p.arrays; ++k) {
        const int64_t words = p.words[k];
        for (int64_t at = lane_number(); at < count * words; at += kWarp)
            p.to[k][to * words + at] = p.from[k][from * words + at];
    }
}
