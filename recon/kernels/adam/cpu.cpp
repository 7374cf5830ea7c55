// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of Adam: a thread owns a block of rows; within a row, SIMD runs over the row's numbers, and for
// narrow rows (width below a pack) over the whole block, which is contiguous when every row of it is visible.
#include <cmath>

#include "recon/kernels/adam/math.h"
#include "recon/kernels/adam/params.h"
#include "recon/kernels/common/binding.h"

namespace recon {
namespace {

constexpr int64_t kRowsPerBlock = 1024;

struct Constants {
    float step_size, scale2;
};

void update_span(const AdamParams& p, const Constants& c, int64_t begin, int64_t end) {
    const Pack beta1(p.beta1), beta2(p.beta2), step(c.step_size), scale2(c.scale2), epsilon(p.epsilon);
    const float* scale = p.column_scale;
    int64_t column = scale == nullptr ? 0 : begin % p.width;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
        Pack rate = step;
        if (scale != nullptr) {
            rate = step * load(scale + column);
            column = (column + kLanes) % p.width;
        }
        AdamState<Pack> s{load(p.parameter + i), load(p.first_moment + i), load(p.second_moment + i)};
        s = adam_update(s, load(p.gradient + i), beta1, beta2, rate, scale2, epsilon);
        store(p.parameter + i, s.parameter);
        store(p.first_moment + i, s.first_moment);
        store(p.second_moment + i, s.second_moment);
    }
    if (i < end) {
        const Mask m = first_lanes(static_cast<int>(end - i));
        const Pack rate = scale == nullptr ? step : step * load(scale + column);
        AdamState<Pack> s{load_masked(p.parameter + i, m), load_masked(p.first_moment + i, m),
                          load_masked(p.second_moment + i, m)};
        s = adam_update(s, load_masked(p.gradient + i, m), beta1, beta2, rate, scale2, epsilon);
        store_masked(p.parameter + i, s.parameter, m);
        store_masked(p.first_moment + i, s.first_moment, m);
        store_masked(p.second_moment + i, s.second_moment, m);
    }
}

void adam_step(const AdamParams& p) {
    const Constants c{p.learning_rate / p.bias_correction1, 1.0f / std::sqrt(p.bias_correction2)};
    const int64_t blocks = (p.rows + kRowsPerBlock - 1) / kRowsPerBlock;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * kRowsPerBlock;
        const int64_t last = first + kRowsPerBlock < p.rows ? first + kRowsPerBlock : p.rows;
        if (p.visible == nullptr) {
            update_span(p, c, first * p.width, last * p.width);
            continue;
        }
        // Runs of visible rows are updated as one span.
        for (int64_t row = first; row < last;) {
            if (!p.visible[row]) {
                ++row;
                continue;
            }
            int64_t stop = row + 1;
            while (stop < last && p.visible[stop]) ++stop;
            update_span(p, c, row * p.width, stop * p.width);
            row = stop;
        }
    }
}

}  // namespace

void bind_adam(nb::module_& m) {
    auto c = nb::class_<AdamParams>(m, "AdamParams").def(nb::init<>());
    RECON_BIND_POINTER(c, AdamParams, parameter);
    RECON_BIND_POINTER(c, AdamParams, gradient);
    RECON_BIND_POINTER(c, AdamParams, first_moment);
    RECON_BIND_POINTER(c, AdamParams, second_moment);
    RECON_BIND_POINTER(c, AdamParams, visible);
    RECON_BIND_POINTER(c, AdamParams, column_scale);
    RECON_BIND_VALUE(c, AdamParams, rows);
    RECON_BIND_VALUE(c, AdamParams, width);
    RECON_BIND_VALUE(c, AdamParams, learning_rate);
    RECON_BIND_VALUE(c, AdamParams, beta1);
    RECON_BIND_VALUE(c, AdamParams, beta2);
    RECON_BIND_VALUE(c, AdamParams, epsilon);
    RECON_BIND_VALUE(c, AdamParams, bias_correction1);
    RECON_BIND_VALUE(c, AdamParams, bias_correction2);
    m.def("adam_step", &adam_step, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
