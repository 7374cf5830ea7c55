// SPDX-License-Identifier: Apache-2.0
// Marching rays through an occupancy grid; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct MarchParams {
    const float* origins = nullptr;     // [rays, 3]
    const float* directions = nullptr;  // [rays, 3]
    const float* jitter = nullptr;      // [rays], 0..1; nullptr for 1/2
    const float* starts = nullptr;      // [rays]; nullptr for near
    const uint32_t* bits = nullptr;     // the levels of OccupancyGrid.bits
    int64_t rays = 0;
    int64_t max_total = 0;
    int32_t max_samples = 0;  // of a ray
    int32_t resolution = 0;   // cells along a side
    int32_t contracted = 0;
    float center_x = 0;
    float center_y = 0;
    float center_z = 0;
    float half_size = 1;
    float step = 0;  // in half sizes
    float near = 0;
    float far = 0;
    // What counting writes: the samples of a ray, on the CPU first offsets[ray + 1], then their running sum.
    int32_t* offsets = nullptr;  // [rays + 1]
    float* ends = nullptr;       // [rays]
    int64_t served = 0;
    int64_t total = 0;
    // The CPU keeps distances here between counting and placing.
    float* arena = nullptr;     // [threads, arena_row]
    int64_t* places = nullptr;  // [rays], where in the arena a ray's distances are
    int64_t arena_row = 0;      // max_total + max_samples + kLanes or more
    int32_t threads = 1;
    // What placing writes.
    float* positions = nullptr;  // [total, 3]
    float* distances = nullptr;  // [total]
    float* lengths = nullptr;    // [total]
    int32_t* ray_of = nullptr;   // [total]
};

struct MarchBackwardParams {
    const float* origins = nullptr;            // [rays, 3]
    const float* directions = nullptr;         // [rays, 3]
    const float* distances = nullptr;          // [samples]
    const int32_t* offsets = nullptr;          // [rays + 1]
    const float* position_gradient = nullptr;  // [samples, 3]
    float* origin_gradient = nullptr;          // [rays, 3]
    float* direction_gradient = nullptr;       // [rays, 3]
    int64_t rays = 0;
    int32_t contracted = 0;
    float center_x = 0;
    float center_y = 0;
    float center_z = 0;
    float half_size = 1;
};

}  // namespace recon
