// SPDX-License-Identifier: Apache-2.0
// A multilayer perceptron over many samples; see op.py for the meaning.
#pragma once
#include <cstdint>

namespace recon {

struct MlpParams {
    const float* inputs = nullptr;      // [samples, input_width], rows `input_stride` numbers apart
    const float* parameters = nullptr;  // matrix after matrix, [in, out] each
    const float* row_bias = nullptr;    // [rows, hidden]; nullptr for none
    const int32_t* row_of = nullptr;    // [samples], never descending; with row_bias
    float* outputs = nullptr;           // [samples, output_width], written by the forward pass
    const float* gradient = nullptr;    // [samples, gradient_width] by the first outputs, rows `gradient_stride` apart
    float* input_gradient = nullptr;    // [samples, input_width], written; nullptr where not wanted
    float* parameter_gradient = nullptr;  // as parameters, written by the backward pass
    float* row_bias_gradient = nullptr;   // [rows, hidden], written; with row_bias
    float* scratch = nullptr;             // mlp_scratch_floats() numbers
    int64_t samples = 0;
    int64_t rows = 0;
    int64_t input_stride = 0;
    int64_t gradient_stride = 0;
    int32_t gradient_width = 0;  // 1 to output_width; the gradient by the other outputs is 0
    int32_t input_width = 0;     // each width a multiple of 16, at most 128
    int32_t output_width = 0;
    int32_t hidden_width = 0;
    int32_t hidden_layers = 0;  // 1 to 8
    bool bfloat16 = false;      // rounds the factors of all products; on the CPU, where mlp_has_bfloat16()
};

}  // namespace recon
