// SPDX-License-Identifier: Apache-2.0
// Packs of 32-bit integers beside the packs of floats: as much as binning needs, in vector extensions that GCC and
// Clang turn into the instructions of each set.
#pragma once

#include <cstring>

#include "recon/kernels/common/simd.h"

namespace recon {

typedef int32_t IntPack __attribute__((vector_size(4 * kLanes)));
typedef float FloatLanes __attribute__((vector_size(4 * kLanes)));

RECON_FN IntPack splat(int32_t value) { return value - IntPack{}; }
RECON_FN IntPack truncate(Pack a) { return __builtin_convertvector((FloatLanes)a.v, IntPack); }
RECON_FN Pack to_float(IntPack a) { return Pack(__builtin_convertvector(a, FloatLanes)); }
RECON_FN IntPack bit_pattern(Pack a) { return (IntPack)a.v; }
RECON_FN void store(int32_t* p, IntPack a) { std::memcpy(p, &a, sizeof a); }
RECON_FN IntPack lane_numbers() {
    IntPack r;
    for (int i = 0; i < kLanes; ++i) r[i] = i;
    return r;
}

// All bits of a lane set where the mask is.
RECON_FN IntPack as_integers(Mask m) {
#if RECON_AVX512
    return (IntPack)_mm512_movm_epi32(m.m);
#else
    return m.m;
#endif
}

// A bit per lane.
RECON_FN uint32_t lane_bits(Mask m) {
#if RECON_AVX512
    return m.m;
#elif defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)m.m));
#elif defined(__SSE2__)
    return static_cast<uint32_t>(_mm_movemask_ps((__m128)m.m));
#else
    return bits(m);
#endif
}

// Which of kLanes bytes are not zero.
RECON_FN Mask nonzero_bytes(const uint8_t* bytes) {
#if RECON_AVX512
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return {_mm_test_epi8_mask(b, b)};
#else
    typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
    Bytes b;
    std::memcpy(&b, bytes, sizeof b);
    return {__builtin_convertvector(b, VecI) != 0};
#endif
}

}  // namespace recon
