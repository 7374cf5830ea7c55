// SPDX-License-Identifier: Apache-2.0
// Sparse Adam of a table [rows, width]; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct TableAdamParams {
    float* table = nullptr;          // [rows, width], updated
    float* gradient = nullptr;       // [rows, width], cleared
    float* first_moment = nullptr;   // [rows, width], updated
    float* second_moment = nullptr;  // [rows, width], updated
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
