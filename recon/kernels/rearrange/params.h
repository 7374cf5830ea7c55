// SPDX-License-Identifier: Apache-2.0
// Moving the rows of several arrays within their memory; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct RearrangeParams {
    const int64_t* addresses = nullptr;  // [arrays] of the first byte of each
    const int64_t* row_bytes = nullptr;  // [arrays]
    int64_t arrays = 0;
    const int64_t* sources = nullptr;  // [count], never descending
    int64_t count = 0;
};

}  // namespace recon
