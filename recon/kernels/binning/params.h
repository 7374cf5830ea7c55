// SPDX-License-Identifier: Apache-2.0
// Which tiles each Gaussian touches; see op.py for the meaning of each field.
#pragma once
#include <cstdint>

namespace recon {

constexpr int kTileSize = 16;

struct BinParams {
    const float* means_px = nullptr;    // [count, 2]
    const float* conics = nullptr;      // [count, 3]
    const float* opacities = nullptr;   // [count]
    const float* depths = nullptr;      // [count]
    const uint8_t* visible = nullptr;   // [count]
    int32_t* pair_starts = nullptr;     // [count + 1], written by bin_count
    uint8_t* touched = nullptr;         // [count], written by bin_count
    int32_t* offsets = nullptr;         // [tiles + 1], written by bin_fill
    int32_t* entries = nullptr;         // [pairs, 2] of (Gaussian, pair), written by bin_fill
    int64_t count = 0;                  // Gaussians
    int64_t max_pairs = 0;              // bin_count gives up above this many
    int32_t width = 0;                  // pixels
    int32_t height = 0;                 // pixels
    float alpha_cutoff = 1.0f / 255.0f;
};

}  // namespace recon
