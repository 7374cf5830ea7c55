// SPDX-License-Identifier: Apache-2.0
// The ellipse q(dx, dy) = a dx² + 2b dx dy + c dy² <= Q outside of which a Gaussian's alpha is below the cutoff.
//
// Completing the square, q = a (dx + b/a dy)² + (det/a) dy² with det = ac − b².  So the row at dy is centred on
// dx = −(b/a) dy and its half chord is (√det / a) √(Y² − dy²), where Y = √(Q a / det) is half the ellipse's height;
// columns alike.  The ellipse is widest (dx = ±X) at dy = ∓(b/c) X.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

// Gaussians outside of these limits are not drawn (standard deviations of 1e-6 to 1e8 pixels).
constexpr float kMaxConic = 1e12f;
constexpr float kMaxVariance = 1e16f;

// ac − b² without cancellation: the product of two floats is exact in double.
RECON_FN float determinant(float a, float b, float c) {
    return static_cast<float>(static_cast<double>(a) * c - static_cast<double>(b) * b);
}
RECON_FN double determinant(double a, double b, double c) { return a * c - b * b; }
#if !defined(__CUDACC__)
RECON_FN Pack determinant(Pack a, Pack b, Pack c) {
#if RECON_AVX512
    const auto half = [](__m256 x, __m256 y, __m256 z) {
        const __m512d yy = _mm512_cvtps_pd(y);
        return _mm512_cvtpd_ps(_mm512_fmsub_pd(_mm512_cvtps_pd(x), _mm512_cvtps_pd(z), _mm512_mul_pd(yy, yy)));
    };
    const auto high = [](Pack x) { return _mm512_extractf32x8_ps(x.v, 1); };
    const __m256 low = half(_mm512_castps512_ps256(a.v), _mm512_castps512_ps256(b.v), _mm512_castps512_ps256(c.v));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), half(high(a), high(b), high(c)), 1);
#else
    typedef double Doubles __attribute__((vector_size(8 * kLanes)));
    const auto wide = [](Pack x) { return __builtin_convertvector(x.v, Doubles); };
    const Doubles product = wide(a) * wide(c), square = wide(b) * wide(b);
    return Pack(__builtin_convertvector(product - square, VecF));
#endif
}
#endif

// Whether a conic is one of an ellipse of a size that float can hold.  False for NaN.
template <class F>
RECON_FN MaskOf<F> conic_is_valid(F a, F b, F c, F det) {
    return (a > F(0.0f)) & (c > F(0.0f)) & (a <= F(kMaxConic)) & (c <= F(kMaxConic)) & (abs_(b) <= F(kMaxConic)) &
           (det > F(0.0f)) & (a <= F(kMaxVariance) * det) & (c <= F(kMaxVariance) * det);
}

template <class F>
struct Ellipse {
    F skew_x, skew_y;              // b/a, b/c
    F half_width, half_height;     // X, Y
    F chord_x, chord_y;            // √det / a, √det / c
};

// Slightly larger than the exact ellipse, so that rounding never loses a pixel.
template <class F>
RECON_FN Ellipse<F> make_ellipse(F a, F b, F c, F det, F log2_opacity_over_cutoff) {
    // Q = 2 ln(opacity / cutoff), a little enlarged.
    const F q = fma_(log2_opacity_over_cutoff, F(1.38629436112f * 1.0001f), F(1e-3f));
    const F inverse = F(1.0f) / det;
    const F root = sqrt_(det);
    return {b / a, b / c, sqrt_(q * c * inverse), sqrt_(q * a * inverse), root / a, root / c};
}

template <class F>
struct Interval {
    F first, last;
};

// The range of dx over the rows dy in [low, high]; meaningless where the ellipse does not reach them.
// With x and y exchanged (`across` = the other axis's members) it is the range of dy over columns.
template <class F>
RECON_FN Interval<F> span(F low, F high, F skew, F chord, F reach, F extreme) {
    // `extreme` = (b/c) X: the row where the ellipse is leftmost; −extreme is where it is rightmost.
    const F at_last = fmax_(fmin_(-extreme, high), low);
    const F at_first = fmax_(fmin_(extreme, high), low);
    const F reach2 = reach * reach;
    const F last = fma_(chord, sqrt_(fmax_(reach2 - at_last * at_last, F(0.0f))), -skew * at_last);
    const F first = -fma_(chord, sqrt_(fmax_(reach2 - at_first * at_first, F(0.0f))), skew * at_first);
    return {first, last};
}
template <class F>
RECON_FN Interval<F> span_of_rows(const Ellipse<F>& e, F low, F high) {
    return span(low, high, e.skew_x, e.chord_x, e.half_height, e.skew_y * e.half_width);
}
template <class F>
RECON_FN Interval<F> span_of_columns(const Ellipse<F>& e, F low, F high) {
    return span(low, high, e.skew_y, e.chord_y, e.half_width, e.skew_x * e.half_height);
}

// What rounding may move a bound by, in pixels.
template <class F>
RECON_FN F bound_margin(F position, F half_size) {
    return fma_(abs_(position) + half_size, F(2e-6f), F(1e-3f));
}

}  // namespace recon
