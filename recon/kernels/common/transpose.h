// SPDX-License-Identifier: Apache-2.0
// Rows in memory to one pack per column and back, in registers.  Every shuffle takes two packs and constant lane
// numbers, so one source serves all instruction sets.
#pragma once

#include <utility>

#include "recon/kernels/common/simd.h"

namespace recon {

// Lane i of the result is lane Indices::of(i) of `a` followed by `b`.
template <class Indices, int... I>
RECON_FN Pack shuffle_lanes(Pack a, Pack b, std::integer_sequence<int, I...>) {
    return Pack(__builtin_shufflevector(a.v, b.v, Indices::of(I)...));
}
template <class Indices>
RECON_FN Pack shuffle(Pack a, Pack b) {
    return shuffle_lanes<Indices>(a, b, std::make_integer_sequence<int, kLanes>{});
}

namespace transposing {

// Picks column `C` of rows of `W` numbers that lie one after another; `First` is the number that `a` starts with.
template <int W, int C, int First>
struct PickColumn {
    static constexpr int of(int lane) {
        const int index = W * lane + C - First;
        return index >= 0 && index < 2 * kLanes ? index : 0;
    }
};
// Takes the lanes that lie before number `Split` from `a`, the others from `b`, at the same place.
template <int W, int C, int Split>
struct MergeColumn {
    static constexpr int of(int lane) { return W * lane + C < Split ? lane : kLanes + lane; }
};
// The third pack of rows of three numbers, where `a` holds what the first two gave.
template <int C>
struct MergeThird {
    static constexpr int of(int lane) {
        const int index = 3 * lane + C;
        return index < 2 * kLanes ? lane : kLanes + index - 2 * kLanes;
    }
};
// Pack `P` of rows of `W` numbers, from the two columns `C` and `C + 1`.
template <int W, int P, int C>
struct PlaceColumns {
    static constexpr int of(int lane) {
        const int row = (P * kLanes + lane) / W, column = (P * kLanes + lane) % W;
        return column == C + 1 ? kLanes + row : row;
    }
};
// Columns 0 and 1 from `a`, which is placed already, the others from `b`: placed already too, or a column as it is.
template <int W, int P, bool Placed>
struct MergePlaced {
    static constexpr int of(int lane) {
        const int row = (P * kLanes + lane) / W, column = (P * kLanes + lane) % W;
        return column < 2 ? lane : kLanes + (Placed ? lane : row);
    }
};
// One step of the square transposition: exchanges the off-diagonal blocks of size `S`.
template <int S, bool Upper>
struct ExchangeBlocks {
    static constexpr int of(int lane) {
        if (Upper) return (lane & S) ? kLanes + lane - S : lane;
        return (lane & S) ? kLanes + lane : lane + S;
    }
};

template <int S>
RECON_FN void exchange(Pack (&rows)[kLanes]) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if (i & S) continue;
        const Pack low = rows[i], high = rows[i + S];
        rows[i] = shuffle<ExchangeBlocks<S, true>>(low, high);
        rows[i + S] = shuffle<ExchangeBlocks<S, false>>(low, high);
    }
}

template <int P>
RECON_FN Pack place3(Pack a, Pack b, Pack c) {
    return shuffle<MergePlaced<3, P, false>>(shuffle<PlaceColumns<3, P, 0>>(a, b), c);
}
template <int P>
RECON_FN Pack place4(Pack a, Pack b, Pack c, Pack d) {
    return shuffle<MergePlaced<4, P, true>>(shuffle<PlaceColumns<4, P, 0>>(a, b), shuffle<PlaceColumns<4, P, 2>>(c, d));
}

}  // namespace transposing

// The square of kLanes × kLanes numbers, in place.
RECON_FN void transpose(Pack (&rows)[kLanes]) {
    transposing::exchange<1>(rows);
    transposing::exchange<2>(rows);
    if constexpr (kLanes >= 8) transposing::exchange<4>(rows);
    if constexpr (kLanes >= 16) transposing::exchange<8>(rows);
}

struct Pack2 {
    Pack x, y;
};
struct Pack3 {
    Pack x, y, z;
};
struct Pack4 {
    Pack x, y, z, w;
};

// kLanes consecutive rows of two, three or four numbers, one pack per column.
RECON_FN Pack2 load_rows2(const float* p) {
    using transposing::PickColumn;
    const Pack a = load(p), b = load(p + kLanes);
    return {shuffle<PickColumn<2, 0, 0>>(a, b), shuffle<PickColumn<2, 1, 0>>(a, b)};
}
RECON_FN Pack3 load_rows3(const float* p) {
    using namespace transposing;
    const Pack a = load(p), b = load(p + kLanes), c = load(p + 2 * kLanes);
    return {shuffle<MergeThird<0>>(shuffle<PickColumn<3, 0, 0>>(a, b), c),
            shuffle<MergeThird<1>>(shuffle<PickColumn<3, 1, 0>>(a, b), c),
            shuffle<MergeThird<2>>(shuffle<PickColumn<3, 2, 0>>(a, b), c)};
}
template <int C>
RECON_FN Pack pick_column4(Pack a, Pack b, Pack c, Pack d) {
    using namespace transposing;
    return shuffle<MergeColumn<4, C, 2 * kLanes>>(shuffle<PickColumn<4, C, 0>>(a, b),
                                                  shuffle<PickColumn<4, C, 2 * kLanes>>(c, d));
}
RECON_FN Pack4 load_rows4(const float* p) {
    const Pack a = load(p), b = load(p + kLanes), c = load(p + 2 * kLanes), d = load(p + 3 * kLanes);
    return {pick_column4<0>(a, b, c, d), pick_column4<1>(a, b, c, d), pick_column4<2>(a, b, c, d),
            pick_column4<3>(a, b, c, d)};
}

RECON_FN void store_rows2(float* p, Pack x, Pack y) {
    store(p, shuffle<transposing::PlaceColumns<2, 0, 0>>(x, y));
    store(p + kLanes, shuffle<transposing::PlaceColumns<2, 1, 0>>(x, y));
}
RECON_FN void store_rows3(float* p, Pack x, Pack y, Pack z) {
    store(p, transposing::place3<0>(x, y, z));
    store(p + kLanes, transposing::place3<1>(x, y, z));
    store(p + 2 * kLanes, transposing::place3<2>(x, y, z));
}
RECON_FN void store_rows4(float* p, Pack x, Pack y, Pack z, Pack w) {
    store(p, transposing::place4<0>(x, y, z, w));
    store(p + kLanes, transposing::place4<1>(x, y, z, w));
    store(p + 2 * kLanes, transposing::place4<2>(x, y, z, w));
    store(p + 3 * kLanes, transposing::place4<3>(x, y, z, w));
}

// kLanes / 4 rows of four numbers, `stride` apart, one after another.
constexpr int kQuads = kLanes / 4;
// Rows behind the last one whose bit in `rows` is set may not exist: it is read in their place.
RECON_FN Pack load_quads(const float* p, int64_t stride, uint32_t rows) {
#if RECON_AVX512 || defined(__AVX2__)
    const int64_t last = (31 - __builtin_clz(rows)) * stride;
    const auto row = [&](int64_t k) { return _mm_loadu_ps(p + (k * stride < last ? k * stride : last)); };
#endif
#if RECON_AVX512
    const __m512 low = _mm512_insertf32x4(_mm512_castps128_ps512(row(0)), row(1), 1);
    return _mm512_insertf32x4(_mm512_insertf32x4(low, row(2), 2), row(3), 3);
#elif defined(__AVX2__)
    return (VecF)_mm256_insertf128_ps(_mm256_castps128_ps256(row(0)), row(1), 1);
#else
    static_cast<void>(stride), static_cast<void>(rows);
    return load(p);
#endif
}
// Writes those whose bit in `rows` is set.
RECON_FN void store_quads(float* p, int64_t stride, Pack a, uint32_t rows) {
#if RECON_AVX512
    if (rows & 1u) _mm_storeu_ps(p, _mm512_castps512_ps128(a.v));
    if (rows & 2u) _mm_storeu_ps(p + stride, _mm512_extractf32x4_ps(a.v, 1));
    if (rows & 4u) _mm_storeu_ps(p + 2 * stride, _mm512_extractf32x4_ps(a.v, 2));
    if (rows & 8u) _mm_storeu_ps(p + 3 * stride, _mm512_extractf32x4_ps(a.v, 3));
#elif defined(__AVX2__)
    if (rows & 1u) _mm_storeu_ps(p, _mm256_castps256_ps128((__m256)a.v));
    if (rows & 2u) _mm_storeu_ps(p + stride, _mm256_extractf128_ps((__m256)a.v, 1));
#else
    static_cast<void>(stride);
    if (rows & 1u) store(p, a);
#endif
}

}  // namespace recon
