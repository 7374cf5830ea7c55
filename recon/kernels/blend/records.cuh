// SPDX-License-Identifier: Apache-2.0
// What blending needs of a Gaussian besides its channels, 32 bytes; and whether its ellipse reaches a block of pixels.
#pragma once
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/binning/math.h"
#include "recon/kernels/blend/math.h"

namespace recon {

constexpr int kRecordFloats = 8;

struct alignas(16) GaussianRecord {
    float mean_x, mean_y;
    float scale_x;       // √(a / (2 ln 2))
    float skewed_x;      // scale_x b / a
    float scale_y;       // √(det / a / (2 ln 2))
    float log2_opacity;
    float skew_x;        // b / a
    float skew_y;        // b / c
};

RECON_FN void write_record(float* to, float x, float y, float a, float b, float c, float opacity) {
    const float det = determinant(a, b, c), scale = sqrt_(a * (0.5f * kLog2e));
    store_four(to, {x, y, scale, scale * (b / a)});
    store_four(to + 4, {sqrt_(det / a * (0.5f * kLog2e)), log_(opacity) * kLog2e, b / a, b / c});
}
RECON_FN GaussianRecord read_record(const float* from) {
    const Four a = load_four(from), b = load_four(from + 4);
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

RECON_FN float exponent_at(const GaussianRecord& r, float x, float y) {
    const float dx = x - r.mean_x, dy = y - r.mean_y;
    return log2_alpha(fma_(r.scale_x, dx, r.skewed_x * dy), r.scale_y * dy, r.log2_opacity);
}

// Whether alpha may reach the cutoff at any point of a box.  Outside of it the exponent is greatest on one of the sides
// that face the centre, each of which is a parabola.  What rounding may lose is allowed for.
RECON_FN bool reaches(const GaussianRecord& r, float x0, float y0, float x1, float y1, float log2_cutoff) {
    const float x = fmin_(fmax_(r.mean_x, x0), x1), y = fmin_(fmax_(r.mean_y, y0), y1);
    const float best_y = fmin_(fmax_(r.mean_y - r.skew_y * (x - r.mean_x), y0), y1);
    const float best_x = fmin_(fmax_(r.mean_x - r.skew_x * (y - r.mean_y), x0), x1);
    const float most = fmax_(exponent_at(r, x, best_y), exponent_at(r, best_x, y));
    // Rounding of w grows with both of its parts, which may cancel.
    const float size = abs_(r.scale_x) * (abs_(x - r.mean_x) + 16.0f) + abs_(r.skewed_x) * (abs_(y - r.mean_y) + 16.0f);
    return most >= log2_cutoff - 0.02f - 4e-6f * size * size;
}

}  // namespace recon
