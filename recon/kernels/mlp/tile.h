// SPDX-License-Identifier: Apache-2.0
// Matrix products by tiles that stay in registers: a tile has a few rows by a few packs of columns.  In each step every
// row's factor is spread over a pack, and every pack of the other matrix is read once for all rows.
//
// The tile is as large as the registers allow: 24 sums of 32 registers with AVX-512, 12 of 16 elsewhere, which is more
// than two multipliers with a latency of four or five need to be busy.
#pragma once
#include <type_traits>

#include "recon/kernels/common/simd.h"

namespace recon {

constexpr int kMostPacks = kLanes == 16 ? 4 : 2;  // packs of columns in a tile

// Rows of a tile with so many packs, where rows are samples.
template <int Packs>
constexpr int kTileRows = Packs == 4 ? 6 : Packs == 3 ? 8 : Packs == 2 && kLanes == 16 ? 12 : Packs == 1 ? 12 : 6;

// sums[r][p] += Σ_k a[r · a_row + k · a_step] · b[k · b_step + p · kLanes ..]
template <int Rows, int Packs>
RECON_FN void multiply_add(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t count,
                           Pack (&sums)[Rows][Packs]) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < count; ++k) {
        Pack columns[Packs];
#pragma GCC unroll 4
        for (int p = 0; p < Packs; ++p) columns[p] = load(b + p * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Pack factor(a[r * a_row]);
#pragma GCC unroll 4
            for (int p = 0; p < Packs; ++p) sums[r][p] = fma_(factor, columns[p], sums[r][p]);
        }
        a += a_step;
        b += b_step;
    }
}

// Rows of numbers, `stride` apart.
struct Rows {
    const float* numbers;
    int64_t stride, width;
};

// A · B for `count` rows of A, a multiple of 24.  `Ends` says what each sum starts with, `start(row, column)`, and what
// becomes of it, `finish(row, column, sum)`.
template <int Packs, class Ends>
inline void multiply_columns(const Rows& a, const float* b, int64_t b_width, int64_t count, int64_t column,
                             const Ends& ends) {
    constexpr int kRows = kTileRows<Packs>;
    for (int64_t row = 0; row < count; row += kRows) {
        Pack sums[kRows][Packs];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
            for (int p = 0; p < Packs; ++p) sums[r][p] = ends.start(row + r, column + p * kLanes);
        multiply_add<kRows, Packs>(a.numbers + row * a.stride, a.stride, 1, b + column, b_width, a.width, sums);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
            for (int p = 0; p < Packs; ++p) ends.finish(row + r, column + p * kLanes, sums[r][p]);
    }
}
template <class Ends>
inline void multiply(const Rows& a, const float* b, int64_t b_width, int64_t count, const Ends& ends) {
    int64_t column = 0;
    for (; column + kMostPacks * kLanes <= b_width; column += kMostPacks * kLanes)
        multiply_columns<kMostPacks>(a, b, b_width, count, column, ends);
    if constexpr (kLanes == 16) {
        const int64_t packs = (b_width - column) / kLanes;
        if (packs == 3) multiply_columns<3>(a, b, b_width, count, column, ends);
        if (packs == 2) multiply_columns<2>(a, b, b_width, count, column, ends);
        if (packs == 1) multiply_columns<1>(a, b, b_width, count, column, ends);
    }
}

// `Sums` rows of C += Aᵀ · B, from the columns of A and B on that are given.
template <int Sums, int Packs>
RECON_FN void add_outer_tile(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t count,
                             float* c, int64_t c_width) {
    Pack sums[Sums][Packs];
#pragma GCC unroll 16
    for (int r = 0; r < Sums; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < Packs; ++p) sums[r][p] = load(c + r * c_width + p * kLanes);
    multiply_add<Sums, Packs>(a, 1, a_stride, b, b_stride, count, sums);
#pragma GCC unroll 16
    for (int r = 0; r < Sums; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < Packs; ++p) store(c + r * c_width + p * kLanes, sums[r][p]);
}
template <int Packs>
inline void add_outer_columns(const Rows& a, const Rows& b, int64_t count, int64_t column, float* c) {
    constexpr int kRows = kTileRows<Packs>;
    int64_t row = 0;
    for (; row + kRows <= a.width; row += kRows)
        add_outer_tile<kRows, Packs>(a.numbers + row, a.stride, b.numbers + column, b.stride, count,
                                     c + row * b.width + column, b.width);
    const auto rest = [&](auto rows) {
        add_outer_tile<rows.value, Packs>(a.numbers + row, a.stride, b.numbers + column, b.stride, count,
                                          c + row * b.width + column, b.width);
        row += rows.value;
    };
    while (row + 4 <= a.width) rest(std::integral_constant<int, 4>{});
    if (row + 3 == a.width) rest(std::integral_constant<int, 3>{});
    if (row + 2 == a.width) rest(std::integral_constant<int, 2>{});
    if (row + 1 == a.width) rest(std::integral_constant<int, 1>{});
}
// C [a.width, b.width] += Aᵀ · B, where A and B have `count` rows; A may have any width.
inline void add_outer(const Rows& a, const Rows& b, int64_t count, float* c) {
    int64_t column = 0;
    for (; column + kMostPacks * kLanes <= b.width; column += kMostPacks * kLanes)
        add_outer_columns<kMostPacks>(a, b, count, column, c);
    if constexpr (kLanes == 16) {
        const int64_t packs = (b.width - column) / kLanes;
        if (packs == 3) add_outer_columns<3>(a, b, count, column, c);
        if (packs == 2) add_outer_columns<2>(a, b, count, column, c);
        if (packs == 1) add_outer_columns<1>(a, b, count, column, c);
    }
}

}  // namespace recon
