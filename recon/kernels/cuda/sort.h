// SPDX-License-Identifier: Apache-2.0
// Sorting by 32-bit keys, and sums over blocks; see sort.cu.
#pragma once
#include <cstdint>

namespace recon {

struct SortParams {
    const uint32_t* keys_in = nullptr;   // [capacity]
    const int32_t* values_in = nullptr;  // [capacity]
    uint32_t* keys_out = nullptr;        // [capacity]
    int32_t* values_out = nullptr;       // [capacity]
    const int64_t* count = nullptr;      // [1], how many there are
    uint32_t* histograms = nullptr;      // [4, 256], zero before the histogram
    uint32_t* status = nullptr;          // [tiles, 256], zero before each pass
    uint32_t* ticket = nullptr;          // [1], zero before each pass
    int32_t number = 0;                  // which byte of the key
    int32_t passes = 0;                  // how many there are
};

struct ScanParams {
    int64_t* values = nullptr;   // [count], becomes the sum of those before
    int64_t count = 0;
    int64_t* total = nullptr;    // [1], written
    int64_t limit = 0;           // where the total is above, `kept` is 0 and `skip` is set
    int64_t* kept = nullptr;     // [1], else the total; nullptr for neither
    int64_t* skip = nullptr;     // [1]
};

}  // namespace recon
