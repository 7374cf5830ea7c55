// SPDX-License-Identifier: Apache-2.0
// Sparse TSDF fusion; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

inline constexpr int kBlockSide = 8;
inline constexpr int kBlockVoxels = kBlockSide * kBlockSide * kBlockSide;

// One depth map.  A voxel with lattice index (i, j, k) lies at cam_from_grid · (i, j, k, 1) in the camera's frame.
struct TsdfView {
    const double* cam_from_grid = nullptr;   // [3, 4] row-major, voxels to the camera's world-unit frame
    const float* inverse_depth = nullptr;    // [H, W], 1 / z; 0 where nothing is known
    const float* slant = nullptr;            // [H, W], distance from the surface per unit of z along the pixel's ray
    const float* confidence = nullptr;       // [H, W], weight of the pixel
    const float* color = nullptr;            // [3, H, W]; nullptr for none
    int32_t width = 0;
    int32_t height = 0;
    float fx = 0, fy = 0, cx = 0, cy = 0;    // pixels, pixel centres at +0.5
};

struct TsdfAllocateParams {
    TsdfView view;
    const double* grid_from_cam = nullptr;   // [3, 4] row-major
    int64_t* table = nullptr;                // [capacity] block keys, -1 where empty, updated
    int64_t capacity = 0;                    // a power of two
    int64_t* count = nullptr;                // [1] keys in the table, updated
    int64_t max_count = 0;                   // no key is added beyond this many
    int32_t first_block[3] = {0, 0, 0};      // blocks outside [first, last] are not allocated
    int32_t last_block[3] = {0, 0, 0};
    float truncation = 0;                    // world units
};

struct TsdfIntegrateParams {
    TsdfView view;
    const int32_t* blocks = nullptr;         // [B, 3] block coordinates
    int64_t block_count = 0;
    float* distance_sum = nullptr;           // [B, 512] sum of weight · (distance / truncation), updated
    float* weight_sum = nullptr;             // [B, 512], updated
    float* color_sum = nullptr;              // [B, 4, 512] sums of weight · (r, g, b, 1) near the surface, updated
    float truncation = 0;                    // world units
    float jump = 0;                          // a relative difference of inverse depth that parts two surfaces
};

}  // namespace recon
