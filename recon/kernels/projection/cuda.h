// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of the projection take.
#pragma once
#include "recon/kernels/projection/params.h"

namespace recon {

struct ProjectionLaunch {
    ProjectionParams projection;
    double* pose_partial = nullptr;  // [blocks, 15], scratch of the pose's gradient; nullptr where it is not wanted
    int64_t pose_blocks = 0;
};

}  // namespace recon
