// SPDX-License-Identifier: Apache-2.0
// Where the levels of an occupancy grid's bits lie; see OccupancyGrid.bits in op.py.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

constexpr int kLevels = 4;

RECON_FN int64_t level_words(int32_t resolution, int level) {
    const int64_t side = resolution >> level;
    return (side * side * side + 31) / 32;
}

// The first word of a level; of level kLevels, how many words there are.
RECON_FN int64_t level_begin(int32_t resolution, int level) {
    int64_t begin = 0;
    for (int below = 0; below < level; ++below) begin += level_words(resolution, below);
    return begin;
}

}  // namespace recon
