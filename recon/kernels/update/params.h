// SPDX-License-Identifier: Apache-2.0
// The backward pass of the projection joined to Adam; see op.py for the meaning of each field.
#pragma once
#include "recon/kernels/projection/params.h"

namespace recon {

// One trained tensor [count, ...] with its Adam moments, all three updated.
struct TrainedRows {
    float* value = nullptr;
    float* first_moment = nullptr;
    float* second_moment = nullptr;
    float rate = 0;  // learning rate; of the SH, that of the constant coefficient
};

struct UpdateParams {
    // The Gaussians, camera, options, colours and their gradients; `visible` is not read.
    ProjectionParams projection;
    const uint8_t* seen = nullptr;  // [count], 0 leaves the Gaussian as it is

    TrainedRows means;           // [count, 3]
    TrainedRows quats;           // [count, 4]
    TrainedRows log_scales;      // [count, 3]
    TrainedRows opacity_logits;  // [count]
    TrainedRows sh;              // [count, sh_bases, 3]
    float sh_detail_rate = 0;    // of the other coefficients; with 0 they and their moments stay as they are, and with
                                 // both 0 so do the constant ones
    int32_t view_gradient = 1;   // whether colours pull the means through the view directions

    float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-15f;
    float bias_correction1 = 1;  // 1 - beta1^step
    float bias_correction2 = 1;  // 1 - beta2^step
    float opacity_penalty = 0;   // times opacity (1 - opacity) is added to the logit's gradient
    float scale_penalty = 0;     // times the standard deviation is added to the log scales' gradients
};

}  // namespace recon
