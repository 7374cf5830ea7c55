// SPDX-License-Identifier: Apache-2.0
// What a multilayer perceptron does with each number between its products.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

// max(a, 0), the rectified linear unit; a NaN stays one.
template <class F>
RECON_FN F activate(F a) {
    return fmax_(F(0.0f), a);
}

// The gradient by a, from that by h = activate(a).  At 0 it is 0, and at a NaN it goes through, as in torch.
template <class F>
RECON_FN F through_activation(F h, F gradient) {
    return select(h <= F(0.0f), F(0.0f), gradient);
}

}  // namespace recon
