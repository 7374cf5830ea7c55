// SPDX-License-Identifier: Apache-2.0
// What marching does with packs and no other operation does.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

// The integral part of a >= 0.
RECON_FN Pack whole_(Pack a) {
#if RECON_AVX512
    return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (VecF)_mm256_floor_ps((__m256)a.v);
#else
    return __builtin_convertvector(__builtin_convertvector(a.v, VecI), VecF);
#endif
}

// Whether bits are on, of words in memory: those with the whole numbers `index`.
RECON_FN Mask bits_at(const uint32_t* words, Pack index) {
#if RECON_AVX512
    const __m512i i = _mm512_cvttps_epi32(index.v);
    const __m512i found = _mm512_i32gather_epi32(_mm512_srli_epi32(i, 5), words, 4);
    const __m512i place = _mm512_and_si512(i, _mm512_set1_epi32(31));
    return {_mm512_test_epi32_mask(_mm512_srlv_epi32(found, place), _mm512_set1_epi32(1))};
#else
    const VecI i = __builtin_convertvector(index.v, VecI);
#if defined(__AVX2__)
    const VecI found = (VecI)_mm256_i32gather_epi32(reinterpret_cast<const int*>(words), (__m256i)(i >> 5), 4);
    // The highest bit decides a mask's lane.
    return {(VecI)_mm256_sllv_epi32((__m256i)found, (__m256i)(31 - (i & 31))) >> 31};
#else
    VecI r;
    for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t found = words[i[lane] >> 5] >> (i[lane] & 31);
        r[lane] = (found & 1u) ? -1 : 0;
    }
    return {r};
#endif
#endif
}

// Writes the lanes that are on side by side; anything behind them, up to kLanes numbers in all.
RECON_FN void store_chosen(float* to, Pack a, Mask m) {
#if RECON_AVX512
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(m.m, a.v));
#else
    float lanes[kLanes];
    store(lanes, a);
    for (uint32_t on = bits(m); on != 0; on &= on - 1) *to++ = lanes[__builtin_ctz(on)];
#endif
}

}  // namespace recon
