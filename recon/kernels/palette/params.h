// SPDX-License-Identifier: Apache-2.0
// k-means within groups of rows; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct PaletteParams {
    const float* rows = nullptr;            // [N, D], those of a group side by side
    const float* weights = nullptr;         // [N], what a row counts in a mean
    const int64_t* row_offsets = nullptr;   // [G + 1], where each group's rows begin
    const int64_t* code_offsets = nullptr;  // [G + 1], where each group's codes begin
    float* codebook = nullptr;              // [K, D], where to start; becomes the means
    int32_t* labels = nullptr;              // [N], out: each row's nearest code of its group, counted in all codes
    float* distances = nullptr;             // [N], out: squared distance to it
    int64_t groups = 0;
    int64_t dims = 0;
    int64_t iterations = 0;                 // means are taken so often; 0 assigns alone
};

}  // namespace recon
