// SPDX-License-Identifier: Apache-2.0
// A Gaussian that is split: two stand apart along its longest axis; offset² + shrunk² = 1 keeps the variance along it.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

constexpr float kSplitOffset = 0.8f;
constexpr float kLogSplitShrink = -0.51082562f;     // ln 0.6, along the longest axis
constexpr float kLogSplitOtherAxes = -0.10536052f;  // ln 0.9

// Moves `log_scale` to that of the halves and sets `offset` to what the first half is away from the parent's centre;
// the second lies opposite.  The quaternion is w x y z, of any length above 0.
template <class F>
RECON_FN void split_gaussian(const F* quat, F* log_scale, F* offset) {
    const int axis = log_scale[0] >= log_scale[1] ? (log_scale[0] >= log_scale[2] ? 0 : 2)
                                                  : (log_scale[1] >= log_scale[2] ? 1 : 2);
    const F length = exp_(log_scale[axis]) * F(kSplitOffset);
    const F s = F(1) / sqrt_(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]);
    const F w = quat[0] * s, x = quat[1] * s, y = quat[2] * s, z = quat[3] * s;
    // A column of the rotation.
    if (axis == 0) {
        offset[0] = F(1) - F(2) * (y * y + z * z), offset[1] = F(2) * (x * y + w * z), offset[2] = F(2) * (x * z - w * y);
    } else if (axis == 1) {
        offset[0] = F(2) * (x * y - w * z), offset[1] = F(1) - F(2) * (x * x + z * z), offset[2] = F(2) * (y * z + w * x);
    } else {
        offset[0] = F(2) * (x * z + w * y), offset[1] = F(2) * (y * z - w * x), offset[2] = F(1) - F(2) * (x * x + y * y);
    }
    for (int k = 0; k < 3; ++k) {
        offset[k] = offset[k] * length;
        log_scale[k] = log_scale[k] + F(k == axis ? kLogSplitShrink : kLogSplitOtherAxes);
    }
}

}  // namespace recon
