// SPDX-License-Identifier: Apache-2.0
// One Adam update (Kingma and Ba 2015, Algorithm 1) of one number.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

template <class F>
struct AdamState {
    F parameter, first_moment, second_moment;
};

// m / (sqrt(v) scale2 + epsilon)
template <class F>
RECON_FN F adam_direction(F m, F v, F scale2, F epsilon) {
    return m / (sqrt_(v) * scale2 + epsilon);
}

#if RECON_AVX512
// The same to a few units in the last place, by estimates with a Newton step each, in a third of the time.  A second
// moment below the normal numbers has its root taken for less than 1.1e-19.
RECON_FN Pack adam_direction(Pack m, Pack v, Pack scale2, Pack epsilon) {
    const Pack inverse(_mm512_rsqrt14_ps(fmax_(v, Pack(1.17549435e-38f)).v));
    Pack root = v * inverse;
    root = fma_(fnma_(root, root, v), Pack(0.5f) * inverse, root);
    return m * reciprocal_(fma_(root, scale2, epsilon));
}
#endif

// The greatest gradient whose square is a number, with room.
constexpr float kMostGradient = 1e19f;

// `scale2` is 1 / sqrt(bias_correction2), `step_size` is learning_rate / bias_correction1.  The gradient is at most
// kMostGradient.
template <class F>
RECON_FN AdamState<F> adam_update_bounded(AdamState<F> s, F gradient, F beta1, F beta2, F step_size, F scale2,
                                          F epsilon) {
    F m = fma_(beta1, s.first_moment - gradient, gradient);
    F g2 = gradient * gradient;
    F v = fma_(beta2, s.second_moment - g2, g2);
    return {fnma_(step_size, adam_direction(m, v, scale2, epsilon), s.parameter), m, v};
}

// The same for any gradient.  One that is NaN or whose square would overflow counts as zero: it would spoil the moments
// for good.
template <class F>
RECON_FN AdamState<F> adam_update(AdamState<F> s, F gradient, F beta1, F beta2, F step_size, F scale2, F epsilon) {
    gradient = select(abs_(gradient) <= F(kMostGradient), gradient, F(0.0f));
    return adam_update_bounded(s, gradient, beta1, beta2, step_size, scale2, epsilon);
}

}  // namespace recon
