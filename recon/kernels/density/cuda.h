// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of density control take.
#pragma once
#include "recon/kernels/update/params.h"

namespace recon {

// What density control counts, by place; the host reads them once, before the rows are moved.
enum DensityCounter { kAnyWeight, kKeptRows, kCandidates, kLeft, kThreshold, kTies, kTotalRows, kDensityCounters };

struct DensityLaunch {
    // N Gaussians and what was gathered of them.
    const float* means = nullptr;           // [N, 3]
    const float* log_scales = nullptr;      // [N, 3]
    const float* opacity_logits = nullptr;  // [N]
    const float* gradient_sum = nullptr;    // [N]
    const float* seen = nullptr;            // [N]
    const float* most_weight = nullptr;     // [N]
    int64_t count = 0;                      // N
    // The rules.
    float least_opacity = 0;
    float most_log_scale = 0;
    float least_weight = 0;
    int64_t budget = 0;  // rows that there may be afterwards
    // What is found.
    float* scores = nullptr;         // [N]; below 0 for a row that goes, 0 for one that stays as it is
    uint8_t* copies = nullptr;       // [N], 0, 1 or 2
    int64_t* starts = nullptr;       // [N], where the first copy comes to stand
    int64_t* block_sums = nullptr;   // [blocks of 256]
    uint32_t* histogram = nullptr;   // [256], zero before the first pass, and after each
    int64_t* counters = nullptr;     // [8], zero before
    int32_t digit = 0;               // which byte of the scores is looked at, from 3 down to 0
};

struct SplitLaunch {
    TrainedRows means, quats, log_scales, opacity_logits, sh;
    int64_t count = 0;                // rows before they were moved
    int64_t sh_floats = 0;            // of a row
    const uint8_t* copies = nullptr;  // [count]
    const int64_t* starts = nullptr;  // [count]
};

}  // namespace recon
