// SPDX-License-Identifier: Apache-2.0
// What the projection of N Gaussians into one camera reads and writes; see op.py for the meaning of each field.
// `T` is float for the SIMD scheduler and double for the scalar one that the tests differentiate numerically.
#pragma once
#include <cstdint>

namespace recon {

template <class T>
struct ProjectionParamsOf {
    // The Gaussians, as they are stored.
    const T* means = nullptr;           // [count, 3]
    const T* quats = nullptr;           // [count, 4] wxyz
    const T* log_scales = nullptr;      // [count, 3]
    const T* opacity_logits = nullptr;  // [count]
    const T* sh = nullptr;              // [count, sh_bases, 3]
    int64_t count = 0;
    int32_t sh_bases = 1;   // stored, 1 4 9 or 16
    int32_t sh_degree = 0;  // in use

    // The camera.
    const T* cam_from_world = nullptr;  // [4, 4], the top three rows are read
    double fx = 1, fy = 1, cx = 0, cy = 0, width = 1, height = 1;

    // Options.
    double near_plane = 0.01, far_plane = 1e10, blur_px2 = 0.3, alpha_cutoff = 1.0 / 255;
    int32_t antialiased = 0;

    // Forward: all written, zero in culled rows.
    T* means_px = nullptr;       // [count, 2]
    T* conics = nullptr;         // [count, 3]
    T* opacities = nullptr;      // [count]
    T* colors = nullptr;         // [count, 3]
    T* depths = nullptr;         // [count]
    uint8_t* visible = nullptr;  // [count]; the backward reads it

    // Backward: gradients of the outputs; nullptr counts as zero.
    const T* grad_means_px = nullptr;
    const T* grad_conics = nullptr;
    const T* grad_opacities = nullptr;
    const T* grad_colors = nullptr;
    const T* grad_depths = nullptr;

    // Backward: gradients of the inputs; nullptr is not written.
    T* grad_means = nullptr;
    T* grad_quats = nullptr;
    T* grad_log_scales = nullptr;
    T* grad_opacity_logits = nullptr;
    T* grad_sh = nullptr;
    double* grad_cam_from_world = nullptr;  // [4, 4], the last row is left alone
    int32_t zero_culled = 1;                // 0 may leave the gradients of culled rows unwritten
};

using ProjectionParams = ProjectionParamsOf<float>;
using ProjectionParamsDouble = ProjectionParamsOf<double>;

}  // namespace recon
