// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of volume compositing.  A thread owns pieces of whole rays, and a ray its sums, so the result depends
// neither on the number of threads nor on a ray's neighbours.  Rays differ in length and are short, so SIMD runs over
// samples whichever ray they belong to where samples are independent (exponentials, colours), a block at a time, and
// over the channels where a ray is walked: forward front to back, backward back to front.
#include <cmath>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/composite/block.h"

namespace recon {
namespace {

// The sums of a ray's colour and distance; with any number of channels they grow in the results themselves.
template <int D>
struct Sums {
    float* color = nullptr;
    float* depth = nullptr;
    int64_t channels = 0;

    RECON_FN void start(float* ray_color, float* ray_depth, int64_t d, bool anew) {
        color = ray_color, depth = ray_depth, channels = d;
        if (!anew) return;
        std::memset(color, 0, sizeof(float) * static_cast<size_t>(d));
        *depth = 0.0f;
    }
    RECON_FN void add(float weight, const float* row) {
        for (int64_t c = 0; c < channels; ++c) color[c] = fma_(weight, row[c], color[c]);
        *depth = fma_(weight, row[channels], *depth);
    }
    RECON_FN void finish() {}
};
template <>
struct Sums<3> {
    float* color = nullptr;
    float* depth = nullptr;
    Quad sums;

    RECON_FN void start(float* ray_color, float* ray_depth, int64_t, bool anew) {
        color = ray_color, depth = ray_depth;
        sums = anew ? Quad{} : Quad{color[0], color[1], color[2], *depth};
    }
    RECON_FN void add(float weight, const float* row) { sums += weight * load_quad(row); }
    RECON_FN void finish() { color[0] = sums[0], color[1] = sums[1], color[2] = sums[2], *depth = sums[3]; }
};

// With `Saves` it writes what the backward pass needs, and the distortion; without, it continues a state.
template <int D, bool Saves>
class Forward {
public:
    explicit Forward(const CompositeParams& p)
        : p_(p), channels_(D == 0 ? p.channels : D), columns_(channels_ + 1), absorption_(p.samples),
          spacings_(p.samples) {}

    void run(int64_t first_ray, int64_t last_ray) {
        const int32_t* offsets = p_.samples.offsets;
        const int64_t last = offsets[last_ray];
        open(first_ray);
        for (int64_t first = offsets[first_ray]; first < last; first += kBlock) {
            const int count = static_cast<int>(last - first < kBlock ? last - first : kBlock);
            absorption_.read(first, count, p_.opacity, p_.slope);
            if (Saves) spacings_.read(first, count);
            read_colors(first, count);
            for (int i = 0; i < count;) {
                while (offsets[ray_ + 1] <= first + i) close_and_open();
                const int64_t left = offsets[ray_ + 1] - first;
                const int stop = left < count ? static_cast<int>(left) : count;
                walk(first, i, stop, first + i == offsets[ray_]);
                i = stop;
            }
        }
        while (ray_ + 1 < last_ray) close_and_open();
        close();
    }

private:
    // Colours of the block after the sigmoid, and distances, one row after another.
    RECON_FN void read_colors(int64_t first, int count) {
        float* rows = p_.values + first * columns_;
        const float* raw = p_.raw_color + first * p_.color_stride;
        if (D == 3 && p_.color_stride >= 4) {
            for (int i = 0; i < count; ++i) store_quad(rows + 4 * i, load_quad(raw + i * p_.color_stride));
        } else {
            for (int i = 0; i < count; ++i) {
                for (int64_t c = 0; c < channels_; ++c) rows[i * columns_ + c] = raw[i * p_.color_stride + c];
                rows[i * columns_ + channels_] = 0.0f;
            }
        }
        const int64_t numbers = count * columns_;
        int64_t at = 0;
        for (; at + kLanes <= numbers; at += kLanes) store(rows + at, sigmoid(load(rows + at)));
        if (at < numbers) {
            const Mask m = first_lanes(static_cast<int>(numbers - at));
            store_masked(rows + at, sigmoid(load_masked(rows + at, m)), m);
        }
        for (int i = 0; i < count; ++i) rows[i * columns_ + channels_] = p_.samples.distances[first + i];
    }

    RECON_FN void open(int64_t ray) {
        ray_ = ray;
        row_ = Saves ? ray : p_.rows[ray];
        alpha_ = Saves ? 0.0f : p_.alpha[row_];
        median_ = Saves ? 0.0f : p_.median_distance[row_];
        light_ = 1.0f - alpha_;
        crowding_ = distortion_ = 0.0f;
        sums_.start(p_.color + row_ * channels_, p_.depth + row_, channels_, Saves);
    }
    RECON_FN void close() {
        sums_.finish();
        p_.alpha[row_] = alpha_;
        p_.median_distance[row_] = median_;
        if (Saves)
            p_.distortion[row_] = distortion_;
        else
            p_.alive[ray_] = light_ >= p_.min_transmittance && std::isfinite(p_.ends[ray_]);
    }
    RECON_FN void close_and_open() {
        close();
        open(ray_ + 1);
    }

    // Samples [begin, end) of the block, all of the ray that is open.
    RECON_FN void walk(int64_t first, int begin, int end, bool starts) {
        float light = light_, alpha = alpha_, crowding = crowding_, distortion = distortion_;
        Sums<D> sums = sums_;
        for (int i = begin; i < end; ++i) {
            const int64_t sample = first + i;
            if (light == 0.0f) {
                if (Saves) darken(sample, first + end);
                break;
            }
            const float opacity = absorption_.opacity[i];
            const float weight = light * opacity;
            float next = fnma_(light, opacity, light);
            if (next <= 0.5f && light > 0.5f) median_ = median(sample, light, absorption_.depth[i]);
            if (next < kDarkness) next = 0.0f;
            if (Saves) {
                if (!(starts && i == begin)) crowding = fma_(alpha, spacings_.step[i], crowding);
                const float own = (1.0f / 3.0f) * weight * spacings_.width[i];
                distortion = fma_(weight, fma_(2.0f, crowding, own), distortion);
                p_.weights[sample] = weight, p_.behind[sample] = next, p_.crowding[sample] = crowding;
            }
            sums.add(weight, p_.values + sample * columns_);
            alpha += weight;
            light = next;
        }
        light_ = light, alpha_ = alpha, crowding_ = crowding, distortion_ = distortion;
        sums_ = sums;
    }

    // No light reaches these samples: whatever they hold counts for nothing.
    void darken(int64_t begin, int64_t end) {
        const size_t bytes = sizeof(float) * static_cast<size_t>(end - begin);
        for (float* array : {p_.weights, p_.behind, p_.crowding}) std::memset(array + begin, 0, bytes);
    }

    float median(int64_t sample, float light, float depth) const {
        const float part = median_part(light, depth) - 0.5f;
        return fma_(part, p_.samples.lengths[sample], p_.samples.distances[sample]);
    }

    const CompositeParams& p_;
    const int64_t channels_, columns_;
    Absorption absorption_;
    Spacings spacings_;
    int64_t ray_ = 0, row_ = 0;
    float light_ = 1, alpha_ = 0, median_ = 0, crowding_ = 0, distortion_ = 0;
    Sums<D> sums_;
};

template <int D, bool Saves>
void forward_as(const CompositeParams& p) {
    const Pieces pieces(p.samples);
    const int64_t count = pieces.count();
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t piece = 0; piece < count; ++piece) {
        const int64_t first = pieces.first(piece), last = pieces.first(piece + 1);
        if (first < last) Forward<D, Saves>(p).run(first, last);
    }
}

void composite_forward(const CompositeParams& p) {
    const bool saves = p.rows == nullptr;
    if (p.channels == 3) {
        saves ? forward_as<3, true>(p) : forward_as<3, false>(p);
    } else {
        saves ? forward_as<0, true>(p) : forward_as<0, false>(p);
    }
}

// Gradients of a sample's colour and value.
template <int D>
struct Loss {
    const float* by_color = nullptr;
    int64_t channels = 0, columns = 0;
    float by_depth = 0, by_alpha = 0;

    RECON_FN void start(const float* color, float depth, float alpha, int64_t d, int64_t v) {
        by_color = color, by_depth = depth, by_alpha = alpha, channels = d, columns = v;
    }
    RECON_FN float value(const float* row) const {
        float r = fma_(by_depth, row[channels], by_alpha);
        for (int64_t c = 0; c < channels; ++c) r = fma_(by_color[c], row[c], r);
        return r;
    }
    RECON_FN void write(float weight, const float* row, float* out) const {
        for (int64_t c = 0; c < channels; ++c) out[c] = weight * by_color[c] * fnma_(row[c], row[c], row[c]);
        for (int64_t c = channels; c < columns; ++c) out[c] = 0.0f;
    }
};
template <>
struct Loss<3> {
    Quad by_values, by_color;
    float by_alpha = 0;
    int64_t columns = 0;

    RECON_FN void start(const float* color, float depth, float alpha, int64_t, int64_t v) {
        by_color = Quad{color[0], color[1], color[2], 0.0f};
        by_values = Quad{color[0], color[1], color[2], depth};
        by_alpha = alpha, columns = v;
    }
    RECON_FN float value(const float* row) const { return sum(by_values * load_quad(row)) + by_alpha; }
    RECON_FN void write(float weight, const float* row, float* out) const {
        const Quad colors = load_quad(row);
        // The distance in the last place may be anything; there the result is 0.
        const Quad by = first_three((weight * by_color) * (colors - colors * colors));
        if (columns == 3) {
            out[0] = by[0], out[1] = by[1], out[2] = by[2];
            return;
        }
        store_quad(out, by);
        int64_t c = 4;
        for (; c + 4 <= columns; c += 4) store_quad(out + c, Quad{});
        for (; c < columns; ++c) out[c] = 0.0f;
    }
};

template <int D>
class Backward {
public:
    explicit Backward(const CompositeBackwardParams& p)
        : p_(p), channels_(D == 0 ? p.channels : D), columns_(channels_ + 1), spacings_(p.samples) {
        for (float& near : near_) near = 1.0f;
    }

    void run(int64_t first_ray, int64_t last_ray) {
        const int32_t* offsets = p_.samples.offsets;
        const int64_t begin = offsets[first_ray];
        ray_ = last_ray;
        for (int64_t last = offsets[last_ray]; last > begin;) {
            const int count = static_cast<int>(last - begin < kBlock ? last - begin : kBlock);
            const int64_t first = last - count;
            if (p_.by_distortion != nullptr) spacings_.read(first, count);
            if (p_.near_scale > 0.0f) read_near(first, count);
            for (int i = count; i > 0;) {
                while (ray_ == last_ray || offsets[ray_] >= first + i) open(ray_ - 1);
                const int64_t start = offsets[ray_] - first;
                const int stop = start > 0 ? static_cast<int>(start) : 0;
                walk(first, stop, i, offsets[ray_]);
                i = stop;
            }
            last = first;
        }
    }

private:
    RECON_FN void read_near(int64_t first, int count) {
        const Pack inverse(1.0f / p_.near_scale);
        for (int i = 0; i < count; i += kLanes) {
            const Mask m = first_lanes(count - i);
            store(near_ + i, near_factor(load_masked(p_.samples.distances + first + i, m), inverse));
        }
    }

    RECON_FN void open(int64_t ray) {
        ray_ = ray;
        by_distortion_ = p_.by_distortion != nullptr ? p_.by_distortion[ray] : 0.0f;
        const float by_depth = p_.by_depth != nullptr ? p_.by_depth[ray] : 0.0f;
        loss_.start(p_.by_color + ray * channels_, by_depth, p_.by_alpha[ray], channels_, p_.color_stride);
        expected_ = weight_behind_ = crowding_behind_ = step_behind_ = 0.0f;
    }

    // Samples [begin, end) of the block, back to front, all of the ray that is open and that starts at `ray_first`.
    RECON_FN void walk(int64_t first, int begin, int end, int64_t ray_first) {
        for (int i = end - 1; i >= begin; --i) {
            const int64_t sample = first + i;
            const float* row = p_.values + sample * columns_;
            float* out = p_.by_raw_color + sample * p_.color_stride;
            if (sample > ray_first && p_.behind[sample - 1] == 0.0f) {  // no light comes here
                for (int64_t c = 0; c < p_.color_stride; ++c) out[c] = 0.0f;
                continue;
            }
            const float weight = p_.weights[sample], near = near_[i];
            float value = loss_.value(row);
            if (p_.by_distortion != nullptr) value += by_weight(sample, i, weight);
            const float by = by_optical_depth(p_.behind[sample], p_.opacity[sample], value, expected_);
            p_.by_raw_density[sample * p_.by_density_stride] += by * p_.slope[sample] * near;
            loss_.write(weight * near, row, out);
        }
    }

    // The distortion's gradient to a weight.
    RECON_FN float by_weight(int64_t sample, int i, float weight) {
        crowding_behind_ = fma_(weight_behind_, step_behind_, crowding_behind_);
        weight_behind_ += weight;
        step_behind_ = spacings_.step[i];
        const float crowding = p_.crowding[sample] + crowding_behind_;
        return by_distortion_ * distortion_slope(crowding, weight, spacings_.width[i]);
    }

    const CompositeBackwardParams& p_;
    const int64_t channels_, columns_;
    Spacings spacings_;
    float near_[kBlock];
    int64_t ray_ = 0;
    Loss<D> loss_;
    float by_distortion_ = 0, expected_ = 0;
    float weight_behind_ = 0, crowding_behind_ = 0, step_behind_ = 0;
};

void composite_backward(const CompositeBackwardParams& p) {
    const Pieces pieces(p.samples);
    const int64_t count = pieces.count();
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t piece = 0; piece < count; ++piece) {
        const int64_t first = pieces.first(piece), last = pieces.first(piece + 1);
        if (first >= last) continue;
        if (p.channels == 3)
            Backward<3>(p).run(first, last);
        else
            Backward<0>(p).run(first, last);
    }
}

// How many samples of each ray [first_ray, last_ray) some light reaches, into kept_offsets behind each ray.
void count_kept(const TruncateParams& p, int64_t first_ray, int64_t last_ray) {
    const int32_t* offsets = p.samples.offsets;
    Absorption absorption(p.samples);
    const int64_t last = offsets[last_ray];
    int64_t read = offsets[first_ray], first = read;  // the block in hand is [first, read)
    for (int64_t ray = first_ray; ray < last_ray; ++ray) {
        float light = p.transmittance != nullptr ? p.transmittance[ray] : 1.0f;
        int64_t sample = offsets[ray];
        for (; sample < offsets[ray + 1] && light >= p.min_transmittance; ++sample) {
            if (sample >= read) {
                first = sample;
                const int count = static_cast<int>(last - first < kBlock ? last - first : kBlock);
                absorption.read(first, count, nullptr, nullptr);
                read = first + count;
            }
            const float opacity = absorption.opacity[sample - first];
            light = fnma_(light, opacity, light);
        }
        p.kept_offsets[ray + 1] = static_cast<int32_t>(sample - offsets[ray]);
    }
}

// Writes kept_offsets and returns the last of them, the number of samples that are kept.
int64_t truncate_rays(const TruncateParams& p) {
    const Pieces pieces(p.samples);
    const int64_t count = pieces.count();
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t piece = 0; piece < count; ++piece) count_kept(p, pieces.first(piece), pieces.first(piece + 1));
    p.kept_offsets[0] = 0;
    for (int64_t ray = 0; ray < p.samples.rays; ++ray) p.kept_offsets[ray + 1] += p.kept_offsets[ray];
    return p.kept_offsets[p.samples.rays];
}

// Runs of rays that keep all their samples, up to and with the first that does not, move as one.
void compact_rays(const CompactParams& p, int64_t first_ray, int64_t last_ray) {
    for (int64_t ray = first_ray; ray < last_ray;) {
        const int64_t from = p.offsets[ray], to = p.kept_offsets[ray], shift = from - to;
        while (ray < last_ray && p.offsets[ray] - p.kept_offsets[ray] == shift) ++ray;
        // Ray - 1 is the last whose first sample lies in the run.
        const int64_t count = p.kept_offsets[ray] - to;
        for (int64_t k = 0; k < p.arrays && count > 0; ++k)
            std::memcpy(p.to[k] + to * p.words[k], p.from[k] + from * p.words[k],
                        sizeof(uint32_t) * static_cast<size_t>(count * p.words[k]));
    }
}

void compact(const CompactParams& p) {
    CompositeSamples kept;
    kept.offsets = p.kept_offsets, kept.rays = p.rays;
    const Pieces pieces(kept);
    const int64_t count = pieces.count();
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t piece = 0; piece < count; ++piece) compact_rays(p, pieces.first(piece), pieces.first(piece + 1));
}

void add_array(CompactParams& p, uintptr_t from, uintptr_t to, int64_t words) {
    p.from[p.arrays] = reinterpret_cast<const uint32_t*>(from);
    p.to[p.arrays] = reinterpret_cast<uint32_t*>(to);
    p.words[p.arrays++] = words;
}

void bind_samples(nb::module_& m) {
    auto c = nb::class_<CompositeSamples>(m, "CompositeSamples").def(nb::init<>());
    RECON_BIND_POINTER(c, CompositeSamples, raw_density);
    RECON_BIND_POINTER(c, CompositeSamples, distances);
    RECON_BIND_POINTER(c, CompositeSamples, lengths);
    RECON_BIND_POINTER(c, CompositeSamples, offsets);
    RECON_BIND_VALUE(c, CompositeSamples, density_stride);
    RECON_BIND_VALUE(c, CompositeSamples, rays);
    RECON_BIND_VALUE(c, CompositeSamples, density_shift);
    RECON_BIND_VALUE(c, CompositeSamples, length_scale);
}

void bind_forward(nb::module_& m) {
    auto c = nb::class_<CompositeParams>(m, "CompositeParams").def(nb::init<>());
    RECON_BIND_VALUE(c, CompositeParams, samples);
    RECON_BIND_POINTER(c, CompositeParams, raw_color);
    RECON_BIND_VALUE(c, CompositeParams, color_stride);
    RECON_BIND_VALUE(c, CompositeParams, channels);
    RECON_BIND_POINTER(c, CompositeParams, values);
    RECON_BIND_POINTER(c, CompositeParams, color);
    RECON_BIND_POINTER(c, CompositeParams, alpha);
    RECON_BIND_POINTER(c, CompositeParams, depth);
    RECON_BIND_POINTER(c, CompositeParams, median_distance);
    RECON_BIND_POINTER(c, CompositeParams, distortion);
    RECON_BIND_POINTER(c, CompositeParams, weights);
    RECON_BIND_POINTER(c, CompositeParams, behind);
    RECON_BIND_POINTER(c, CompositeParams, opacity);
    RECON_BIND_POINTER(c, CompositeParams, slope);
    RECON_BIND_POINTER(c, CompositeParams, crowding);
    RECON_BIND_POINTER(c, CompositeParams, rows);
    RECON_BIND_POINTER(c, CompositeParams, ends);
    RECON_BIND_POINTER(c, CompositeParams, alive);
    RECON_BIND_VALUE(c, CompositeParams, min_transmittance);
    m.def("composite_forward", &composite_forward, nb::call_guard<nb::gil_scoped_release>());
}

void bind_backward(nb::module_& m) {
    auto c = nb::class_<CompositeBackwardParams>(m, "CompositeBackwardParams").def(nb::init<>());
    RECON_BIND_VALUE(c, CompositeBackwardParams, samples);
    RECON_BIND_VALUE(c, CompositeBackwardParams, channels);
    RECON_BIND_VALUE(c, CompositeBackwardParams, color_stride);
    RECON_BIND_VALUE(c, CompositeBackwardParams, near_scale);
    RECON_BIND_POINTER(c, CompositeBackwardParams, values);
    RECON_BIND_POINTER(c, CompositeBackwardParams, weights);
    RECON_BIND_POINTER(c, CompositeBackwardParams, behind);
    RECON_BIND_POINTER(c, CompositeBackwardParams, opacity);
    RECON_BIND_POINTER(c, CompositeBackwardParams, slope);
    RECON_BIND_POINTER(c, CompositeBackwardParams, crowding);
    RECON_BIND_POINTER(c, CompositeBackwardParams, by_color);
    RECON_BIND_POINTER(c, CompositeBackwardParams, by_alpha);
    RECON_BIND_POINTER(c, CompositeBackwardParams, by_depth);
    RECON_BIND_POINTER(c, CompositeBackwardParams, by_distortion);
    RECON_BIND_POINTER(c, CompositeBackwardParams, by_raw_color);
    RECON_BIND_POINTER(c, CompositeBackwardParams, by_raw_density);
    RECON_BIND_VALUE(c, CompositeBackwardParams, by_density_stride);
    m.def("composite_backward", &composite_backward, nb::call_guard<nb::gil_scoped_release>());
}

void bind_truncation(nb::module_& m) {
    auto c = nb::class_<TruncateParams>(m, "TruncateParams").def(nb::init<>());
    RECON_BIND_VALUE(c, TruncateParams, samples);
    RECON_BIND_POINTER(c, TruncateParams, transmittance);
    RECON_BIND_VALUE(c, TruncateParams, min_transmittance);
    RECON_BIND_POINTER(c, TruncateParams, kept_offsets);
    m.def("truncate_rays", &truncate_rays, nb::call_guard<nb::gil_scoped_release>());
    auto d = nb::class_<CompactParams>(m, "CompactParams").def(nb::init<>());
    RECON_BIND_POINTER(d, CompactParams, offsets);
    RECON_BIND_POINTER(d, CompactParams, kept_offsets);
    RECON_BIND_VALUE(d, CompactParams, rays);
    d.def("add", &add_array);
    m.def("compact_rows", &compact, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace

void bind_composite(nb::module_& m) {
    bind_samples(m);
    bind_forward(m);
    bind_backward(m);
    bind_truncation(m);
}

}  // namespace recon
