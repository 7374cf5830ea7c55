// SPDX-License-Identifier: Apache-2.0
// One Adam update (Kingma and Ba 2015, Algorithm 1) of one number.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

template <class F>
struct AdamState {
    F parameter, first_moment, second_moment;
};

// `scale2` is 1 / sqrt(bias_correction2), `step_size` is learning_rate / bias_correction1.  A gradient that is NaN or
// whose square would overflow counts as zero: it would spoil the moments for good.
template <class F>
RECON_FN AdamState<F> adam_update(AdamState<F> s, F gradient, F beta1, F beta2, F step_size, F scale2, F epsilon) {
    gradient = select(abs_(gradient) <= F(1e19f), gradient, F(0.0f));
    F m = fma_(beta1, s.first_moment - gradient, gradient);
    F g2 = gradient * gradient;
    F v = fma_(beta2, s.second_moment - g2, g2);
    return {s.parameter - step_size * m / (sqrt_(v) * scale2 + epsilon), m, v};
}

}  // namespace recon
