// SPDX-License-Identifier: Apache-2.0
// One Gaussian at one pixel, and the gradient of that.
//
// With q the Mahalanobis distance squared, alpha = min(kMaxAlpha, opacity · e^(−q/2)), taken as 0 below the cutoff.
// In powers of two: alpha = 2^x, x = base − w², where w = scale · (dx + b/a dy), scale = √(a / (2 ln 2)) and
// base = log2(opacity) − (det/a) dy² / (2 ln 2) is one number per row of pixels.
//
// A pixel takes channel += T alpha c, then T −= T alpha, in order of depth, as long as T >= kMinTransmittance.
// For the loss L let v = c · dL/dC, S the sum of the later Gaussians' weights times their v, and A the alpha channel.
// Then dL/dalpha = T v − (S − T_end dL/dA) / (1 − alpha), and everything else follows from
//   h = dL/d ln(alpha) = alpha dL/dalpha,   d ln(alpha) = d opacity / opacity − dq / 2.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

constexpr float kMaxAlpha = 0.999f;
constexpr float kMinTransmittance = 1e-4f;
constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

// The exponent x of alpha = 2^x.
template <class F>
RECON_FN F log2_alpha(F w, F base) {
    return fnma_(w, w, base);
}

template <class F>
struct AlphaSample {
    F alpha;         // clamped; 0 where it is not taken
    MaskOf<F> free;  // not clamped: alpha moves with its exponent
};

RECON_FN float exp2_(float a, bool m) { return m ? ::exp2f(a) : 0.0f; }
RECON_FN double exp2_(double a, bool m) { return m ? ::exp2(a) : 0.0; }
RECON_FN float reciprocal_(float a) { return 1.0f / a; }
RECON_FN double reciprocal_(double a) { return 1.0 / a; }

template <class F>
RECON_FN AlphaSample<F> alpha_sample(F log2_alpha_value, MaskOf<F> taken) {
    const F raw = exp2_(log2_alpha_value, taken);
    return {fmin_(raw, F(kMaxAlpha)), raw <= F(kMaxAlpha)};
}

// h for a Gaussian of weight T · alpha; `rest` is S − T_end dL/dA.
template <class F>
RECON_FN F log_alpha_gradient(F weight, F alpha, F v, F rest) {
    return fnma_(rest * alpha, reciprocal_(F(1.0f) - alpha), weight * v);
}

}  // namespace recon
