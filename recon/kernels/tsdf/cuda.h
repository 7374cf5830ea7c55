// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of sparse TSDF fusion take.
#pragma once
#include "recon/kernels/tsdf/params.h"

namespace recon {

struct TsdfAllocateLaunch {
    TsdfAllocateParams allocate;        // `count` also counts keys that are just being added
    const int64_t* old_keys = nullptr;  // [old_capacity], a smaller table whose keys move to this one
    int64_t old_capacity = 0;
    int64_t* full = nullptr;            // [1], set where a key found no room
};

}  // namespace recon
