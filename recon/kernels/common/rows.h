// SPDX-License-Identifier: Apache-2.0
// Reading the last few rows of an array a whole pack at a time.
#pragma once

#include <cstring>

#include "recon/kernels/common/simd.h"

namespace recon {

// kLanes rows of W numbers from row `first` on, of which `count` exist: the array itself where all do, else a copy
// in `spare`, padded with zeros.
template <int W>
RECON_FN const float* whole_rows(const float* array, int64_t first, int count, float (&spare)[W * kLanes]) {
    const float* rows = array + first * W;
    if (count >= kLanes) return rows;
    std::memset(spare, 0, sizeof spare);
    std::memcpy(spare, rows, sizeof(float) * static_cast<size_t>(count * W));
    return spare;
}

}  // namespace recon
