// SPDX-License-Identifier: Apache-2.0
// Front to back blending and its gradient; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

struct BlendParams {
    // The scene, N Gaussians.
    const float* means_px = nullptr;   // [N, 2]
    const float* conics = nullptr;     // [N, 3]
    const float* opacities = nullptr;  // [N]
    const float* channels = nullptr;   // [N, D]
    const float* depths = nullptr;     // [N], read where median_depth is wanted
    const float* slopes = nullptr;     // [N, 2], change of a channel per pixel; nullptr for none
    const float* background = nullptr; // [D] behind the picture; nullptr leaves it premultiplied
    // Tile lists, T tiles and P pairs.
    const int32_t* offsets = nullptr;      // [T + 1]
    const int32_t* entries = nullptr;      // [P, 2] of (Gaussian, pair)
    const int32_t* pair_starts = nullptr;  // [N + 1]
    // The picture.  The forward pass writes these, the backward pass reads channels and alpha.
    float* out_channels = nullptr;  // [H, W, D], premultiplied
    float* out_alpha = nullptr;     // [H, W]
    float* median_depth = nullptr;  // [H, W]; nullptr where not wanted
    float* records = nullptr;       // [N, record_stride], scratch that the backward pass reuses
    int32_t* processed = nullptr;   // [T], entries of each list read before its pixels were opaque
    int64_t* counts = nullptr;      // [T, 2] of pairs evaluated and blended; nullptr where nobody counts
    // Gradients coming in.
    const float* grad_out_channels = nullptr;  // [H, W, D]
    const float* grad_out_alpha = nullptr;     // [H, W]; nullptr for none
    // Gradients going out; rows of Gaussians without a pair are 0 or left alone.
    float* pair_gradients = nullptr;    // [P, pair_stride], scratch with room for 16 numbers more
    float* grad_means_px = nullptr;     // [N, 2]
    float* grad_conics = nullptr;       // [N, 3]
    float* grad_opacities = nullptr;    // [N]
    float* grad_channels = nullptr;     // [N, D]
    float* grad_means_abs = nullptr;    // [N, 2]; this and the next two are nullptr where no statistics are wanted
    float* weight_sum = nullptr;        // [N]
    float* weight_max = nullptr;        // [N]
    // Density statistics, added to in place; all or none.
    float* gradient_sum = nullptr;      // [N] += length of what grad_means_abs would be
    float* seen = nullptr;              // [N] += 1
    float* most_weight = nullptr;       // [N] = max with what weight_max would be

    int64_t count = 0;  // N
    int32_t channel_count = 0;  // D
    int32_t slope_channel = -1;  // the channel that the slopes tilt
    int32_t record_stride = 0;
    int32_t pair_stride = 0;
    int32_t width = 0;
    int32_t height = 0;
    float log2_cutoff = -7.99435344f;  // of alpha
};

}  // namespace recon
