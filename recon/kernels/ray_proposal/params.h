// SPDX-License-Identifier: Apache-2.0
// Drawing the samples of rays from an occupancy grid's densities; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct ProposalParams {
    const float* origins = nullptr;     // [rays, 3]
    const float* directions = nullptr;  // [rays, 3]
    const float* jitter = nullptr;      // [rays], 0..1; nullptr for 1/2
    const float* table = nullptr;       // [places + 1]: distances in a contracted space, else parts of the way, ascending
    const float* densities = nullptr;   // [resolution³]
    int64_t rays = 0;
    int32_t places = 0;     // a multiple of 16, at most kMostPlaces
    int32_t intervals = 0;  // at most kMostIntervals
    int32_t resolution = 0;
    int32_t contracted = 0;
    float center_x = 0;
    float center_y = 0;
    float center_z = 0;
    float half_size = 1;
    float near = 0;
    float far = 0;
    float even = 0;
    float unknown_depth = 0;
    // Edge k is drawn at the share (k + first + jitter) · scale of the weights, limited to 0..1.
    float first = 0;
    float scale = 0;
    float* positions = nullptr;  // [rays · intervals, 3]
    float* distances = nullptr;  // [rays · intervals]
    float* lengths = nullptr;    // [rays · intervals]
    int32_t* ray_of = nullptr;   // [rays · intervals]
    int32_t* offsets = nullptr;  // [rays + 1]
    float* ends = nullptr;       // [rays]
};

}  // namespace recon
