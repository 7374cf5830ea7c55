// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of the update take.
#pragma once
#include "recon/kernels/update/params.h"

namespace recon {

struct UpdateLaunch {
    UpdateParams update;                 // gradients in the picture are not read; `moments` holds them
    const float* moments = nullptr;      // [N, 12] of blending
    const int64_t* skip = nullptr;       // [1], not 0: nothing is updated
    double* pose_partial = nullptr;      // [blocks, 15], scratch; nullptr where no pose gradient is wanted
    // Density statistics, added to in place; all or none.
    float* gradient_sum = nullptr;  // [N]
    float* seen_count = nullptr;    // [N]
    float* most_weight = nullptr;   // [N]
};

}  // namespace recon
