// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of the sparse Adam: a thread owns a row, of which it reads no more than the gradient where that is
// zero.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/table_adam/math.h"
#include "recon/kernels/table_adam/params.h"

using namespace recon;

namespace {

RECON_FN void update_number(const TableAdamParams& p, int64_t i, float gradient, float step_size, float scale2) {
    const AdamState<float> s{p.table[i], p.first_moment[i], p.second_moment[i]};
    const AdamState<float> n = adam_update_bounded(s, gradient, p.beta1, p.beta2, step_size, scale2, p.epsilon);
    p.table[i] = n.parameter, p.first_moment[i] = n.first_moment, p.second_moment[i] = n.second_moment;
}

RECON_FN bool is_touched(float gradient) { return usable_gradient(gradient) != 0.0f; }

// Not zero, NaN included.
RECON_FN bool is_to_clear(float gradient) { return !(gradient == 0.0f); }

RECON_FN void update_row(const TableAdamParams& p, int64_t first, float step_size, float scale2) {
    bool touched = false;
    for (int64_t i = first; i < first + p.width; ++i) touched = touched || is_touched(p.gradient[i]);
    for (int64_t i = first; i < first + p.width; ++i) {
        const float gradient = p.gradient[i];
        if (is_to_clear(gradient)) p.gradient[i] = 0.0f;
        if (touched) update_number(p, i, usable_gradient(gradient), step_size, scale2);
    }
}

// A row of four numbers in one access each.
RECON_FN void update_row_of_four(const TableAdamParams& p, int64_t first, float step_size, float scale2) {
    const Four given = load_four(p.gradient + first);
    const float gradient[4] = {given.x, given.y, given.z, given.w};
    bool touched = false, to_clear = false;
    for (int i = 0; i < 4; ++i) {
        touched = touched || is_touched(gradient[i]);
        to_clear = to_clear || is_to_clear(gradient[i]);
    }
    if (to_clear) store_four(p.gradient + first, Four{0.0f, 0.0f, 0.0f, 0.0f});
    if (!touched) return;
    const Four value = load_four(p.table + first), m = load_four(p.first_moment + first);
    const Four v = load_four(p.second_moment + first);
    AdamState<float> s[4] = {{value.x, m.x, v.x}, {value.y, m.y, v.y}, {value.z, m.z, v.z}, {value.w, m.w, v.w}};
    for (int i = 0; i < 4; ++i)
        s[i] = adam_update_bounded(s[i], usable_gradient(gradient[i]), p.beta1, p.beta2, step_size, scale2, p.epsilon);
    store_four(p.table + first, Four{s[0].parameter, s[1].parameter, s[2].parameter, s[3].parameter});
    store_four(p.first_moment + first,
               Four{s[0].first_moment, s[1].first_moment, s[2].first_moment, s[3].first_moment});
    store_four(p.second_moment + first,
               Four{s[0].second_moment, s[1].second_moment, s[2].second_moment, s[3].second_moment});
}

}  // namespace

RECON_KERNEL(table_adam_step, TableAdamParams, 256) {
    const int64_t row = global_thread();
    if (row >= p.rows) return;
    const float step_size = p.learning_rate / p.bias_correction1, scale2 = rsqrt_(p.bias_correction2);
    if (p.width == 4)
        update_row_of_four(p, row * 4, step_size, scale2);
    else
        update_row(p, row * p.width, step_size, scale2);
}
