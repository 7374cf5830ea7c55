// SPDX-License-Identifier: Apache-2.0
// Volume compositing of one sample, forward and its vector-Jacobian product; see op.py for the notation and sources.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

inline constexpr float kMostExponent = 15.0f;  // raw densities, shifted, are clamped to ± this
inline constexpr float kDarkness = 1e-20f;     // less light counts as none; denormal numbers would be slow
inline constexpr float kMostDepth = 1e30f;

// The pack's is in simd.h.
RECON_FN float reciprocal_(float a) { return 1.0f / a; }
RECON_FN double reciprocal_(double a) { return 1.0 / a; }

// The optical depth of a sample and its derivative to the raw density.
template <class F>
struct OpticalDepth {
    F depth, slope;
};

// fmin_ and fmax_ give their second argument where either is NaN; what is multiplied by 0 and added brings a NaN back
// that exp_ loses.
template <class F>
RECON_FN OpticalDepth<F> optical_depth(F raw, F length, F shift) {
    const F most(kMostExponent), exponent = raw + shift;
    const F clamped = fmax_(-most, fmin_(most, exponent));
    const F depth = fmin_(F(kMostDepth), fma_(clamped, F(0.0f), exp_(clamped)) * length);
    return {depth, select((exponent >= -most) & (exponent <= most), depth, F(0.0f))};
}

// 1 - e^-depth for depths of at least 0, also where they are small.
RECON_FN float absorbed(float depth) { return -::expm1f(-depth); }
RECON_FN double absorbed(double depth) { return -::expm1(-depth); }
#if !defined(__CUDACC__)
RECON_FN Pack absorbed(Pack depth) {
    // e^a = 2^n e^f with |f| <= ln2 / 2 as in exp_, but e^f - 1 is kept apart from the 1; |a| >= 60 is all the same.
    const Pack a = -fmin_(Pack(60.0f), depth), n = round_(a * Pack(1.44269504088896341f));
    const Pack power = exp2_integral(n);
    Pack f = fma_(n, Pack(-0.693145751953125f), a);
    f = fma_(n, Pack(-1.42860682030941723e-6f), f);
    Pack p = fma_(f, Pack(1.9875691500e-4f), Pack(1.3981999507e-3f));
    p = fma_(p, f, Pack(8.3334519073e-3f));
    p = fma_(p, f, Pack(4.1665795894e-2f));
    p = fma_(p, f, Pack(1.6666665459e-1f));
    p = fma_(p, f, Pack(5.0000001201e-1f));
    p = fma_(p, f * f, f);
    return fnma_(power, p, Pack(1.0f) - power);
}
#endif

template <class F>
RECON_FN F sigmoid(F raw) {
    const F clamped = fmax_(F(-80.0f), fmin_(F(80.0f), raw));
    return reciprocal_(F(1.0f) + fma_(clamped, F(0.0f), exp_(-clamped)));
}

// Where the transmittance falls from `light` > 1/2 to 1/2 or less, as a part of the sample's length.
template <class F>
RECON_FN F median_part(F light, F depth) {
    return fmin_(F(1.0f), fmax_(F(0.0f), log_(light + light) / depth));
}

// Beyond this s is 1, and squares stay finite.
template <class F>
RECON_FN F within_reach(F x) {
    return fmin_(F(1e15f), x);
}

// What distortion needs of a sample at x = distance · scale: 1 / (1 + x), and its width in s = x / (1 + x).  A
// difference of two s is that of the x times both 1 / (1 + x), which loses no digits.
template <class F>
struct Spacing {
    F inverse, width;
};
template <class F>
RECON_FN Spacing<F> spacing(F x, F length) {
    const F one_plus = F(1.0f) + x, half = F(0.5f) * within_reach(length);
    // From 1 + where it begins, which is not before the camera, to 1 + where it ends.
    const F first = fmax_(F(1.0f), one_plus - half), last = one_plus + half;
    return {reciprocal_(one_plus), fmin_(half + x, half + half) * reciprocal_(first * last)};
}

// How much of the gradient of a sample counts (Philip and Deschaintre 2023).
template <class F>
RECON_FN F near_factor(F distance, F inverse_near) {
    const F part = distance * inverse_near;
    return fmin_(F(1.0f), part * part);
}

// d distortion / d weight, where `crowding` is the sum of w_j |s - s_j| over all others.
template <class F>
RECON_FN F distortion_slope(F crowding, F weight, F width) {
    return F(2.0f) * fma_(F(1.0f / 3.0f) * weight, width, crowding);
}

// The backward pass goes from the back to the front and carries `expected`, what the light that leaves the sample
// behind will meet: the mean over it of what the loss gains per weight.  It gives d loss / d optical depth.
//   L = ... + T_i (a_i v_i + (1 - a_i) E_i),  E_{i-1} = a_i v_i + (1 - a_i) E_i,  dL/dτ_i = T_{i+1} (v_i - E_i)
template <class F>
RECON_FN F by_optical_depth(F behind, F opacity, F value, F& expected) {
    const F gain = value - expected;
    expected = fma_(opacity, gain, expected);
    return behind * gain;
}

}  // namespace recon
