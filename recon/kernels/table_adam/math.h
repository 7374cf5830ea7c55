// SPDX-License-Identifier: Apache-2.0
// Sparse Adam of one number of a table: the update is `adam_update_bounded`, here is which numbers count.
#pragma once
#include "recon/kernels/adam/math.h"

namespace recon {

// A gradient that is NaN or whose square would overflow counts as zero, as in `adam_update`.
template <class F>
RECON_FN F usable_gradient(F gradient) {
    return select(abs_(gradient) <= F(kMostGradient), gradient, F(0.0f));
}

}  // namespace recon
