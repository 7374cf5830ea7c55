// SPDX-License-Identifier: Apache-2.0
// One Adam update (Kingma and Ba 2015, Algorithm 1) of one number.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

template <class F>
struct AdamState {
    F parameter, first_moment, second_moment;
};

// `scale2` is 1 / sqrt(bias_correction2), `step_size` is learning_rate / bias_correction1.
template <class F>
RECON_FN AdamState<F> adam_update(AdamState<F> s, F gradient, F beta1, F beta2, F step_size, F scale2, F epsilon) {
    F m = fma_(beta1, s.first_moment - gradient, gradient);
    F g2 = gradient * gradient;
    F v = fma_(beta2, s.second_moment - g2, g2);
    return {s.parameter - step_size * m / (sqrt_(v) * scale2 + epsilon), m, v};
}

}  // namespace recon
