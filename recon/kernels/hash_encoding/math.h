// SPDX-License-Identifier: Apache-2.0
// The multiresolution hash encoding at one position of one level (Müller et al. 2022, section 3): which cell it lies in,
// the rows of the cell's vertices, and the derivative of the interpolation.
//
// A corner has a number of three bits: bit a is 1 at the upper end of axis a.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

// Factors of the hash by axis; that of x is 1.
constexpr uint32_t kHashFactorY = 2654435761u, kHashFactorZ = 805459861u;

// What lies outside goes to the border, and NaN to 0.
template <class F>
RECON_FN F bounded_to_unit(F x) {
    return fmin_(fmax_(x, F(0.0f)), F(1.0f));
}

// Where a bounded coordinate lies among the cells, of which it takes the whole part.
template <class F>
RECON_FN F among_cells(F x, F resolution) {
    return fma_(x, resolution, F(0.5f));
}

// How far above the whole number `cell` that is.  With a fused multiplication it has one rounding, whereas
// `among_cells` loses as many bits as the cell's number has.
template <class F>
RECON_FN F above_cell(F x, F resolution, F cell) {
    return fma_(x, resolution, F(0.5f) - cell);
}

// Joins what the axes contribute to a row's number: of a dense level a sum, else the hash before its modulus (eq. 4).
template <bool Dense, class I>
RECON_FN I join_axes(I a, I b) {
    if constexpr (Dense) return a + b;
    return a ^ b;
}

// The vertex's weight along one axis, of which `fraction` is the upper one's.
template <class F>
RECON_FN F axis_weight(F fraction, bool upper) {
    return upper ? fraction : F(1.0f) - fraction;
}

// A row's derivatives by the position in cells.
template <class V>
struct AxisDerivatives {
    V x, y, z;
};

// Of the trilinear interpolation of eight vertices' values V with a position F in the cell.
template <class V, class F>
RECON_FN AxisDerivatives<V> trilinear_derivatives(const V (&corners)[8], F x, F y, F z) {
    V along_x[4], at_x[4];
    for (int i = 0; i < 4; ++i) {
        along_x[i] = corners[2 * i + 1] - corners[2 * i];
        at_x[i] = corners[2 * i] + x * along_x[i];
    }
    const V low = along_x[0] + y * (along_x[1] - along_x[0]), high = along_x[2] + y * (along_x[3] - along_x[2]);
    const V along_y_low = at_x[1] - at_x[0], along_y_high = at_x[3] - at_x[2];
    return {low + z * (high - low), along_y_low + z * (along_y_high - along_y_low),
            (at_x[2] + y * along_y_high) - (at_x[0] + y * along_y_low)};
}

}  // namespace recon
