// SPDX-License-Identifier: Apache-2.0
// The photometric loss of one picture; see op.py for the meaning.
#pragma once
#include <cstdint>

namespace recon {

struct SsimParams {
    const float* image = nullptr;           // [height, width, channels]
    const float* target = nullptr;          // [height, width, channels], or
    const uint8_t* target_bytes = nullptr;  // the same as bytes, 255 = 1.0
    const float* weight = nullptr;          // [height, width]; nullptr weighs all pixels 1
    float* gradient = nullptr;              // [height, width, channels], written; nullptr computes the value alone
    float* workspace = nullptr;             // ssim_workspace_floats() numbers
    double* row_sums = nullptr;             // [height, 2]: weighted sums of SSIM and of |image - target|, written
    int64_t height = 0;
    int64_t width = 0;
    int64_t channels = 0;
    float l1_scale = 0;    // gradient of the loss to a pixel-channel's |image - target|, before the pixel's weight
    float ssim_scale = 0;  // gradient of the loss to a pixel-channel's SSIM, before the pixel's weight
};

}  // namespace recon
