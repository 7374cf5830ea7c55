// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of Adam: a thread owns a number.
#include "recon/kernels/adam/math.h"
#include "recon/kernels/adam/params.h"
#include "recon/kernels/cuda/device.h"

using namespace recon;

RECON_KERNEL(adam_step, AdamParams, 256) {
    const int64_t i = global_thread();
    if (i >= p.rows * p.width || (p.visible != nullptr && p.visible[i / p.width] == 0)) return;
    const float scale = p.column_scale == nullptr ? 1.0f : p.column_scale[i % p.width];
    const AdamState<float> s{p.parameter[i], p.first_moment[i], p.second_moment[i]};
    const AdamState<float> n = adam_update(s, p.gradient[i], p.beta1, p.beta2,
                                           scale * p.learning_rate / p.bias_correction1,
                                           rsqrt_(p.bias_correction2), p.epsilon);
    p.parameter[i] = n.parameter, p.first_moment[i] = n.first_moment, p.second_moment[i] = n.second_moment;
}
