// SPDX-License-Identifier: Apache-2.0
// Real spherical harmonics to degree 3 and their derivatives, with the signs of 3D Gaussian splatting (Kerbl et al.
// 2023): bands in the order m = -l .. l, polynomials of the unit direction (x, y, z).
#pragma once
#include "recon/kernels/projection/math.h"

namespace recon::projection {

constexpr double kSh0 = 0.28209479177387814;
constexpr double kSh1 = 0.4886025119029199;
constexpr double kSh2a = 1.0925484305920792, kSh2b = 0.31539156525252005, kSh2c = 0.5462742152960396;
constexpr double kSh3a = 0.5900435899266435, kSh3b = 2.890611442640554, kSh3c = 0.4570457994644658;
constexpr double kSh3d = 0.3731763325901154, kSh3e = 1.445305721320277;

constexpr int sh_bases(int degree) { return (degree + 1) * (degree + 1); }

template <int Degree, class F>
struct ShBasis {
    F y[sh_bases(Degree)];
};

template <int Degree, class F>
RECON_FN ShBasis<Degree, F> sh_basis(Vec3<F> n) {
    ShBasis<Degree, F> b;
    b.y[0] = F(kSh0);
    if constexpr (Degree >= 1) {
        b.y[1] = F(-kSh1) * n.y;
        b.y[2] = F(kSh1) * n.z;
        b.y[3] = F(-kSh1) * n.x;
    }
    if constexpr (Degree >= 2) {
        const F xx = n.x * n.x, yy = n.y * n.y, zz = n.z * n.z;
        b.y[4] = F(kSh2a) * (n.x * n.y);
        b.y[5] = F(-kSh2a) * (n.y * n.z);
        b.y[6] = F(kSh2b) * (zz + zz - xx - yy);
        b.y[7] = F(-kSh2a) * (n.x * n.z);
        b.y[8] = F(kSh2c) * (xx - yy);
        if constexpr (Degree >= 3) {
            const F three(3.0), four(4.0);
            b.y[9] = F(-kSh3a) * n.y * (three * xx - yy);
            b.y[10] = F(kSh3b) * n.x * n.y * n.z;
            b.y[11] = F(-kSh3c) * n.y * (four * zz - xx - yy);
            b.y[12] = F(kSh3d) * n.z * (zz + zz - three * (xx + yy));
            b.y[13] = F(-kSh3c) * n.x * (four * zz - xx - yy);
            b.y[14] = F(kSh3e) * n.z * (xx - yy);
            b.y[15] = F(-kSh3a) * n.x * (xx - three * yy);
        }
    }
    return b;
}

// Gradient by the direction, from the ones by the basis functions.
template <int Degree, class F>
RECON_FN Vec3<F> sh_basis_vjp(Vec3<F> n, const ShBasis<Degree, F>& by) {
    Vec3<F> g{F(0.0), F(0.0), F(0.0)};
    if constexpr (Degree >= 1) {
        g = {F(-kSh1) * by.y[3], F(-kSh1) * by.y[1], F(kSh1) * by.y[2]};
    }
    if constexpr (Degree >= 2) {
        const F two(2.0);
        const F a4 = F(kSh2a) * by.y[4], a5 = F(-kSh2a) * by.y[5], a6 = F(2.0 * kSh2b) * by.y[6];
        const F a7 = F(-kSh2a) * by.y[7], a8 = F(2.0 * kSh2c) * by.y[8];
        g.x = g.x + a4 * n.y + a7 * n.z + (a8 - a6) * n.x;
        g.y = g.y + a4 * n.x + a5 * n.z - (a8 + a6) * n.y;
        g.z = g.z + a5 * n.y + a7 * n.x + two * a6 * n.z;
    }
    if constexpr (Degree >= 3) {
        const F two(2.0), three(3.0), four(4.0), six(6.0), eight(8.0);
        const F xx = n.x * n.x, yy = n.y * n.y, zz = n.z * n.z;
        const F xy = n.x * n.y, xz = n.x * n.z, yz = n.y * n.z;
        const F a9 = F(-kSh3a) * by.y[9], a10 = F(kSh3b) * by.y[10], a11 = F(-kSh3c) * by.y[11];
        const F a12 = F(kSh3d) * by.y[12], a13 = F(-kSh3c) * by.y[13], a14 = F(kSh3e) * by.y[14];
        const F a15 = F(-kSh3a) * by.y[15];
        g.x = g.x + six * a9 * xy + a10 * yz - two * a11 * xy - six * a12 * xz +
              a13 * (four * zz - three * xx - yy) + two * a14 * xz + three * a15 * (xx - yy);
        g.y = g.y + three * a9 * (xx - yy) + a10 * xz + a11 * (four * zz - xx - three * yy) - six * a12 * yz -
              two * a13 * xy - two * a14 * yz - six * a15 * xy;
        g.z = g.z + a10 * xy + eight * a11 * yz + three * a12 * (two * zz - xx - yy) + eight * a13 * xz +
              a14 * (xx - yy);
    }
    return g;
}

// Gradient by a vector, from the one by its direction `n`; `inverse_length` is of the vector.
template <class F>
RECON_FN Vec3<F> normalize_vjp(Vec3<F> n, F inverse_length, Vec3<F> by_n) {
    return inverse_length * axpy(-dot(n, by_n), n, by_n);
}

}  // namespace recon::projection
