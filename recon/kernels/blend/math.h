// SPDX-License-Identifier: Apache-2.0
// One Gaussian at one pixel, and the gradient of that.
//
// With q the Mahalanobis distance squared, alpha = min(kMaxAlpha, opacity · e^(−q/2)), taken as 0 below the cutoff.
// In powers of two: alpha = 2^x, x = log2(opacity) − w² − u², where w = √(a / (2 ln 2)) (dx + b/a dy) and
// u = √(det / a / (2 ln 2)) dy.
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

// The exponent x of alpha = 2^x; `top` is log2(opacity).
template <class F>
RECON_FN F log2_alpha(F w, F u, F top) {
    return fnma_(w, w, fnma_(u, u, top));
}

// h for a Gaussian of weight T · alpha where alpha moves with its exponent (`moves`: it is taken and not clamped),
// else 0; `rest` is S − T_end dL/dA.
template <class F>
RECON_FN F log_alpha_gradient(MaskOf<F> moves, F weight, F alpha, F v, F rest) {
    return fnma_or_zero(moves, rest, alpha / (F(1.0f) - alpha), weight * v);
}

}  // namespace recon
