// SPDX-License-Identifier: Apache-2.0
// Adam for rows of one parameter tensor [rows, width]; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct AdamParams {
    float* parameter = nullptr;        // [rows, width], updated
    const float* gradient = nullptr;   // [rows, width]
    float* first_moment = nullptr;     // [rows, width], updated
    float* second_moment = nullptr;    // [rows, width], updated
    const uint8_t* visible = nullptr;  // [rows], 0 leaves the row as it is; nullptr updates all
    const float* column_scale = nullptr;  // [width + 16], factors of the rate by column, repeated; nullptr for 1
    int64_t rows = 0;
    int64_t width = 0;
    float learning_rate = 0;
    float beta1 = 0.9f;
    float beta2 = 0.999f;
    float epsilon = 1e-15f;
    float bias_correction1 = 1;  // 1 - beta1^step
    float bias_correction2 = 1;  // 1 - beta2^step
};

}  // namespace recon
