// SPDX-License-Identifier: Apache-2.0
// Setting memory to zero; see clear.cu.
#pragma once
#include <cstdint>

namespace recon {

struct ClearParams {
    uint32_t* words = nullptr;  // [count]
    int64_t count = 0;
};

// Numbers that the host knows, on their way to where kernels read them by address.
struct PutParams {
    float values[4] = {};
    float* to = nullptr;  // [4]
};

}  // namespace recon
