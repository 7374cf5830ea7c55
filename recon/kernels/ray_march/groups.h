// SPDX-License-Identifier: Apache-2.0
// How many lattice points are skipped at once.
#pragma once
#include "recon/kernels/occupancy/levels.h"

namespace recon {

constexpr int32_t kMostGroup = 1 << 12;

// `size` points at once, a multiple of the least size, by their middle's bit on `level`; level 0: none are skipped.
struct Groups {
    int32_t size;
    int level;
};

// For points that are `cells` cells apart along each axis at most.
RECON_FN Groups groups_of(float cells, int32_t least) {
    for (int level = 1; level < kLevels; ++level) {
        // A block's neighbours stand for what is up to a block's side away from any of its points.
        const float most = 1.0f + 2.0f * 0.99f * static_cast<float>(1 << level) / cells;
        if (!(most >= static_cast<float>(least))) continue;
        const int32_t size = most < static_cast<float>(kMostGroup) ? static_cast<int32_t>(most) : kMostGroup;
        return {size / least * least, level};
    }
    return {least, 0};
}

}  // namespace recon
