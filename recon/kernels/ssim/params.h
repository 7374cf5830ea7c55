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
    const uint8_t* mask = nullptr;          // [height, width]; 255 = 1.0, see mask_is_alpha; nullptr is all 255
    const float* background = nullptr;      // [channels]; with mask_is_alpha
    float* gradient = nullptr;              // [height, width, channels], written; nullptr computes the value alone
    float* workspace = nullptr;             // ssim_workspace_floats() numbers
    double* row_sums = nullptr;             // [height, 3]: weights, weighted SSIM, weighted |image - target|; written
    int64_t height = 0;
    int64_t width = 0;
    int64_t channels = 0;
    bool mask_is_alpha = false;  // the target is background + mask (target - background); else the mask weighs
    float l1_weight = 0;         // what the mean |image - target| counts in the loss
    float ssim_weight = 0;       // what 1 - mean SSIM counts
};

}  // namespace recon
