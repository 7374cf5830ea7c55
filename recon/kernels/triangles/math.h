// SPDX-License-Identifier: Apache-2.0
// A pixel's ray against a triangle by homogeneous edge functions (Olano and Greer 1997): no clipping is needed, not
// even for triangles that pass behind the camera.
//
// Notation: the ray is r = (x, y, 1); the triangle's corners are a, b, c.  The edge function of the side opposite to
// a is r · (b × c); the three have one sign inside the triangle's cone and are perspective-correct barycentric weights
// up to their sum; the depth of the hit is a · (b × c) over that sum.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon {

template <class F>
struct EdgeFunction {
    F x, y, z;
    RECON_FN F at(F rx, F ry) const { return fma_(x, rx, fma_(y, ry, z)); }
};

// u × v.  The caller passes the ends of a side in one order for both triangles that share it and flips the sign, so
// that rounding cannot open a gap between them.
template <class F>
RECON_FN EdgeFunction<F> edge_function(F ux, F uy, F uz, F vx, F vy, F vz, F sign) {
    return {sign * (uy * vz - uz * vy), sign * (uz * vx - ux * vz), sign * (ux * vy - uy * vx)};
}

}  // namespace recon
