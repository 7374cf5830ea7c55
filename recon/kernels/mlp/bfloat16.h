// SPDX-License-Identifier: Apache-2.0
// The layers of a block of samples with the factors of all products rounded to bfloat16 and the sums in float32, by
// AVX512-BF16.  Its product takes pairs of factors, so the numbers of a layer are kept twice: by rows, whose neighbours
// are the pairs of the next product, and with those of two samples side by side, which are the pairs of the sum over
// the samples.
//
// The instruction set is chosen by CPUID: only the functions marked RECON_BFLOAT16_FN use it, in a module that is
// compiled without it.  AMD's processors (since Zen 4) start its products as often as those of float32, which are half
// as many; Intel's Emerald Rapids starts a quarter as many, 0.08 against 0.16 TFLOP/s and core as measured, and is left
// with float32.
#pragma once
#include <cstring>

#include "recon/kernels/mlp/block.h"

#if RECON_AVX512 && defined(__GNUC__)
#define RECON_BFLOAT16 1
#endif

namespace recon {
namespace {

#if RECON_BFLOAT16

bool has_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
bool bfloat16_is_faster() { return has_bfloat16() && __builtin_cpu_is("amd"); }

#define RECON_BFLOAT16_FN __attribute__((target("avx512bf16")))
#define RECON_BFLOAT16_INLINE inline __attribute__((always_inline, target("avx512bf16")))

using Half = uint16_t;  // the upper half of a float

// A layer of a block.
struct HalfRows {
    Half* rows;   // [samples, width]
    Half* pairs;  // [samples / 2, width, 2]
    int64_t width;
};

RECON_FN Pack widened(const Half* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return Pack(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)));
}
RECON_FN __m512i side_by_side(__m512i two_rows) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, two_rows);
}
RECON_BFLOAT16_INLINE __m512i rounded(Pack first, Pack second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
}
// Two neighbouring rows of a layer, of which the first has an even number.
RECON_BFLOAT16_INLINE void store_two(const HalfRows& to, int64_t row, int64_t column, Pack first, Pack second) {
    const __m512i both = rounded(first, second);
    Half* rows = to.rows + row * to.width + column;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows), _mm512_castsi512_si256(both));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + to.width), _mm512_extracti64x4_epi64(both, 1));
    _mm512_storeu_si512(to.pairs + row * to.width + 2 * column, side_by_side(both));
}
// A matrix [rows, columns] becomes [rows / 2, columns, 2].
RECON_BFLOAT16_FN inline void pair_rows(const float* from, int64_t rows, int64_t columns, Half* to) {
    for (int64_t row = 0; row < rows; row += 2)
        for (int64_t column = 0; column < columns; column += kLanes) {
            const float* at = from + row * columns + column;
            _mm512_storeu_si512(to + row * columns + 2 * column, side_by_side(rounded(load(at), load(at + columns))));
        }
}

// As `multiply_add`, where each factor is a pair and `count` counts pairs.
template <int Rows, int Packs>
RECON_BFLOAT16_INLINE void multiply_add_pairs(const Half* a, int64_t a_row, int64_t a_step, const Half* b,
                                              int64_t b_step, int64_t count, Pack (&sums)[Rows][Packs]) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < count; ++k) {
        __m512i columns[Packs];
#pragma GCC unroll 4
        for (int p = 0; p < Packs; ++p) columns[p] = _mm512_loadu_si512(b + 2 * p * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            int32_t pair;
            std::memcpy(&pair, a + r * a_row, sizeof pair);
            const __m512i factor = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int p = 0; p < Packs; ++p)
                sums[r][p] = _mm512_dpbf16_ps(sums[r][p].v, (__m512bh)factor, (__m512bh)columns[p]);
        }
        a += a_step;
        b += b_step;
    }
}

// As `multiply`: `Ends` has start(row, column) and finish(row, column, first, second) of two rows.  `b` is paired, and
// the first `width` columns of `a` count.
template <int Packs, class Ends>
RECON_BFLOAT16_FN void multiply_pairs_columns(const HalfRows& a, int64_t width, const Half* b, int64_t b_width,
                                              int64_t count, int64_t column, const Ends& ends) {
    constexpr int kRows = kTileRows<Packs>;
    for (int64_t row = 0; row < count; row += kRows) {
        Pack sums[kRows][Packs];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
            for (int p = 0; p < Packs; ++p) sums[r][p] = ends.start(row + r, column + p * kLanes);
        multiply_add_pairs<kRows, Packs>(a.rows + row * a.width, a.width, 2, b + 2 * column, 2 * b_width,
                                         (width + 1) / 2, sums);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; r += 2)
#pragma GCC unroll 4
            for (int p = 0; p < Packs; ++p) ends.finish(row + r, column + p * kLanes, sums[r][p], sums[r + 1][p]);
    }
}
template <class Ends>
RECON_BFLOAT16_FN void multiply_pairs(const HalfRows& a, int64_t width, const Half* b, int64_t b_width, int64_t count,
                                      const Ends& ends) {
    int64_t column = 0;
    for (; column + 4 * kLanes <= b_width; column += 4 * kLanes)
        multiply_pairs_columns<4>(a, width, b, b_width, count, column, ends);
    const int64_t packs = (b_width - column) / kLanes;
    if (packs == 3) multiply_pairs_columns<3>(a, width, b, b_width, count, column, ends);
    if (packs == 2) multiply_pairs_columns<2>(a, width, b, b_width, count, column, ends);
    if (packs == 1) multiply_pairs_columns<1>(a, width, b, b_width, count, column, ends);
}

template <int Sums, int Packs>
RECON_BFLOAT16_INLINE void add_outer_pairs_tile(const Half* a, int64_t a_width, const Half* b, int64_t b_width,
                                                int64_t pairs, float* c) {
    Pack sums[Sums][Packs];
#pragma GCC unroll 16
    for (int r = 0; r < Sums; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < Packs; ++p) sums[r][p] = load(c + r * b_width + p * kLanes);
    multiply_add_pairs<Sums, Packs>(a, 2, 2 * a_width, b, 2 * b_width, pairs, sums);
#pragma GCC unroll 16
    for (int r = 0; r < Sums; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < Packs; ++p) store(c + r * b_width + p * kLanes, sums[r][p]);
}
template <int Packs>
RECON_BFLOAT16_FN void add_outer_pairs_columns(const HalfRows& a, int64_t width, const HalfRows& b, int64_t count,
                                               int64_t column, float* c) {
    constexpr int kRows = kTileRows<Packs>;
    const Half* columns = b.pairs + 2 * column;
    c += column;
    int64_t row = 0;
    for (; row + kRows <= width; row += kRows)
        add_outer_pairs_tile<kRows, Packs>(a.pairs + 2 * row, a.width, columns, b.width, count / 2, c + row * b.width);
    for (; row + 4 <= width; row += 4)
        add_outer_pairs_tile<4, Packs>(a.pairs + 2 * row, a.width, columns, b.width, count / 2, c + row * b.width);
    for (; row < width; ++row)
        add_outer_pairs_tile<1, Packs>(a.pairs + 2 * row, a.width, columns, b.width, count / 2, c + row * b.width);
}
// C [width, b.width] += Aᵀ · B over `count` rows, for the first `width` columns of A.
RECON_BFLOAT16_FN inline void add_outer_pairs(const HalfRows& a, int64_t width, const HalfRows& b, int64_t count,
                                              float* c) {
    int64_t column = 0;
    for (; column + 4 * kLanes <= b.width; column += 4 * kLanes)
        add_outer_pairs_columns<4>(a, width, b, count, column, c);
    const int64_t packs = (b.width - column) / kLanes;
    if (packs == 3) add_outer_pairs_columns<3>(a, width, b, count, column, c);
    if (packs == 2) add_outer_pairs_columns<2>(a, width, b, count, column, c);
    if (packs == 1) add_outer_pairs_columns<1>(a, width, b, count, column, c);
}

struct ToHiddenPairs {
    HalfRows to;
    const float* const* bias;  // nullptr for none
    RECON_FN Pack start(int64_t row, int64_t column) const { return bias ? load(bias[row] + column) : Pack(0.0f); }
    RECON_BFLOAT16_INLINE void finish(int64_t row, int64_t column, Pack first, Pack second) const {
        store_two(to, row, column, activate(first), activate(second));
    }
};
struct ToFloatRows {
    float* to;
    int64_t width;
    RECON_FN Pack start(int64_t, int64_t) const { return Pack(0.0f); }
    RECON_FN void finish(int64_t row, int64_t column, Pack first, Pack second) const {
        store(to + row * width + column, first);
        store(to + (row + 1) * width + column, second);
    }
};
// `plain` gets the gradient before it is rounded.
struct ThroughActivationPairs {
    HalfRows to;
    const Half* hidden;
    float* plain;
    RECON_FN Pack start(int64_t, int64_t) const { return Pack(0.0f); }
    RECON_BFLOAT16_INLINE void finish(int64_t row, int64_t column, Pack first, Pack second) const {
        const int64_t at = row * to.width + column;
        first = through_activation(widened(hidden + at), first);
        second = through_activation(widened(hidden + at + to.width), second);
        store_two(to, row, column, first, second);
        if (!plain) return;
        store(plain + at, first);
        store(plain + at + to.width, second);
    }
};

// As `Block`.
class RoundedBlock {
public:
    // The matrices paired, or their transposes; `spare` has room for all parameters.
    RECON_BFLOAT16_FN static void prepare(const MlpParams& p, const Net& net, bool backward, float* matrices,
                                          float* spare) {
        for (int i = 0; i < net.layers; ++i) {
            const int64_t rows = net.width[i], columns = net.width[i + 1];
            const float* from = p.parameters + net.offset[i];
            pair_rows(from, rows, columns, forward_matrix(net, matrices, i));
            if (!backward) continue;
            transpose_matrix(from, rows, columns, spare);
            pair_rows(spare, columns, rows, forward_matrix(net, matrices, net.layers) + net.offset[i]);
        }
    }

    RoundedBlock(const MlpParams& p, const Net& net, float* matrices, float* scratch, int64_t capacity)
        : p_(p), net_(net), matrices_(matrices), scratch_(scratch), capacity_(capacity) {}

    void start(int64_t first, int64_t last) {
        first_ = first;
        count_ = last - first;
        padded_ = (count_ + 23) / 24 * 24;
    }

    RECON_BFLOAT16_FN void forward(float* outputs) {
        hidden_layers();
        const int last = net_.layers - 1;
        write_rows(layer(last), p_.hidden_width, matrix(last), p_.output_width, outputs);
    }

    RECON_BFLOAT16_FN const float* backward(float* sums) {
        hidden_layers();
        const int64_t width = p_.hidden_width;
        HalfRows gradient = spare(net_.layers % 2, p_.output_width);
        round_rows(p_.gradient, p_.gradient_stride, p_.gradient_width, gradient);
        int64_t columns = p_.gradient_width;
        float* plain = part(net_.layers + 2);
        for (int i = net_.layers - 1; i > 0; --i) {
            add_parameters(i, gradient, columns, sums);
            const HalfRows to = spare(i % 2, width);
            const ThroughActivationPairs ends{to, layer(i).rows, i == 1 && p_.row_bias ? plain : nullptr};
            multiply_pairs(gradient, columns, transposed(i), width, padded_, ends);
            gradient = to, columns = width;
        }
        add_parameters(0, gradient, columns, sums);
        if (p_.input_gradient) write_rows(gradient, width, transposed(0), p_.input_width, p_.input_gradient);
        return plain;
    }

private:
    static Half* forward_matrix(const Net& net, float* matrices, int i) {
        return reinterpret_cast<Half*>(matrices) + net.offset[i];
    }
    const Half* matrix(int i) const { return forward_matrix(net_, matrices_, i); }
    const Half* transposed(int i) const { return matrix(net_.layers) + net_.offset[i]; }

    float* part(int number) const { return scratch_ + number * capacity_ * net_.most_width(); }
    HalfRows halves(int number, int64_t width) const {
        Half* rows = reinterpret_cast<Half*>(part(number));
        return {rows, rows + capacity_ * width, width};
    }
    HalfRows spare(int number, int64_t width) const { return halves(net_.layers + number, width); }
    // The inputs to matrix `i`.
    HalfRows layer(int i) const { return halves(i, net_.width[i]); }

    RECON_BFLOAT16_FN void round_rows(const float* from, int64_t stride, int64_t width, const HalfRows& to) const {
        const float* rows = from + first_ * stride;
        for (int64_t row = 0; row < padded_; row += 2)
            for (int64_t column = 0; column < to.width; column += kLanes) {
                const Mask inside = first_lanes(static_cast<int>(width > column ? width - column : 0));
                const float* at = rows + row * stride + column;
                const Pack first = row < count_ ? load_masked(at, inside) : Pack(0.0f);
                const Pack second = row + 1 < count_ ? load_masked(at + stride, inside) : Pack(0.0f);
                store_two(to, row, column, first, second);
            }
    }
    RECON_BFLOAT16_FN void hidden_layers() {
        round_rows(p_.inputs, p_.input_stride, p_.input_width, layer(0));
        if (p_.row_bias) find_biases(p_, first_, count_, padded_, bias_);
        for (int i = 0; i < net_.layers - 1; ++i) {
            const ToHiddenPairs ends{layer(i + 1), i == 0 && p_.row_bias ? bias_ : nullptr};
            multiply_pairs(layer(i), net_.width[i], matrix(i), p_.hidden_width, padded_, ends);
        }
    }
    RECON_BFLOAT16_FN void add_parameters(int i, const HalfRows& gradient, int64_t columns, float* sums) const {
        float* to = sums + net_.offset[i];
        if (is_summed_transposed(p_, net_, i))
            add_outer_pairs(gradient, columns, layer(i), padded_, to);
        else
            add_outer_pairs(layer(i), net_.width[i], gradient, padded_, to);
    }
    // The first `columns` columns of `from` times a matrix become the block's rows of an array.
    RECON_BFLOAT16_FN void write_rows(const HalfRows& from, int64_t columns, const Half* matrix, int64_t width,
                                      float* array) const {
        float* rows = array + first_ * width;
        float* to = padded_ == count_ ? rows : part(net_.layers + 3);
        multiply_pairs(from, columns, matrix, width, padded_, ToFloatRows{to, width});
        if (padded_ != count_) std::memcpy(rows, to, sizeof(float) * static_cast<size_t>(count_ * width));
    }

    const MlpParams& p_;
    const Net& net_;
    float* matrices_;
    float* scratch_;
    int64_t capacity_, first_ = 0, count_ = 0, padded_ = 0;
    const float* bias_[kBackwardBlock];
};

#else

bool has_bfloat16() { return false; }
bool bfloat16_is_faster() { return false; }

#endif

}  // namespace
}  // namespace recon
