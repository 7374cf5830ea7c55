// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernel that gathers rows takes.
#pragma once
#include <cstdint>

namespace recon {

struct GatherLaunch {
    const uint32_t* rows = nullptr;    // [rows, words]
    uint32_t* moved = nullptr;         // [count, words], other memory
    const int64_t* sources = nullptr;  // [count]
    int64_t count = 0;
    int64_t words = 0;  // of four bytes in a row
};

struct MultiplyLaunch {
    const uint32_t* rows = nullptr;   // [count, words]
    uint32_t* moved = nullptr;        // [sum of copies, words], other memory
    const uint8_t* copies = nullptr;  // [count]
    const int64_t* starts = nullptr;  // [count], where the first copy of each goes
    int64_t count = 0;
    int64_t words = 0;  // of four bytes in a row
};

}  // namespace recon
