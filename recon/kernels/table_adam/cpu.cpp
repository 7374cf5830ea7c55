// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the sparse Adam: a thread owns a run of rows, and a pack holds a few rows or a part of one.  Only
// the gradient is read where it is zero; most of the time goes into memory.
#include <cmath>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/table_adam/math.h"
#include "recon/kernels/table_adam/params.h"

namespace recon {
namespace {

constexpr int64_t kNumbersPerBlock = 16384;

struct Constants {
    Pack beta1, beta2, step_size, scale2, epsilon;
};

// The lane whose number differs in the bits of `Step`.
template <int Step>
struct Neighbour {
    static constexpr int of(int lane) { return lane ^ Step; }
};

// The greatest of each row's lanes, in all of them; a row has `Width` lanes, a power of two, or more than a pack.
template <int64_t Width>
RECON_FN Pack greatest_of_row(Pack a) {
    if constexpr (Width > 1) a = fmax_(a, shuffle<Neighbour<1>>(a, a));
    if constexpr (Width > 2) a = fmax_(a, shuffle<Neighbour<2>>(a, a));
    if constexpr (Width > 4 && kLanes > 4) a = fmax_(a, shuffle<Neighbour<4>>(a, a));
    return a;
}

RECON_FN void update(const TableAdamParams& p, const Constants& c, int64_t at, Pack gradient, Mask rows) {
    AdamState<Pack> s{load(p.table + at), load(p.first_moment + at), load(p.second_moment + at)};
    s = adam_update_bounded(s, gradient, c.beta1, c.beta2, c.step_size, c.scale2, c.epsilon);
    if (all(rows)) {
        store(p.table + at, s.parameter);
        store(p.first_moment + at, s.first_moment);
        store(p.second_moment + at, s.second_moment);
    } else {
        store_masked(p.table + at, s.parameter, rows);
        store_masked(p.first_moment + at, s.first_moment, rows);
        store_masked(p.second_moment + at, s.second_moment, rows);
    }
}

// Numbers [begin, end), whole rows whose width divides a pack, or is divided by it.
template <int64_t Width>
void update_packs(const TableAdamParams& p, const Constants& c, int64_t begin, int64_t end) {
    constexpr int64_t kSpan = Width > kLanes ? Width : kLanes;
    for (int64_t i = begin; i < end; i += kSpan) {
        Pack greatest(0.0f);
        bool cleared = true;
        for (int64_t k = 0; k < kSpan; k += kLanes) {
            const Pack given = load(p.gradient + i + k);
            greatest = fmax_(greatest, abs_(usable_gradient(given)));
            // What is not usable must go as well.
            cleared = cleared && all(abs_(given) <= Pack(0.0f));
        }
        if (cleared) continue;
        const Mask rows = greatest_of_row<Width>(greatest) > Pack(0.0f);
        const bool touched = any(rows);
        for (int64_t k = 0; k < kSpan; k += kLanes) {
            const Pack gradient = usable_gradient(load(p.gradient + i + k));
            store(p.gradient + i + k, Pack(0.0f));
            if (touched) update(p, c, i + k, gradient, rows);
        }
    }
}

// Any width, and the rest behind whole packs.
void update_rows(const TableAdamParams& p, const Constants& c, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        bool touched = false;
        for (int64_t i = row * p.width; i < (row + 1) * p.width; ++i)
            touched = touched || usable_gradient(p.gradient[i]) != 0.0f;
        for (int64_t i = row * p.width; i < (row + 1) * p.width; i += kLanes) {
            const int64_t left = (row + 1) * p.width - i;
            const Mask m = first_lanes(static_cast<int>(left < kLanes ? left : kLanes));
            const Pack gradient = usable_gradient(load_masked(p.gradient + i, m));
            store_masked(p.gradient + i, Pack(0.0f), m);
            if (!touched) continue;
            AdamState<Pack> s{load_masked(p.table + i, m), load_masked(p.first_moment + i, m),
                              load_masked(p.second_moment + i, m)};
            s = adam_update_bounded(s, gradient, c.beta1, c.beta2, c.step_size, c.scale2, c.epsilon);
            store_masked(p.table + i, s.parameter, m);
            store_masked(p.first_moment + i, s.first_moment, m);
            store_masked(p.second_moment + i, s.second_moment, m);
        }
    }
}

template <int64_t Width>
void update_block(const TableAdamParams& p, const Constants& c, int64_t first, int64_t last) {
    constexpr int64_t kRows = Width > kLanes ? 1 : kLanes / Width;
    const int64_t whole = first + (last - first) / kRows * kRows;
    update_packs<Width>(p, c, first * Width, whole * Width);
    update_rows(p, c, whole, last);
}

void table_adam_step(const TableAdamParams& p) {
    const Constants c{Pack(p.beta1), Pack(p.beta2), Pack(p.learning_rate / p.bias_correction1),
                      Pack(1.0f / std::sqrt(p.bias_correction2)), Pack(p.epsilon)};
    const int64_t most = kNumbersPerBlock / (p.width > 0 ? p.width : 1);
    const int64_t per_block = most > kLanes ? most / kLanes * kLanes : kLanes;
    const int64_t blocks = (p.rows + per_block - 1) / per_block;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * per_block;
        const int64_t last = first + per_block < p.rows ? first + per_block : p.rows;
        switch (p.width) {
            case 1: update_block<1>(p, c, first, last); break;
            case 2: update_block<2>(p, c, first, last); break;
            case 4: update_block<4>(p, c, first, last); break;
            case 8: update_block<8>(p, c, first, last); break;
            default: update_rows(p, c, first, last);
        }
    }
}

}  // namespace

void bind_table_adam(nb::module_& m) {
    auto c = nb::class_<TableAdamParams>(m, "TableAdamParams").def(nb::init<>());
    RECON_BIND_POINTER(c, TableAdamParams, table);
    RECON_BIND_POINTER(c, TableAdamParams, gradient);
    RECON_BIND_POINTER(c, TableAdamParams, first_moment);
    RECON_BIND_POINTER(c, TableAdamParams, second_moment);
    RECON_BIND_VALUE(c, TableAdamParams, rows);
    RECON_BIND_VALUE(c, TableAdamParams, width);
    RECON_BIND_VALUE(c, TableAdamParams, learning_rate);
    RECON_BIND_VALUE(c, TableAdamParams, beta1);
    RECON_BIND_VALUE(c, TableAdamParams, beta2);
    RECON_BIND_VALUE(c, TableAdamParams, epsilon);
    RECON_BIND_VALUE(c, TableAdamParams, bias_correction1);
    RECON_BIND_VALUE(c, TableAdamParams, bias_correction2);
    m.def("table_adam_step", &table_adam_step, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
