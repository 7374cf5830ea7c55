// SPDX-License-Identifier: Apache-2.0
// A Gaussian per thread between memory and the projection's math: what the projection and the fused update share.
#pragma once
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/projection/math.h"
#include "recon/kernels/projection/params.h"
#include "recon/kernels/projection/spherical_harmonics.h"
#include "recon/kernels/projection/view.h"

namespace recon::projection {

RECON_FN Gaussian<float> load_gaussian(const ProjectionParams& p, int64_t i) {
    const float *m = p.means + 3 * i, *s = p.log_scales + 3 * i;
    const Four q = load_four(p.quats + 4 * i);
    return {{m[0], m[1], m[2]}, {q.x, q.y, q.z, q.w}, {s[0], s[1], s[2]}, p.opacity_logits[i]};
}

struct Direction {
    Vec3<float> unit;
    float inverse_length;
};
RECON_FN Direction direction_to(const View<float>& view, Vec3<float> mean) {
    const Vec3<float> d{mean.x - view.center.x, mean.y - view.center.y, mean.z - view.center.z};
    const float inverse = rsqrt_(dot(d, d));
    return {inverse * d, inverse};
}

struct PoseScratch {
    double of[4][kPoseSums];  // by warp
};
struct PoseTotals {
    double of[kPoseSums];
};

// Writes the sums over a block of up to four warps, all of whose threads call this; `g` and `by_direction` are zero
// where a thread has nothing to add.
RECON_FN void sum_pose(const GaussianGradient<float>& g, Vec3<float> by_direction, PoseScratch& scratch, double* out) {
    const Vec3<float> rows[5] = {g.rotation.row0, g.rotation.row1, g.rotation.row2, g.translation, by_direction};
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    for (int r = 0; r < 5; ++r) {
        const double x = warp_sum(static_cast<double>(rows[r].x)), y = warp_sum(static_cast<double>(rows[r].y));
        const double z = warp_sum(static_cast<double>(rows[r].z));
        double* to = scratch.of[warp_number()] + 3 * r;
        if (lane_number() == 0) to[0] = x, to[1] = y, to[2] = z;
    }
    __syncthreads();
    const int s = static_cast<int>(threadIdx.x);
    if (s >= kPoseSums) return;
    double total = 0;
    for (int warp = 0; warp < warps; ++warp) total += scratch.of[warp][s];
    out[s] = total;
}

}  // namespace recon::projection
