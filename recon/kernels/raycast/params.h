// SPDX-License-Identifier: Apache-2.0
// Rays against triangles through a bounding volume hierarchy; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

// 32 bytes.  A leaf holds the triangles first .. first+count-1 in leaf order; an inner node (count 0) has its children
// at first and first+1.
struct BvhNode {
    float low[3];
    int32_t first;
    float high[3];
    int32_t count;
};

struct BvhParams {
    const float* vertices = nullptr;     // [V, 3]
    const int32_t* triangles = nullptr;  // [T, 3]
    BvhNode* nodes = nullptr;            // [2 T], written
    float* corners = nullptr;            // [T, 9] in leaf order: one corner and the two edges from it, written
    int32_t* order = nullptr;            // [T], which triangle stands at each leaf place, written
    int64_t triangle_count = 0;
    int64_t node_count = 0;  // written
};

struct RaycastParams {
    const BvhNode* nodes = nullptr;
    const float* corners = nullptr;
    const int32_t* order = nullptr;
    const float* origins = nullptr;     // [R, 3]
    const float* directions = nullptr;  // [R, 3], any length
    float* distances = nullptr;         // [R] in lengths of the direction, infinity where nothing is hit, written
    int32_t* hits = nullptr;            // [R] triangle or -1, written
    float* barycentrics = nullptr;      // [R, 2] weights of the second and third corner, written
    int64_t ray_count = 0;
    int64_t triangle_count = 0;
    float min_distance = 0;
    float max_distance = 0;
    int32_t any_hit = 0;  // 1: stop at the first hit found, not the nearest
};

}  // namespace recon
