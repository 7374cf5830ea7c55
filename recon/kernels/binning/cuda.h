// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of the tile lists take.
#pragma once
#include <cstdint>

namespace recon {

struct TileListParams {
    // N Gaussians in the picture.
    const float* means_px = nullptr;   // [N, 2]
    const float* conics = nullptr;     // [N, 3]
    const float* opacities = nullptr;  // [N]
    const float* depths = nullptr;     // [N]
    const uint8_t* visible = nullptr;  // [N]
    int64_t count = 0;                 // N
    int32_t width = 0;                 // pixels
    int32_t height = 0;                // pixels
    float alpha_cutoff = 1.0f / 255.0f;
    // Of each Gaussian.
    float* records = nullptr;         // [N, 8], see records.cuh; of those that touch a tile
    uint32_t* depth_keys = nullptr;   // [N], of those that touch a tile
    int32_t* tile_counts = nullptr;   // [N], tiles touched
    uint8_t* touched = nullptr;       // [N]
    int64_t* block_sums = nullptr;    // [blocks of 256], those that touch a tile, then the sums before
    // Of those M that touch a tile, in the order of number, then of depth.
    const int64_t* listed = nullptr;    // [1], M
    uint32_t* keys = nullptr;           // [N]
    int32_t* ids = nullptr;             // [N]
    int64_t* pair_sums = nullptr;       // [blocks of 256], pairs, then the sums before
    // Of P pairs of a tile and a Gaussian.
    const int64_t* pairs = nullptr;   // [1], P; 0 where there is no room for them
    uint32_t* tile_keys = nullptr;    // [capacity]
    int32_t* pair_ids = nullptr;      // [capacity]
    int32_t* offsets = nullptr;       // [T + 1]
};

}  // namespace recon
