// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the photometric loss.  A thread owns a band of rows.  The first pass filters rows horizontally into
// a ring of eleven, filters the ring vertically, and stores the three derivative planes; the second pass filters those
// the same way and adds the derivative of L1.  Sums are kept per row and added in order by the caller, so the result
// does not depend on the number of threads.
#include <omp.h>

#include <cstring>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/ssim/math.h"
#include "recon/kernels/ssim/params.h"

namespace recon {
namespace {

constexpr int kTaps = 2 * kSsimRadius + 1;
constexpr int kBandRows = 48;
constexpr int kMoments = 5;
constexpr int kDerivatives = 3;

// exp(-d²/(2·1.5²)) for d = 5..0, normalised over the eleven taps.
constexpr float kGauss[kSsimRadius + 1] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f, 0.21300554f, 0.26601173f};

int64_t padded_width(const SsimParams& p) { return (p.width + kLanes - 1) / kLanes * kLanes; }

// Scratch of one thread: source rows with a margin on both sides, the ring, and the vertical result.
int64_t line_floats(const SsimParams& p) { return padded_width(p) + 2 * kSsimRadius + kLanes; }
int64_t scratch_floats(const SsimParams& p) {
    return p.channels * kMoments * (line_floats(p) + kTaps * padded_width(p)) + kDerivatives * padded_width(p);
}
int64_t plane_floats(const SsimParams& p) { return p.channels * p.height * padded_width(p); }

int64_t ssim_workspace_floats(const SsimParams& p) {
    return (p.gradient ? kDerivatives * plane_floats(p) : 0) + omp_get_max_threads() * scratch_floats(p);
}

struct Scratch {
    float* lines;     // [channels * kMoments][line_floats]
    float* ring;      // [kTaps][channels * kMoments][padded_width]
    float* vertical;  // [kDerivatives][padded_width]
};

Scratch scratch_of(const SsimParams& p, int thread) {
    float* base = p.workspace + (p.gradient ? kDerivatives * plane_floats(p) : 0) + thread * scratch_floats(p);
    float* ring = base + p.channels * kMoments * line_floats(p);
    return {base, ring, ring + kTaps * p.channels * kMoments * padded_width(p)};
}

float target_at(const SsimParams& p, int64_t i) {
    return p.target ? p.target[i] : static_cast<float>(p.target_bytes[i]) * (1.0f / 255.0f);
}

// Filters `count` lines (each with its margin) horizontally into `out` lines of the padded width.
void filter_horizontally(const SsimParams& p, const float* lines, float* out, int64_t count) {
    const int64_t line = line_floats(p), width = padded_width(p);
    for (int64_t n = 0; n < count; ++n) {
        const float* source = lines + n * line;
        for (int64_t i = 0; i < width; i += kLanes) {
            Pack sum = load(source + i + kSsimRadius) * Pack(kGauss[kSsimRadius]);
            for (int k = 0; k < kSsimRadius; ++k)
                sum = fma_(load(source + i + k) + load(source + i + kTaps - 1 - k), Pack(kGauss[k]), sum);
            store(out + n * width + i, sum);
        }
    }
}

// The vertical filter at column i of line n of the ring, whose oldest row is `oldest`.
RECON_FN Pack filter_ring(const float* ring, int64_t ring_row, int oldest, int64_t offset) {
    const auto row = [&](int k) {
        const int slot = oldest + k < kTaps ? oldest + k : oldest + k - kTaps;
        return load(ring + slot * ring_row + offset);
    };
    Pack sum = row(kSsimRadius) * Pack(kGauss[kSsimRadius]);
    for (int k = 0; k < kSsimRadius; ++k) sum = fma_(row(k) + row(kTaps - 1 - k), Pack(kGauss[k]), sum);
    return sum;
}

// Writes the lines x, y, x², y², xy of image row `y`, one group of five per channel.
void moment_lines(const SsimParams& p, int64_t y, float* lines) {
    const int64_t line = line_floats(p);
    for (int64_t c = 0; c < p.channels; ++c) {
        float* base = lines + c * kMoments * line + kSsimRadius;
        for (int64_t i = 0; i < p.width; ++i) {
            const int64_t at = (y * p.width + i) * p.channels + c;
            const float a = p.image[at], b = target_at(p, at);
            base[i] = a;
            base[line + i] = b;
            base[2 * line + i] = a * a;
            base[3 * line + i] = b * b;
            base[4 * line + i] = a * b;
        }
    }
}

struct RowSums {
    double ssim, l1;
};

// SSIM of row `y` from the ring; stores the derivative planes where a gradient is wanted.
double ssim_row(const SsimParams& p, const Scratch& s, int64_t y, int oldest) {
    const int64_t width = padded_width(p), ring_row = p.channels * kMoments * width;
    double total = 0;
    for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t group = c * kMoments * width;
        for (int64_t i = 0; i < width; i += kLanes) {
            SsimMoments<Pack> m{filter_ring(s.ring, ring_row, oldest, group + i),
                                filter_ring(s.ring, ring_row, oldest, group + width + i),
                                filter_ring(s.ring, ring_row, oldest, group + 2 * width + i),
                                filter_ring(s.ring, ring_row, oldest, group + 3 * width + i),
                                filter_ring(s.ring, ring_row, oldest, group + 4 * width + i)};
            const SsimValue<Pack> v = ssim_of_moments(m);
            const int64_t left = p.width - i;
            const Mask inside = first_lanes(left < kLanes ? static_cast<int>(left) : kLanes);
            const Pack weight = p.weight ? load_masked(p.weight + y * p.width + i, inside)
                                         : select(inside, Pack(1.0f), Pack(0.0f));
            // A weight of 0 silences even a NaN.
            const Mask counts = weight > Pack(0.0f);
            total += sum(select(counts, v.value * weight, Pack(0.0f)));
            if (p.gradient) {
                const Pack scale = weight * Pack(p.ssim_scale);
                float* plane = p.workspace + (c * p.height + y) * width + i;
                store(plane, select(counts, v.d_x * scale, Pack(0.0f)));
                store(plane + plane_floats(p), select(counts, v.d_xx * scale, Pack(0.0f)));
                store(plane + 2 * plane_floats(p), select(counts, v.d_xy * scale, Pack(0.0f)));
            }
        }
    }
    return total;
}

double l1_row(const SsimParams& p, int64_t y) {
    double total = 0;
    for (int64_t i = 0; i < p.width; ++i) {
        const float weight = p.weight ? p.weight[y * p.width + i] : 1.0f;
        if (!(weight > 0.0f)) continue;
        float pixel = 0;
        for (int64_t c = 0; c < p.channels; ++c) {
            const int64_t at = (y * p.width + i) * p.channels + c;
            pixel += std::fabs(p.image[at] - target_at(p, at));
        }
        total += weight * pixel;
    }
    return total;
}

// First pass over the rows [first, last).
void forward_band(const SsimParams& p, const Scratch& s, int64_t first, int64_t last) {
    const int64_t lines = p.channels * kMoments, ring_row = lines * padded_width(p);
    std::memset(s.lines, 0, sizeof(float) * lines * line_floats(p));
    int slot = 0;
    for (int64_t y = first - kSsimRadius; y < last + kSsimRadius; ++y) {
        if (y >= 0 && y < p.height) {
            moment_lines(p, y, s.lines);
            filter_horizontally(p, s.lines, s.ring + slot * ring_row, lines);
        } else {
            std::memset(s.ring + slot * ring_row, 0, sizeof(float) * ring_row);
        }
        slot = slot + 1 == kTaps ? 0 : slot + 1;
        const int64_t center = y - kSsimRadius;
        if (center >= first) {
            p.row_sums[2 * center] = ssim_row(p, s, center, slot);
            p.row_sums[2 * center + 1] = l1_row(p, center);
        }
    }
}

// The gradient of row `y`: G∗d_x + 2x·G∗d_xx + y·G∗d_xy, plus L1's sign.
void gradient_row(const SsimParams& p, const Scratch& s, int64_t y, int oldest) {
    const int64_t width = padded_width(p), ring_row = p.channels * kDerivatives * width;
    for (int64_t c = 0; c < p.channels; ++c) {
        for (int d = 0; d < kDerivatives; ++d) {
            const int64_t group = (c * kDerivatives + d) * width;
            for (int64_t i = 0; i < width; i += kLanes)
                store(s.vertical + d * width + i, filter_ring(s.ring, ring_row, oldest, group + i));
        }
        for (int64_t i = 0; i < p.width; ++i) {
            const int64_t at = (y * p.width + i) * p.channels + c;
            const float a = p.image[at], b = target_at(p, at);
            const float weight = p.weight ? p.weight[y * p.width + i] : 1.0f;
            const float ssim = s.vertical[i] + 2 * a * s.vertical[width + i] + b * s.vertical[2 * width + i];
            const float sign = a > b ? 1.0f : a < b ? -1.0f : 0.0f;
            p.gradient[at] = ssim + (weight > 0.0f ? sign * weight * p.l1_scale : 0.0f);
        }
    }
}

// Second pass over the rows [first, last).
void backward_band(const SsimParams& p, const Scratch& s, int64_t first, int64_t last) {
    const int64_t width = padded_width(p), line = line_floats(p);
    const int64_t lines = p.channels * kDerivatives, ring_row = lines * width;
    std::memset(s.lines, 0, sizeof(float) * lines * line);
    int slot = 0;
    for (int64_t y = first - kSsimRadius; y < last + kSsimRadius; ++y) {
        if (y >= 0 && y < p.height) {
            for (int64_t n = 0; n < lines; ++n) {
                const float* plane = p.workspace + (n % kDerivatives) * plane_floats(p);
                std::memcpy(s.lines + n * line + kSsimRadius, plane + ((n / kDerivatives) * p.height + y) * width,
                            sizeof(float) * p.width);
            }
            filter_horizontally(p, s.lines, s.ring + slot * ring_row, lines);
        } else {
            std::memset(s.ring + slot * ring_row, 0, sizeof(float) * ring_row);
        }
        slot = slot + 1 == kTaps ? 0 : slot + 1;
        const int64_t center = y - kSsimRadius;
        if (center >= first) gradient_row(p, s, center, slot);
    }
}

void photometric(const SsimParams& p) {
    const int64_t bands = (p.height + kBandRows - 1) / kBandRows;
    const auto end_of = [&](int64_t band) {
        return (band + 1) * kBandRows < p.height ? (band + 1) * kBandRows : p.height;
    };
#pragma omp parallel
    {
        const Scratch s = scratch_of(p, omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int64_t band = 0; band < bands; ++band) forward_band(p, s, band * kBandRows, end_of(band));
        if (p.gradient) {
#pragma omp for schedule(dynamic)
            for (int64_t band = 0; band < bands; ++band) backward_band(p, s, band * kBandRows, end_of(band));
        }
    }
}

}  // namespace

void bind_ssim(nb::module_& m) {
    auto c = nb::class_<SsimParams>(m, "SsimParams").def(nb::init<>());
    RECON_BIND_POINTER(c, SsimParams, image);
    RECON_BIND_POINTER(c, SsimParams, target);
    RECON_BIND_POINTER(c, SsimParams, target_bytes);
    RECON_BIND_POINTER(c, SsimParams, weight);
    RECON_BIND_POINTER(c, SsimParams, gradient);
    RECON_BIND_POINTER(c, SsimParams, workspace);
    RECON_BIND_POINTER(c, SsimParams, row_sums);
    RECON_BIND_VALUE(c, SsimParams, height);
    RECON_BIND_VALUE(c, SsimParams, width);
    RECON_BIND_VALUE(c, SsimParams, channels);
    RECON_BIND_VALUE(c, SsimParams, l1_scale);
    RECON_BIND_VALUE(c, SsimParams, ssim_scale);
    m.def("ssim_workspace_floats", &ssim_workspace_floats);
    m.def("photometric", &photometric, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
