// SPDX-License-Identifier: Apache-2.0
// What the backward pass of blending sums for each Gaussian, and the gradient that this makes.
#pragma once
#include "recon/kernels/cuda/device.h"

namespace recon {

// Moments of h = dL/d ln(alpha) over pixels (x, y) from the centre, gradients of three channels, statistics.
enum Moment { kH, kHx, kHy, kHxx, kHxy, kHyy, kRed, kGreen, kBlue, kAbsX, kAbsY, kWeightMax, kMoments };

struct ScreenMoments {
    float mean_x, mean_y, conic_xx, conic_xy, conic_yy, opacity;
};

// As d ln(alpha) = d opacity / opacity − d(a x² + 2 b x y + c y²) / 2, for a conic (a, b, c).
RECON_FN ScreenMoments screen_moments(const float* m, float a, float b, float c, float opacity) {
    return {fma_(a, m[kHx], b * m[kHy]), fma_(b, m[kHx], c * m[kHy]), -0.5f * m[kHxx], -m[kHxy], -0.5f * m[kHyy],
            m[kH] / opacity};
}

}  // namespace recon
