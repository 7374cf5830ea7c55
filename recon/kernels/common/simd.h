// SPDX-License-Identifier: Apache-2.0
// SIMD packs with one interface on every instruction set, and the scalar twins of the same functions, so that the
// math headers are written once over a number type `F`:
//   F = Pack    16 floats (AVX-512), 8 (AVX2) or 4 (SSE2, NEON): the CPU schedulers;
//   F = float   the GPU, and remainders;
//   F = double  tests.
// `MaskOf<F>` is what a comparison gives.  No std:: containers or algorithms may be instantiated in a source that is
// compiled per instruction set into one program; ours are separate modules (one per set), which removes that trap.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define RECON_FN __device__ __forceinline__
#else
#define RECON_FN inline __attribute__((always_inline))
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#define RECON_AVX512 1
// GCC 12's own header trips its warning (https://gcc.gnu.org/PR105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace recon {

// ---- scalars -------------------------------------------------------------------------------------------------------

RECON_FN float fmin_(float a, float b) { return a < b ? a : b; }
RECON_FN float fmax_(float a, float b) { return a > b ? a : b; }
RECON_FN double fmin_(double a, double b) { return a < b ? a : b; }
RECON_FN double fmax_(double a, double b) { return a > b ? a : b; }
RECON_FN float sqrt_(float a) { return ::sqrtf(a); }
RECON_FN double sqrt_(double a) { return ::sqrt(a); }
RECON_FN float exp_(float a) { return ::expf(a); }
RECON_FN double exp_(double a) { return ::exp(a); }
RECON_FN float log_(float a) { return ::logf(a); }
RECON_FN double log_(double a) { return ::log(a); }
RECON_FN float abs_(float a) { return ::fabsf(a); }
RECON_FN double abs_(double a) { return ::fabs(a); }
RECON_FN float rsqrt_(float a) { return 1.0f / ::sqrtf(a); }
RECON_FN double rsqrt_(double a) { return 1.0 / ::sqrt(a); }
RECON_FN float select(bool m, float a, float b) { return m ? a : b; }
RECON_FN double select(bool m, double a, double b) { return m ? a : b; }

template <class F>
struct MaskOfT {
    using type = bool;
};

#if !defined(__CUDACC__)

// ---- packs ---------------------------------------------------------------------------------------------------------

#if RECON_AVX512

inline constexpr int kLanes = 16;

struct Mask {
    __mmask16 m;
    RECON_FN friend Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
    RECON_FN friend Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }
    RECON_FN Mask operator!() const { return {static_cast<__mmask16>(~m)}; }
};
RECON_FN bool any(Mask a) { return a.m != 0; }
RECON_FN bool all(Mask a) { return a.m == 0xffff; }
RECON_FN uint32_t bits(Mask a) { return a.m; }
RECON_FN Mask mask_from_bits(uint32_t b) { return {static_cast<__mmask16>(b)}; }

struct Pack {
    __m512 v;
    Pack() = default;
    RECON_FN Pack(__m512 x) : v(x) {}
    RECON_FN Pack(float x) : v(_mm512_set1_ps(x)) {}
    RECON_FN friend Pack operator+(Pack a, Pack b) { return _mm512_add_ps(a.v, b.v); }
    RECON_FN friend Pack operator-(Pack a, Pack b) { return _mm512_sub_ps(a.v, b.v); }
    RECON_FN friend Pack operator*(Pack a, Pack b) { return _mm512_mul_ps(a.v, b.v); }
    RECON_FN friend Pack operator/(Pack a, Pack b) { return _mm512_div_ps(a.v, b.v); }
    RECON_FN Pack operator-() const { return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f)); }
    RECON_FN friend Mask operator<(Pack a, Pack b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
    RECON_FN friend Mask operator<=(Pack a, Pack b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
    RECON_FN friend Mask operator>(Pack a, Pack b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
    RECON_FN friend Mask operator>=(Pack a, Pack b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
};
RECON_FN Pack load(const float* p) { return _mm512_loadu_ps(p); }
RECON_FN void store(float* p, Pack a) { _mm512_storeu_ps(p, a.v); }
// Lanes where the mask is off are not read (or written); they load as 0.
RECON_FN Pack load_masked(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m.m, p); }
RECON_FN void store_masked(float* p, Pack a, Mask m) { _mm512_mask_storeu_ps(p, m.m, a.v); }
RECON_FN Pack gather(const float* base, const int32_t* index) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(index), base, 4);
}
RECON_FN Pack fma_(Pack a, Pack b, Pack c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
// c - a * b
RECON_FN Pack fnma_(Pack a, Pack b, Pack c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }
// a * b or c - a * b where the mask is on, elsewhere 0 (or c); b must be finite.
RECON_FN Pack mul_or_zero(Mask m, Pack a, Pack b) { return _mm512_maskz_mul_ps(m.m, a.v, b.v); }
RECON_FN Pack fnma_or_zero(Mask m, Pack a, Pack b, Pack c) { return _mm512_maskz_fnmadd_ps(m.m, a.v, b.v, c.v); }
RECON_FN Pack fnma_or_keep(Mask m, Pack a, Pack b, Pack c) { return _mm512_mask3_fnmadd_ps(a.v, b.v, c.v, m.m); }
// a >= b for numbers that are not negative.
RECON_FN Mask not_below(Pack a, Pack b) { return a >= b; }
RECON_FN Pack fmin_(Pack a, Pack b) { return _mm512_min_ps(a.v, b.v); }
RECON_FN Pack fmax_(Pack a, Pack b) { return _mm512_max_ps(a.v, b.v); }
RECON_FN Pack sqrt_(Pack a) { return _mm512_sqrt_ps(a.v); }
// √a for a from 1e-30 on, at most 0.05% off.
RECON_FN Pack sqrt_roughly(Pack a) { return _mm512_mul_ps(a.v, _mm512_rsqrt14_ps(a.v)); }
RECON_FN Pack abs_(Pack a) { return _mm512_abs_ps(a.v); }
RECON_FN Pack select(Mask m, Pack a, Pack b) { return _mm512_mask_blend_ps(m.m, b.v, a.v); }
RECON_FN float sum(Pack a) { return _mm512_reduce_add_ps(a.v); }
RECON_FN Pack lane_index() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }
// 2^n for integral n in [-126, 127].
RECON_FN Pack exp2_integral(Pack n) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23));
}
// The exponent of a positive normal number, and its mantissa in [1, 2).
RECON_FN Pack split_exponent(Pack a, Pack& mantissa) {
    mantissa = _mm512_getmant_ps(a.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    return _mm512_getexp_ps(a.v);
}
RECON_FN Pack round_(Pack a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// Whole numbers, as many as floats in a pack.
struct Ints {
    __m512i v;
    // 32 bits each, wrapping around.
    RECON_FN friend Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
    RECON_FN friend Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
    RECON_FN friend Ints operator*(Ints a, Ints b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
    RECON_FN friend Ints operator&(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
    RECON_FN friend Ints operator|(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
    RECON_FN friend Ints operator^(Ints a, Ints b) { return {_mm512_xor_si512(a.v, b.v)}; }
    RECON_FN friend Ints operator<<(Ints a, int n) { return {_mm512_sll_epi32(a.v, _mm_cvtsi32_si128(n))}; }
    // Zeros come in from above.
    RECON_FN friend Ints operator>>(Ints a, int n) { return {_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(n))}; }
    RECON_FN friend Mask operator<(Ints a, Ints b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
    RECON_FN friend Mask operator==(Ints a, Ints b) { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
};
RECON_FN Ints ints(int32_t a) { return {_mm512_set1_epi32(a)}; }
RECON_FN Ints load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
RECON_FN void store(int32_t* p, Ints a) { _mm512_storeu_si512(p, a.v); }
// Towards zero, of numbers that an int32 can hold; and back.
RECON_FN Ints truncated(Pack a) { return {_mm512_cvttps_epi32(a.v)}; }
RECON_FN Pack floats(Ints a) { return _mm512_cvtepi32_ps(a.v); }
RECON_FN Ints select(Mask m, Ints a, Ints b) { return {_mm512_mask_blend_epi32(m.m, b.v, a.v)}; }
RECON_FN Pack gather(const float* base, Ints index) { return _mm512_i32gather_ps(index.v, base, 4); }
// a | bit where the mask is on.
RECON_FN Ints set_bit(Ints a, Mask m, int32_t bit) { return {_mm512_mask_or_epi32(a.v, m.m, a.v, ints(bit).v)}; }

#else  // GCC and Clang vector extensions: AVX2 (8 lanes), SSE2 and NEON (4 lanes)

#if defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float VecF __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));

struct Mask {
    VecI m;  // each lane 0 or -1
    RECON_FN friend Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
    RECON_FN friend Mask operator|(Mask a, Mask b) { return {a.m | b.m}; }
    RECON_FN Mask operator!() const { return {~m}; }
};
#if defined(__AVX2__)
}  // namespace recon
#include <immintrin.h>
namespace recon {
RECON_FN uint32_t bits(Mask a) { return static_cast<uint32_t>(_mm256_movemask_ps((__m256)a.m)); }
RECON_FN bool any(Mask a) { return _mm256_movemask_ps((__m256)a.m) != 0; }
RECON_FN bool all(Mask a) { return _mm256_movemask_ps((__m256)a.m) == 0xff; }
#elif defined(__SSE2__)
}  // namespace recon
#include <emmintrin.h>
namespace recon {
RECON_FN uint32_t bits(Mask a) { return static_cast<uint32_t>(_mm_movemask_ps((__m128)a.m)); }
RECON_FN bool any(Mask a) { return _mm_movemask_ps((__m128)a.m) != 0; }
RECON_FN bool all(Mask a) { return _mm_movemask_ps((__m128)a.m) == 0xf; }
#else
RECON_FN uint32_t bits(Mask a) {
    uint32_t r = 0;
    for (int i = 0; i < kLanes; ++i) r |= (static_cast<uint32_t>(a.m[i]) & 1u) << i;
    return r;
}
RECON_FN bool any(Mask a) { return bits(a) != 0; }
RECON_FN bool all(Mask a) { return bits(a) == (1u << kLanes) - 1; }
#endif
RECON_FN Mask mask_from_bits(uint32_t b) {
    VecI r;
    for (int i = 0; i < kLanes; ++i) r[i] = (b >> i) & 1u ? -1 : 0;
    return {r};
}

struct Pack {
    VecF v;
    Pack() = default;
    RECON_FN Pack(VecF x) : v(x) {}
    RECON_FN Pack(float x) : v(x - VecF{}) {}
    RECON_FN friend Pack operator+(Pack a, Pack b) { return a.v + b.v; }
    RECON_FN friend Pack operator-(Pack a, Pack b) { return a.v - b.v; }
    RECON_FN friend Pack operator*(Pack a, Pack b) { return a.v * b.v; }
    RECON_FN friend Pack operator/(Pack a, Pack b) { return a.v / b.v; }
    RECON_FN Pack operator-() const { return -v; }
    RECON_FN friend Mask operator<(Pack a, Pack b) { return {a.v < b.v}; }
    RECON_FN friend Mask operator<=(Pack a, Pack b) { return {a.v <= b.v}; }
    RECON_FN friend Mask operator>(Pack a, Pack b) { return {a.v > b.v}; }
    RECON_FN friend Mask operator>=(Pack a, Pack b) { return {a.v >= b.v}; }
};
RECON_FN Pack load(const float* p) {
    Pack r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
}
RECON_FN void store(float* p, Pack a) { std::memcpy(p, &a.v, sizeof a.v); }
RECON_FN Pack load_masked(const float* p, Mask m) {
#if defined(__AVX2__)
    return (VecF)_mm256_maskload_ps(p, (__m256i)m.m);
#else
    Pack r(0.0f);
    for (int i = 0; i < kLanes; ++i)
        if (m.m[i]) r.v[i] = p[i];
    return r;
#endif
}
RECON_FN void store_masked(float* p, Pack a, Mask m) {
#if defined(__AVX2__)
    _mm256_maskstore_ps(p, (__m256i)m.m, (__m256)a.v);
#else
    for (int i = 0; i < kLanes; ++i)
        if (m.m[i]) p[i] = a.v[i];
#endif
}
struct Ints {
    VecI v;
    // 32 bits each, wrapping around.
    RECON_FN friend Ints operator+(Ints a, Ints b) { return {(VecI)((VecU)a.v + (VecU)b.v)}; }
    RECON_FN friend Ints operator-(Ints a, Ints b) { return {(VecI)((VecU)a.v - (VecU)b.v)}; }
    RECON_FN friend Ints operator*(Ints a, Ints b) { return {(VecI)((VecU)a.v * (VecU)b.v)}; }
    RECON_FN friend Ints operator&(Ints a, Ints b) { return {a.v & b.v}; }
    RECON_FN friend Ints operator|(Ints a, Ints b) { return {a.v | b.v}; }
    RECON_FN friend Ints operator^(Ints a, Ints b) { return {a.v ^ b.v}; }
    RECON_FN friend Ints operator<<(Ints a, int n) { return {(VecI)((VecU)a.v << n)}; }
    // Zeros come in from above.
    RECON_FN friend Ints operator>>(Ints a, int n) { return {(VecI)((VecU)a.v >> n)}; }
    RECON_FN friend Mask operator<(Ints a, Ints b) { return {a.v < b.v}; }
    RECON_FN friend Mask operator==(Ints a, Ints b) { return {a.v == b.v}; }
};
RECON_FN Ints ints(int32_t a) { return {VecI{} + a}; }
RECON_FN Ints load(const int32_t* p) {
    Ints r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
}
RECON_FN void store(int32_t* p, Ints a) { std::memcpy(p, &a.v, sizeof a.v); }
// Towards zero, of numbers that an int32 can hold; and back.
RECON_FN Ints truncated(Pack a) { return {__builtin_convertvector(a.v, VecI)}; }
RECON_FN Pack floats(Ints a) { return __builtin_convertvector(a.v, VecF); }
RECON_FN Ints select(Mask m, Ints a, Ints b) { return {m.m ? a.v : b.v}; }
RECON_FN Ints set_bit(Ints a, Mask m, int32_t bit) { return {a.v | (m.m & bit)}; }
RECON_FN Pack gather(const float* base, const int32_t* index) {
    Pack r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = base[index[i]];
    return r;
}
RECON_FN Pack gather(const float* base, Ints index) {
#if defined(__AVX2__)
    return (VecF)_mm256_i32gather_ps(base, (__m256i)index.v, 4);
#else
    Pack r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = base[index.v[i]];
    return r;
#endif
}
#if defined(__FMA__)
// Said outright, so that what a number is does not depend on what else the compiler does with its product.
RECON_FN Pack fma_(Pack a, Pack b, Pack c) { return (VecF)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v); }
RECON_FN Pack fnma_(Pack a, Pack b, Pack c) { return (VecF)_mm256_fnmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v); }
#else
RECON_FN Pack fma_(Pack a, Pack b, Pack c) { return a.v * b.v + c.v; }
RECON_FN Pack fnma_(Pack a, Pack b, Pack c) { return c.v - a.v * b.v; }
#endif
// Of a finite b these need only silence a, before and not behind the product.
RECON_FN Pack mul_or_zero(Mask m, Pack a, Pack b) { return Pack((VecF)((VecI)a.v & m.m)) * b; }
RECON_FN Pack fnma_or_zero(Mask m, Pack a, Pack b, Pack c) { return (VecF)((VecI)fnma_(a, b, c).v & m.m); }
RECON_FN Pack fnma_or_keep(Mask m, Pack a, Pack b, Pack c) { return fnma_(Pack((VecF)((VecI)a.v & m.m)), b, c); }
// a >= b for numbers that are not negative: their bits order as they do, and whole numbers compare sooner.
RECON_FN Mask not_below(Pack a, Pack b) { return {(VecI)a.v > (VecI)b.v - 1}; }
// One instruction each, which compilers do not always make of a comparison: b where either is NaN.
#if defined(__AVX2__)
RECON_FN Pack fmin_(Pack a, Pack b) { return (VecF)_mm256_min_ps((__m256)a.v, (__m256)b.v); }
RECON_FN Pack fmax_(Pack a, Pack b) { return (VecF)_mm256_max_ps((__m256)a.v, (__m256)b.v); }
#elif defined(__SSE2__)
RECON_FN Pack fmin_(Pack a, Pack b) { return (VecF)_mm_min_ps((__m128)a.v, (__m128)b.v); }
RECON_FN Pack fmax_(Pack a, Pack b) { return (VecF)_mm_max_ps((__m128)a.v, (__m128)b.v); }
#else
RECON_FN Pack fmin_(Pack a, Pack b) { return a.v < b.v ? a.v : b.v; }
RECON_FN Pack fmax_(Pack a, Pack b) { return a.v > b.v ? a.v : b.v; }
#endif
RECON_FN Pack select(Mask m, Pack a, Pack b) { return m.m ? a.v : b.v; }
RECON_FN Pack abs_(Pack a) { return (VecF)((VecI)a.v & 0x7fffffff); }
RECON_FN Pack sqrt_(Pack a) {
#if defined(__AVX2__)
    return (VecF)_mm256_sqrt_ps((__m256)a.v);
#elif defined(__SSE2__)
    return (VecF)_mm_sqrt_ps((__m128)a.v);
#else
    Pack r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = ::sqrtf(a.v[i]);
    return r;
#endif
}
RECON_FN Pack sqrt_roughly(Pack a) {
#if defined(__AVX2__)
    return a.v * (VecF)_mm256_rsqrt_ps((__m256)a.v);
#elif defined(__SSE2__)
    return a.v * (VecF)_mm_rsqrt_ps((__m128)a.v);
#else
    return sqrt_(a);
#endif
}
RECON_FN float sum(Pack a) {
    float r = 0;
    for (int i = 0; i < kLanes; ++i) r += a.v[i];
    return r;
}
RECON_FN Pack lane_index() {
    Pack r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = static_cast<float>(i);
    return r;
}
// Adding 1.5·2^23 pushes the fraction out of the mantissa: rounds to nearest for |a| < 2^22.
RECON_FN Pack round_(Pack a) {
    const VecF magic = Pack(12582912.0f).v;
    return (a.v + magic) - magic;
}
RECON_FN Pack exp2_integral(Pack n) {
    VecI i = __builtin_convertvector(n.v, VecI);
    return (VecF)((i + 127) << 23);
}
// The exponent of a positive normal number, and its mantissa in [1, 2).
RECON_FN Pack split_exponent(Pack a, Pack& mantissa) {
    const VecI i = (VecI)a.v;
    mantissa = (VecF)((i & 0x7fffff) | 0x3f800000);
    return __builtin_convertvector((i >> 23) - 127, VecF);
}

#endif

template <>
struct MaskOfT<Pack> {
    using type = Mask;
};

// Lanes 0 .. count-1.
RECON_FN Mask first_lanes(int count) { return lane_index() < Pack(static_cast<float>(count)); }

// e^a by range reduction to |f| <= ln2/2 and the degree-5 minimax-like polynomial; relative error below 3e-7 for a in
// [-87, 88], clamped outside (a NaN stays NaN where the instruction set's min and max keep it; callers mask first).
RECON_FN Pack exp_(Pack a) {
    a = fmax_(fmin_(a, Pack(88.0f)), Pack(-87.0f));
    Pack n = round_(a * Pack(1.44269504088896341f));
    Pack f = fma_(n, Pack(-0.693145751953125f), a);
    f = fma_(n, Pack(-1.42860682030941723e-6f), f);
    Pack p = fma_(f, Pack(1.9875691500e-4f), Pack(1.3981999507e-3f));
    p = fma_(p, f, Pack(8.3334519073e-3f));
    p = fma_(p, f, Pack(4.1665795894e-2f));
    p = fma_(p, f, Pack(1.6666665459e-1f));
    p = fma_(p, f, Pack(5.0000001201e-1f));
    p = fma_(p, f * f, f + Pack(1.0f));
    return p * exp2_integral(n);
}

// Integers at or below (above) a, for |a| < 2^22.
RECON_FN Pack floor_(Pack a) {
    const Pack r = round_(a);
    return select(r > a, r - Pack(1.0f), r);
}
RECON_FN Pack ceil_(Pack a) { return -floor_(-a); }

// 2^a where the mask is on, elsewhere 0; relative error below 2e-7 for a in [-126, 127].  Lanes that are off are kept
// from becoming denormal numbers, each of which would cost hundreds of cycles.
RECON_FN Pack exp2_(Pack a, Mask m) {
#if RECON_AVX512
    // f = a - floor(a) is one instruction, and the last one takes floor(a) itself.  Minimax over [0, 1].
    const Pack f(_mm512_reduce_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    Pack p = fma_(f, Pack(1.8775766948238015e-3f), Pack(8.98933969438076e-3f));
    p = fma_(p, f, Pack(5.582631751894951e-2f));
    p = fma_(p, f, Pack(2.4015361070632935e-1f));
    p = fma_(p, f, Pack(6.931530833244324e-1f));
    p = fma_(p, f, Pack(1.0f));
    return _mm512_maskz_scalef_ps(m.m, p.v, a.v);
#else
    // Adding 1.5·2^23 leaves a, rounded, in the low bits; shifted up, they move the exponent of p.
    const VecF shifted = a.v + 12582912.0f;
    const Pack f = a.v - (shifted - 12582912.0f);
    // Minimax over [-1/2, 1/2] with p(0) = 1.
    Pack p = fma_(f, Pack(1.326472731307149e-3f), Pack(9.671512991189957e-3f));
    p = fma_(p, f, Pack(5.550733581185341e-2f));
    p = fma_(p, f, Pack(2.4022242426872253e-1f));
    p = fma_(p, f, Pack(6.931470036506653e-1f));
    p = fma_(p, f, Pack(1.0f));
    return (VecF)(((VecU)p.v + ((VecU)shifted << 23)) & (VecU)m.m);
#endif
}

// 1 / a, to about one unit in the last place.
RECON_FN Pack reciprocal_(Pack a) {
#if RECON_AVX512
    const Pack r(_mm512_rcp14_ps(a.v));
    return fma_(r, fnma_(a, r, Pack(1.0f)), r);
#else
    return Pack(1.0f) / a;
#endif
}

// 1 / sqrt(a), to about one unit in the last place, for normal numbers above 0; anything where a is not one.
RECON_FN Pack rsqrt_(Pack a) {
#if RECON_AVX512
    const Pack r(_mm512_rsqrt14_ps(a.v));
    return fma_(fnma_(a * r, r, Pack(1.0f)), Pack(0.5f) * r, r);
#else
    return Pack(1.0f) / sqrt_(a);
#endif
}

// Natural logarithm; relative error below 2e-7.  -infinity at 0 (and at numbers below the normal ones), NaN below it.
// The polynomial is Cephes' logf (Moshier).
RECON_FN Pack log_(Pack a) {
    Pack mantissa, e = split_exponent(a, mantissa);
    const Mask upper = mantissa > Pack(1.41421356f);
    mantissa = select(upper, mantissa * Pack(0.5f), mantissa);
    e = select(upper, e + Pack(1.0f), e);
    const Pack x = mantissa - Pack(1.0f), z = x * x;
    Pack p = fma_(x, Pack(7.0376836292e-2f), Pack(-1.1514610310e-1f));
    p = fma_(p, x, Pack(1.1676998740e-1f));
    p = fma_(p, x, Pack(-1.2420140846e-1f));
    p = fma_(p, x, Pack(1.4249322787e-1f));
    p = fma_(p, x, Pack(-1.6668057665e-1f));
    p = fma_(p, x, Pack(2.0000714765e-1f));
    p = fma_(p, x, Pack(-2.4999993993e-1f));
    p = fma_(p, x, Pack(3.3333331174e-1f));
    Pack y = fma_(e, Pack(-2.12194440e-4f), x * z * p);
    y = x + fma_(z, Pack(-0.5f), y);
    y = fma_(e, Pack(0.693359375f), y);
    y = select(a < Pack(1.17549435e-38f), Pack(-__builtin_inff()), y);
    return select(a >= Pack(0.0f), y, Pack(__builtin_nanf("")));
}

#endif  // !__CUDACC__

template <class F>
using MaskOf = typename MaskOfT<F>::type;

RECON_FN float fma_(float a, float b, float c) { return a * b + c; }
RECON_FN double fma_(double a, double b, double c) { return a * b + c; }
RECON_FN float fnma_(float a, float b, float c) { return c - a * b; }
RECON_FN double fnma_(double a, double b, double c) { return c - a * b; }

}  // namespace recon
