// SPDX-License-Identifier: Apache-2.0
// Which triangle each pixel sees; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct TrianglesParams {
    const double* vertices = nullptr;  // [V, 3] in the camera's frame
    const int32_t* faces = nullptr;    // [T, 3]
    int64_t face_count = 0;
    int32_t width = 0;
    int32_t height = 0;
    double fx = 0, fy = 0, cx = 0, cy = 0;  // pixels, pixel centres at +0.5
    double near = 0;                   // depth along z below which nothing is seen
    int32_t cull = 0;                  // 1 leaves out triangles seen from behind (clockwise in the picture)
    int32_t* bounds = nullptr;         // [T, 4] scratch: first and last column, first and last row; last < first if none
    int32_t* face_ids = nullptr;       // [H, W], -1 where nothing is seen
    float* depth = nullptr;            // [H, W], along z; 0 where nothing is seen
    float* barycentric = nullptr;      // [H, W, 2], weights of the face's second and third vertex
};

}  // namespace recon
