// SPDX-License-Identifier: Apache-2.0
// SSIM of one pixel and channel from its windowed moments, and its derivatives (Wang et al. 2004, equation 13, with
// K1 = 0.01, K2 = 0.03 and a dynamic range of 1).
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

inline constexpr int kSsimRadius = 5;  // an 11×11 window, Gaussian with a standard deviation of 1.5 pixels
inline constexpr float kSsimC1 = 0.0001f;
inline constexpr float kSsimC2 = 0.0009f;

// Windowed means of x, y, x² + y² and xy.  The two variances enter only as their sum, so four filters do for five.
template <class F>
struct SsimMoments {
    F x, y, squares, xy;
};

// The SSIM value and its derivatives to the windowed means of x, x² and xy.
template <class F>
struct SsimValue {
    F value, d_x, d_xx, d_xy;
};

RECON_FN float reciprocal_(float a) { return 1.0f / a; }
RECON_FN double reciprocal_(double a) { return 1.0 / a; }

template <class F>
RECON_FN SsimValue<F> ssim_of_moments(const SsimMoments<F>& m) {
    const F c1(kSsimC1), c2(kSsimC2), two(2.0f);
    const F product = m.x * m.y, mean_squares = fma_(m.x, m.x, m.y * m.y);
    const F a1 = fma_(two, product, c1), a2 = fma_(two, m.xy - product, c2);
    // Rounding can make a variance slightly negative; the constant c2 keeps the quotient finite.
    const F b1 = mean_squares + c1, b2 = (m.squares - mean_squares) + c2;
    const F inverse = reciprocal_(b1 * b2);
    const F value = a1 * a2 * inverse;
    // The derivatives to the covariance and to the variance of x; 1 / b2 is b1 · inverse and the other way round.
    const F d_xy = two * a1 * inverse, d_xx = -(value * (b1 * inverse));
    // The mean of x enters the product, the squares, the variance (-2x) and the covariance (-y).
    const F by_y = inverse * (a2 - a1), by_x = fma_(value, b2 * inverse, d_xx);
    return {value, two * fnma_(m.x, by_x, m.y * by_y), d_xx, d_xy};
}

}  // namespace recon
