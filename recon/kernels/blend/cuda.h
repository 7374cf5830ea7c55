// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of blending take.
#pragma once
#include <cstdint>

namespace recon {

struct BlendLaunch {
    const float* records = nullptr;     // [N, 8]
    const float* channels = nullptr;    // [N, D]
    const float* depths = nullptr;      // [N], read where median_depth is wanted
    const float* slopes = nullptr;      // [N, 2], change of a channel per pixel; nullptr for none
    const float* background = nullptr;  // [D]; nullptr leaves the picture premultiplied
    const int32_t* offsets = nullptr;   // [T + 1]
    const int32_t* ids = nullptr;       // [P], by tile and then by depth
    const int64_t* skip = nullptr;      // [1], not 0: the backward pass does nothing; nullptr for never
    int64_t count = 0;                  // N
    int32_t channel_count = 0;          // D
    int32_t first_channel = 0;          // of those that this launch blends
    int32_t used_channels = 0;          // how many
    int32_t slope_channel = -1;
    int32_t width = 0;
    int32_t height = 0;
    float log2_cutoff = -7.99435344f;
    // The picture.
    float* out_channels = nullptr;  // [H, W, D]
    float* out_alpha = nullptr;     // [H, W]
    float* median_depth = nullptr;  // [H, W]; nullptr where not wanted
    // Gradients.
    const float* grad_out_channels = nullptr;  // [H, W, D]
    const float* grad_out_alpha = nullptr;     // [H, W]; nullptr for none
    float* moments = nullptr;                  // [N, 12], zero before; see `Moment`
    float* grad_channels = nullptr;            // [N, D], zero before; not used by the launch for three channels
    int32_t statistics = 0;                    // whether they are wanted
    // From moments to gradients.
    const float* conics = nullptr;     // [N, 3]
    const float* opacities = nullptr;  // [N]
    const uint8_t* touched = nullptr;  // [N]
    float* grad_means_px = nullptr;    // [N, 2]
    float* grad_conics = nullptr;      // [N, 3]
    float* grad_opacities = nullptr;   // [N]
    float* grad_means_abs = nullptr;   // [N, 2]; nullptr where no statistics are wanted
    float* weight_sum = nullptr;       // [N]
    float* weight_max = nullptr;       // [N]
};

}  // namespace recon
