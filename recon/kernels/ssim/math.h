// SPDX-License-Identifier: Apache-2.0
// SSIM of one pixel and channel from its windowed moments, and its derivatives (Wang et al. 2004, equation 13, with
// K1 = 0.01, K2 = 0.03 and a dynamic range of 1).
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

inline constexpr int kSsimRadius = 5;  // an 11×11 window, Gaussian with a standard deviation of 1.5 pixels
inline constexpr float kSsimC1 = 0.0001f;
inline constexpr float kSsimC2 = 0.0009f;

// Windowed means of x, y, x², y² and xy.
template <class F>
struct SsimMoments {
    F x, y, xx, yy, xy;
};

// The SSIM value and its derivatives to the windowed means of x, x² and xy.
template <class F>
struct SsimValue {
    F value, d_x, d_xx, d_xy;
};

template <class F>
RECON_FN SsimValue<F> ssim_of_moments(const SsimMoments<F>& m) {
    const F c1(kSsimC1), c2(kSsimC2), two(2.0f);
    const F xy = m.x * m.y;
    const F squares = m.x * m.x + m.y * m.y;
    // Rounding can make a variance slightly negative; the constant c2 keeps the quotient finite.
    const F variance_x = m.xx - m.x * m.x, variance_y = m.yy - m.y * m.y;
    const F covariance = m.xy - xy;
    const F a1 = two * xy + c1, a2 = two * covariance + c2;
    const F b1 = squares + c1, b2 = variance_x + variance_y + c2;
    const F inverse = F(1.0f) / (b1 * b2);
    const F value = a1 * a2 * inverse;
    const F d_covariance = two * a1 * inverse;
    const F d_variance_x = -value / b2;
    // The mean of x enters the product, the squares, the variance (-2x) and the covariance (-y).
    const F d_mean = two * m.y * a2 * inverse - two * m.x * value / b1;
    return {value, d_mean - two * m.x * d_variance_x - m.y * d_covariance, d_variance_x, d_covariance};
}

}  // namespace recon
