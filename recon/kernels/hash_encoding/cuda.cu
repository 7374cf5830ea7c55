// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of the multiresolution hash encoding.
//
// Forward and gradient by the table: a thread owns a position on one level; neighbouring threads have the levels of one
// position, so that what they write or read of it lies together.  The additions to the table are atomic.  Gradient by
// the positions: a thread owns a position on all levels.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/hash_encoding/math.h"
#include "recon/kernels/hash_encoding/params.h"

using namespace recon;

namespace {

// The row of each corner, and the position in the cell.
struct DeviceCell {
    uint32_t rows[8];
    float x, y, z;
};

RECON_FN DeviceCell find_cell(const HashEncodingParams& p, int64_t sample, int level) {
    const float resolution = static_cast<float>(p.resolutions[level]);
    const bool dense = (p.dense_levels >> level & 1u) != 0;
    const uint32_t side = static_cast<uint32_t>(p.resolutions[level]) + 2u;
    const uint32_t factors[3] = {1u, dense ? side : kHashFactorY, dense ? side * side : kHashFactorZ};
    uint32_t lower[3];
    float above[3];
    for (int axis = 0; axis < 3; ++axis) {
        const float x = bounded_to_unit(p.positions[3 * sample + axis]);
        const auto cell = static_cast<uint32_t>(among_cells(x, resolution));
        above[axis] = above_cell(x, resolution, static_cast<float>(cell));
        lower[axis] = cell * factors[axis];
    }
    DeviceCell found;
    found.x = above[0], found.y = above[1], found.z = above[2];
    const auto first = static_cast<uint32_t>(p.first_rows[level]), mask = static_cast<uint32_t>(p.entries) - 1u;
    for (int corner = 0; corner < 8; ++corner) {
        const uint32_t x = lower[0] + static_cast<uint32_t>(corner & 1);
        const uint32_t y = lower[1] + (corner & 2 ? factors[1] : 0u), z = lower[2] + (corner & 4 ? factors[2] : 0u);
        const uint32_t row = dense ? join_axes<true>(join_axes<true>(x, y), z)
                                   : join_axes<false>(join_axes<false>(x, y), z) & mask;
        found.rows[corner] = first + row;
    }
    return found;
}

RECON_FN float corner_weight(const DeviceCell& cell, int corner) {
    return axis_weight(cell.y, (corner & 2) != 0) * axis_weight(cell.z, (corner & 4) != 0) *
           axis_weight(cell.x, (corner & 1) != 0);
}

// A row of numbers; those of a width of four or eight lie on addresses that one access may take.
template <int Features>
struct DeviceRow {
    float at[Features];
};
template <int Features>
RECON_FN DeviceRow<Features> load_row(const float* p) {
    DeviceRow<Features> row;
    if constexpr (Features % 4 == 0) {
        for (int i = 0; i < Features; i += 4) {
            const Four four = load_four(p + i);
            row.at[i] = four.x, row.at[i + 1] = four.y, row.at[i + 2] = four.z, row.at[i + 3] = four.w;
        }
    } else {
        for (int i = 0; i < Features; ++i) row.at[i] = p[i];
    }
    return row;
}
template <int Features>
RECON_FN void store_row(float* p, const DeviceRow<Features>& row) {
    if constexpr (Features % 4 == 0) {
        for (int i = 0; i < Features; i += 4)
            store_four(p + i, Four{row.at[i], row.at[i + 1], row.at[i + 2], row.at[i + 3]});
    } else {
        for (int i = 0; i < Features; ++i) p[i] = row.at[i];
    }
}

template <int Features>
RECON_FN void encode(const HashEncodingParams& p, int64_t sample, int level) {
    const DeviceCell cell = find_cell(p, sample, level);
    DeviceRow<Features> sum = {};
    for (int corner = 0; corner < 8; ++corner) {
        const float weight = corner_weight(cell, corner);
        const auto row = load_row<Features>(p.table + static_cast<int64_t>(cell.rows[corner]) * Features);
        for (int i = 0; i < Features; ++i) sum.at[i] = fma_(weight, row.at[i], sum.at[i]);
    }
    store_row<Features>(p.encoded + (sample * p.levels + level) * Features, sum);
}

template <int Features>
RECON_FN void scatter(const HashEncodingParams& p, int64_t sample, int level) {
    const DeviceCell cell = find_cell(p, sample, level);
    const auto by_encoded = load_row<Features>(p.gradient + (sample * p.levels + level) * Features);
    for (int corner = 0; corner < 8; ++corner) {
        const float weight = corner_weight(cell, corner);
        float* row = p.table_gradient + static_cast<int64_t>(cell.rows[corner]) * Features;
#if !defined(RECON_EMULATED) && __CUDA_ARCH__ >= 900
        if constexpr (Features % 4 == 0) {
            for (int i = 0; i < Features; i += 4)
                asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(row + i),
                             "f"(weight * by_encoded.at[i]), "f"(weight * by_encoded.at[i + 1]),
                             "f"(weight * by_encoded.at[i + 2]), "f"(weight * by_encoded.at[i + 3])
                             : "memory");
            continue;
        }
#endif
        for (int i = 0; i < Features; ++i) atomicAdd(row + i, weight * by_encoded.at[i]);
    }
}

template <int Features>
RECON_FN void differentiate(const HashEncodingParams& p, int64_t sample) {
    float by[3] = {};
    for (int level = 0; level < p.levels; ++level) {
        const DeviceCell cell = find_cell(p, sample, level);
        const float* by_encoded = p.gradient + (sample * p.levels + level) * Features;
        const float resolution = static_cast<float>(p.resolutions[level]);
        for (int i = 0; i < Features; ++i) {
            float corners[8];
            for (int corner = 0; corner < 8; ++corner)
                corners[corner] = p.table[static_cast<int64_t>(cell.rows[corner]) * Features + i];
            const AxisDerivatives<float> along = trilinear_derivatives(corners, cell.x, cell.y, cell.z);
            const float scale = resolution * by_encoded[i];
            by[0] = fma_(scale, along.x, by[0]);
            by[1] = fma_(scale, along.y, by[1]);
            by[2] = fma_(scale, along.z, by[2]);
        }
    }
    for (int axis = 0; axis < 3; ++axis) {
        const float x = p.positions[3 * sample + axis];
        // Where a position was moved to the border it does not matter how far.
        p.position_gradient[3 * sample + axis] = x >= 0.0f && x <= 1.0f ? by[axis] : 0.0f;
    }
}

}  // namespace

RECON_KERNEL(hash_encode, HashEncodingParams, 256) {
    const int64_t i = global_thread();
    if (i >= p.samples * p.levels) return;
    const int64_t sample = i / p.levels;
    const int level = static_cast<int>(i - sample * p.levels);
    switch (p.features) {
        case 1: return encode<1>(p, sample, level);
        case 2: return encode<2>(p, sample, level);
        case 4: return encode<4>(p, sample, level);
        default: return encode<8>(p, sample, level);
    }
}

RECON_KERNEL(hash_encode_by_table, HashEncodingParams, 256) {
    const int64_t i = global_thread();
    if (i >= p.samples * p.levels) return;
    const int64_t sample = i / p.levels;
    const int level = static_cast<int>(i - sample * p.levels);
    switch (p.features) {
        case 1: return scatter<1>(p, sample, level);
        case 2: return scatter<2>(p, sample, level);
        case 4: return scatter<4>(p, sample, level);
        default: return scatter<8>(p, sample, level);
    }
}

RECON_KERNEL(hash_encode_by_positions, HashEncodingParams, 128) {
    const int64_t sample = global_thread();
    if (sample >= p.samples) return;
    switch (p.features) {
        case 1: return differentiate<1>(p, sample);
        case 2: return differentiate<2>(p, sample);
        case 4: return differentiate<4>(p, sample);
        default: return differentiate<8>(p, sample);
    }
}
