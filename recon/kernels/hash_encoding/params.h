// SPDX-License-Identifier: Apache-2.0
// The multiresolution hash encoding; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct HashEncodingParams {
    const float* positions = nullptr;    // [S, 3]
    const float* table = nullptr;        // [rows, features]
    float* encoded = nullptr;            // [S, levels * features], written by the forward pass
    const float* gradient = nullptr;     // [S, levels * features], by what was encoded
    float* table_gradient = nullptr;     // [rows, features], added to
    float* position_gradient = nullptr;  // [S, 3], written
    int64_t samples = 0;
    int32_t levels = 0;
    int32_t features = 0;                // 1, 2, 4 or 8
    int32_t entries = 0;                 // rows of a level whose vertices are hashed; a power of two
    uint32_t dense_levels = 0;           // bit l: level l has a row for every vertex
    int32_t resolutions[32] = {};        // cells along an edge, by level
    int32_t first_rows[33] = {};         // where a level begins, and the number of rows
};

}  // namespace recon
