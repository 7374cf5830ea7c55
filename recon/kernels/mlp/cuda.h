// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of the multilayer perceptron take.
#pragma once
#include <cstdint>

#include "recon/kernels/mlp/params.h"

namespace recon {

struct MlpLaunch {
    MlpParams net;            // `scratch` is not used
    float* hidden = nullptr;  // [blocks, hidden_layers, hidden, 64], each block's hidden layers of one tile
    float* sums = nullptr;    // [blocks, parameters], each block's gradient of the parameters
    float* heads = nullptr;   // [tiles, hidden], what a tile adds to a row of the bias that began in an earlier tile
    int64_t blocks = 0;       // of the backward pass
    int64_t tiles = 0;        // of 64 samples
    int64_t parameters = 0;
};

}  // namespace recon
