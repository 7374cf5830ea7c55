// SPDX-License-Identifier: Apache-2.0
// Occupancy grids; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct OccupancyUpdateParams {
    float* densities = nullptr;          // [resolution³], updated
    uint32_t* bits = nullptr;            // all levels, written
    const int32_t* cells = nullptr;      // [count]
    const float* found = nullptr;        // [count], the new densities
    int64_t count = 0;
    int32_t resolution = 0;
    int32_t threads = 1;
    float threshold = 0;
    float decay = 1;
    uint32_t* touched = nullptr;         // scratch: [resolution³ / 32], zero; on CUDA [resolution³]
    double* sums = nullptr;              // scratch: for each block of cells, the sum of what is known
    int64_t* counts = nullptr;           // scratch: and how many those are
    uint8_t* flags = nullptr;            // scratch: [3, (resolution / 2)³]
    uint8_t* other_flags = nullptr;      // scratch on CUDA: the blocks of the level below
    const float* limit = nullptr;        // on CUDA: [1], above which a cell is occupied
    int32_t level = 0;                   // on CUDA: which level is made
};

struct OccupancyCellsParams {
    const float* densities = nullptr;  // [resolution³]
    const uint32_t* bits = nullptr;    // level 0
    int32_t resolution = 0;
    // What counting writes: in the cells before each block of cells, and in all, how many may be and how many are
    // occupied.
    int64_t* possible = nullptr;  // [blocks + 1]
    int64_t* occupied = nullptr;  // [blocks + 1]
    // What choosing writes, and how many of each.
    int64_t from_possible = 0;
    int64_t from_occupied = 0;
    uint32_t key = 0;             // of the random numbers
    int32_t* cells = nullptr;     // [from_possible + from_occupied]
    float* positions = nullptr;   // [from_possible + from_occupied, 3]
};

struct UnseenParams {
    float* densities = nullptr;        // [resolution³], updated
    uint32_t* bits = nullptr;          // all levels, updated
    uint8_t* flags = nullptr;          // scratch: [3, (resolution / 2)³]
    const float* cameras = nullptr;    // [camera_count, 24], see cameras_table in op.py
    int32_t camera_count = 0;
    int32_t min_views = 1;
    int32_t resolution = 0;
    int32_t contracted = 0;
    float center_x = 0;
    float center_y = 0;
    float center_z = 0;
    float half_size = 1;
};

}  // namespace recon
