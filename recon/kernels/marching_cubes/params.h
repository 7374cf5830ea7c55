// SPDX-License-Identifier: Apache-2.0
// Marching cubes over a sparse field of 8×8×8 blocks; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct MarchingCubesParams {
    const int32_t* blocks = nullptr;         // [B, 3] block coordinates
    const int32_t* neighbors = nullptr;      // [B, 27] rows of the blocks at (dx, dy, dz) in -1..1, dx fastest; -1 none
    const float* distance_sum = nullptr;     // [B, 512]
    const float* weight_sum = nullptr;       // [B, 512]
    const float* color_sum = nullptr;        // [B, 4, 512]; nullptr for none
    const int8_t* table = nullptr;           // [256, table_stride] count, then edges
    int64_t block_count = 0;
    int32_t table_stride = 0;
    float min_weight = 0;                    // voxels of less weight are unobserved

    // First pass.
    uint64_t* crossings = nullptr;           // [B, 24] bit 512 axis + voxel: the edge carries a vertex
    int64_t* vertex_counts = nullptr;        // [B]
    int64_t* triangle_counts = nullptr;      // [B]

    // Second pass.
    const int64_t* vertex_offsets = nullptr;    // [B] exclusive sums of the counts
    const int64_t* triangle_offsets = nullptr;  // [B]
    double* vertices = nullptr;              // [V, 3] in lattice units
    float* normals = nullptr;                // [V, 3] unit, towards positive distance
    float* colors = nullptr;                 // [V, 3]; nullptr for none
    int32_t* faces = nullptr;                // [T, 3]
};

}  // namespace recon
