// SPDX-License-Identifier: Apache-2.0
// Where the zero of a linear function between two lattice points lies.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

// Vertices keep off the lattice points by this share of an edge, so that no triangle degenerates to a point.
inline constexpr float kEdgeMargin = 1e-3f;

// Share of the way from `a` to `b`, which have different signs.
template <class F>
RECON_FN F crossing(F a, F b) {
    return fmin_(fmax_(a / (a - b), F(kEdgeMargin)), F(1.0f - kEdgeMargin));
}

// Derivative at a lattice point from its neighbours along one axis: central, one-sided where one is unobserved, 0
// where both are.
template <class F>
RECON_FN F slope(F before, F here, F after, MaskOf<F> has_before, MaskOf<F> has_after) {
    const F central = (after - before) * F(0.5f);
    const F one_sided = select(has_after, after - here, select(has_before, here - before, F(0.0f)));
    return select(has_before & has_after, central, one_sided);
}

}  // namespace recon
