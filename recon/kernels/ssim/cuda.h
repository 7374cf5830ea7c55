// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of the photometric loss take.
#pragma once
#include <cstdint>

#include "recon/kernels/ssim/params.h"

namespace recon {

struct SsimLaunch {
    SsimParams loss;                // `workspace` and `row_sums` are not used
    float* derivatives = nullptr;   // [3, H, W, C] by the windowed means of x, x² and xy, times the weight
    double* block_sums = nullptr;   // [blocks, 3]: weights, weighted SSIM, weighted |image − target|
    int64_t blocks = 0;
    double* result = nullptr;       // [2]: the loss, and 1 / (the sum of the weights times C)
    int64_t* skip = nullptr;        // [1], set where the loss is not finite; nullptr where nobody asks
};

}  // namespace recon
