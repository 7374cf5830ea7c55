// SPDX-License-Identifier: Apache-2.0
// The projection of one 3D Gaussian into a pinhole camera, and its vector-Jacobian product, over a number type F.
//
// Notation (Zwicker et al., "EWA splatting", 2002; Kerbl et al., "3D Gaussian splatting", 2023, section 4):
//   p = R m + t           the mean in the camera's frame; (u, v) = (x/z, y/z)
//   Σ = Q S Sᵀ Qᵀ         covariance in the world: Q the rotation of the unit quaternion, S = diag(exp(log_scale))
//   W = J R  (2×3)        J the derivative of the pixel by p, with (u, v) clamped a little beyond the picture
//   B = W Q S  (2×3)      so that the covariance in the picture is B Bᵀ + blur I
// The determinant is taken as |b0 × b1|² + blur tr(B Bᵀ) + blur² (Cauchy-Binet): a sum of positive terms, so a
// needle-shaped Gaussian loses no digits.  The antialiasing factor is sqrt(|b0 × b1|² / determinant), from Yu et al.,
// "Mip-Splatting", 2024.
//
// Lanes whose Gaussian is culled may hold anything, NaN included; the scheduler drops them by `Footprint::visible`.
#pragma once
#include "recon/kernels/common/simd.h"

namespace recon::projection {

// Culled beyond these: a quaternion's squared norm, a variance and a determinant in pixels, a colour.  The reference
// has the same numbers.
constexpr double kLeastQuatNorm2 = 1e-30, kMostQuatNorm2 = 1e30;
constexpr double kMostVariance = 1e15, kLeastDeterminant = 1e-12, kMostColor = 1e30;
// The antialiasing factor's square is kept above this, with no gradient below, where its root has no finite slope.
constexpr double kLeastCompensation2 = 2.5e-5;

// The pack's is in simd.h.
RECON_FN float reciprocal_(float a) { return 1.0f / a; }
RECON_FN double reciprocal_(double a) { return 1.0 / a; }

template <class F>
struct Vec3 {
    F x, y, z;
};
template <class F>
RECON_FN Vec3<F> operator+(Vec3<F> a, Vec3<F> b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class F>
RECON_FN Vec3<F> operator*(F s, Vec3<F> a) {
    return {s * a.x, s * a.y, s * a.z};
}
// s a + b
template <class F>
RECON_FN Vec3<F> axpy(F s, Vec3<F> a, Vec3<F> b) {
    return {fma_(s, a.x, b.x), fma_(s, a.y, b.y), fma_(s, a.z, b.z)};
}
template <class F>
RECON_FN F dot(Vec3<F> a, Vec3<F> b) {
    return fma_(a.x, b.x, fma_(a.y, b.y, a.z * b.z));
}
template <class F>
RECON_FN Vec3<F> cross(Vec3<F> a, Vec3<F> b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
template <class F>
RECON_FN Vec3<F> times(Vec3<F> a, Vec3<F> b) {
    return {a.x * b.x, a.y * b.y, a.z * b.z};
}

template <class F>
struct Quat {
    F w, x, y, z;
};

template <class F>
struct Mat3 {
    Vec3<F> row0, row1, row2;
};
template <class F>
RECON_FN Vec3<F> multiply(const Mat3<F>& m, Vec3<F> a) {
    return {dot(m.row0, a), dot(m.row1, a), dot(m.row2, a)};
}
template <class F>
RECON_FN Vec3<F> multiply_transposed(const Mat3<F>& m, Vec3<F> a) {
    return axpy(a.x, m.row0, axpy(a.y, m.row1, a.z * m.row2));
}

// The camera and the options, the same for every Gaussian.
template <class F>
struct View {
    Mat3<F> rotation;     // of cam_from_world
    Vec3<F> translation;  // of cam_from_world
    Vec3<F> center;       // of the camera in the world, -Rᵀ t
    F fx, fy, cx, cy, width, height;
    F u_least, u_most, v_least, v_most;  // where J's x/z and y/z are clamped
    F near_plane, far_plane, blur, alpha_cutoff, inverse_cutoff;
    F most_reach2;  // the squared Mahalanobis distance at which a Gaussian of opacity 1 falls to the cutoff, and more
    bool antialiased;
};

template <class F>
struct Gaussian {
    Vec3<F> mean;
    Quat<F> quat;
    Vec3<F> log_scale;
    F opacity_logit;
};

template <class F>
struct Footprint {
    F mean_x, mean_y;                  // pixels
    F conic_xx, conic_xy, conic_yy;    // of the inverse covariance
    F opacity;                         // compensated
    F depth;                           // z in the camera's frame
    MaskOf<F> visible;                 // before its colour is known
    // Kept for the backward pass.
    F x_over_z, y_over_z, inverse_z;
    F x_clamped, y_clamped;            // of x/z and y/z
    F inverse_norm;                    // of the quaternion
    Quat<F> quat;                      // of unit length
    Mat3<F> axes;                      // Q
    Vec3<F> scale;
    Vec3<F> w0, w1, b0, b1;            // rows of W and B
    F variance_x, covariance, variance_y, determinant;  // with the blur
    Vec3<F> normal;                    // b0 × b1
    F sigmoid, complement;             // and 1 - sigmoid
    F compensation, compensation2;     // the antialiasing factor, and its square before the floor
};

template <class F>
RECON_FN Mat3<F> rotation_of(Quat<F> q) {
    const F one(1.0), two(2.0);
    const F xx = q.x * q.x, yy = q.y * q.y, zz = q.z * q.z;
    const F xy = q.x * q.y, xz = q.x * q.z, yz = q.y * q.z;
    const F wx = q.w * q.x, wy = q.w * q.y, wz = q.w * q.z;
    return {{one - two * (yy + zz), two * (xy - wz), two * (xz + wy)},
            {two * (xy + wz), one - two * (xx + zz), two * (yz - wx)},
            {two * (xz - wy), two * (yz + wx), one - two * (xx + yy)}};
}

// Gradient by the unit quaternion, from the one by its matrix.
template <class F>
RECON_FN Quat<F> rotation_vjp(Quat<F> q, const Mat3<F>& g) {
    const F two(2.0);
    const F g01 = g.row0.y, g02 = g.row0.z, g10 = g.row1.x, g12 = g.row1.z, g20 = g.row2.x, g21 = g.row2.y;
    const F g00 = g.row0.x, g11 = g.row1.y, g22 = g.row2.z;
    return {two * (q.x * (g21 - g12) + q.y * (g02 - g20) + q.z * (g10 - g01)),
            two * (q.y * (g01 + g10) + q.z * (g02 + g20) + q.w * (g21 - g12) - two * q.x * (g11 + g22)),
            two * (q.x * (g01 + g10) + q.z * (g12 + g21) + q.w * (g02 - g20) - two * q.y * (g00 + g22)),
            two * (q.x * (g02 + g20) + q.y * (g12 + g21) + q.w * (g10 - g01) - two * q.z * (g00 + g11))};
}

// Whether every number of the Gaussian is finite: zero times anything else is NaN.
template <class F>
RECON_FN MaskOf<F> is_finite(const Gaussian<F>& g) {
    const F zero(0.0);
    const F a = zero * g.mean.x + zero * g.mean.y + zero * g.mean.z + zero * g.opacity_logit;
    const F b = zero * g.quat.w + zero * g.quat.x + zero * g.quat.y + zero * g.quat.z;
    const F c = zero * g.log_scale.x + zero * g.log_scale.y + zero * g.log_scale.z;
    return (a + b + c) >= zero;
}

// Fills in covariance, determinant, conic and antialiasing factor from b0 and b1.
template <class F>
RECON_FN void shape_in_picture(const View<F>& view, Footprint<F>& f) {
    const F one(1.0);
    const F xx = dot(f.b0, f.b0), xy = dot(f.b0, f.b1), yy = dot(f.b1, f.b1);
    f.normal = cross(f.b0, f.b1);
    const F sharp = dot(f.normal, f.normal);
    f.variance_x = xx + view.blur;
    f.covariance = xy;
    f.variance_y = yy + view.blur;
    f.determinant = sharp + view.blur * (xx + yy + view.blur);
    const F inverse = reciprocal_(f.determinant);
    f.conic_xx = f.variance_y * inverse;
    f.conic_xy = -(xy * inverse);
    f.conic_yy = f.variance_x * inverse;
    f.compensation2 = one;
    f.compensation = one;
    if (view.antialiased) {
        f.compensation2 = sharp * inverse;
        f.compensation = sqrt_(fmax_(f.compensation2, F(kLeastCompensation2)));
    }
}

// Whether the ellipse at which alpha falls to the cutoff touches the picture.
template <class F>
RECON_FN MaskOf<F> touches_picture(const View<F>& view, const Footprint<F>& f) {
    const F zero(0.0), reach2 = F(2.0) * log_(f.opacity * view.inverse_cutoff);
    const F beside_x = fmax_(fmax_(-f.mean_x, f.mean_x - view.width), zero);
    const F beside_y = fmax_(fmax_(-f.mean_y, f.mean_y - view.height), zero);
    return (f.opacity > view.alpha_cutoff) & (beside_x * beside_x <= reach2 * f.variance_x) &
           (beside_y * beside_y <= reach2 * f.variance_y);
}

// Whether the Gaussian may be visible, from its mean and sizes alone; never false for one that is.  Its variances are
// at most those of a ball of its largest scale, its opacity at most 1.
template <class F>
RECON_FN MaskOf<F> may_be_visible(const View<F>& view, Vec3<F> mean, Vec3<F> log_scale) {
    const F zero(0.0), one(1.0);
    const Vec3<F> p = multiply(view.rotation, mean) + view.translation;
    const F inverse_z = reciprocal_(p.z), u = p.x * inverse_z, v = p.y * inverse_z;
    const F x = fma_(view.fx, u, view.cx), y = fma_(view.fy, v, view.cy);
    const F beside_x = fmax_(fmax_(-x, x - view.width), zero), beside_y = fmax_(fmax_(-y, y - view.height), zero);
    const F u_clamped = fmin_(fmax_(u, view.u_least), view.u_most);
    const F v_clamped = fmin_(fmax_(v, view.v_least), view.v_most);
    const F size = exp_(fmax_(fmax_(log_scale.x, log_scale.y), log_scale.z)) * inverse_z;
    const F size_x = view.fx * size, size_y = view.fy * size;
    const F most_x = fma_(size_x * size_x, fma_(u_clamped, u_clamped, one), view.blur);
    const F most_y = fma_(size_y * size_y, fma_(v_clamped, v_clamped, one), view.blur);
    return (p.z > view.near_plane) & (p.z < view.far_plane) & (beside_x * beside_x <= view.most_reach2 * most_x) &
           (beside_y * beside_y <= view.most_reach2 * most_y);
}

template <class F>
RECON_FN Footprint<F> project_gaussian(const View<F>& view, const Gaussian<F>& g) {
    const F one(1.0);
    Footprint<F> f;
    const Vec3<F> p = multiply(view.rotation, g.mean) + view.translation;
    f.depth = p.z;
    f.inverse_z = reciprocal_(p.z);
    f.x_over_z = p.x * f.inverse_z;
    f.y_over_z = p.y * f.inverse_z;
    f.x_clamped = fmin_(fmax_(f.x_over_z, view.u_least), view.u_most);
    f.y_clamped = fmin_(fmax_(f.y_over_z, view.v_least), view.v_most);
    f.mean_x = fma_(view.fx, f.x_over_z, view.cx);
    f.mean_y = fma_(view.fy, f.y_over_z, view.cy);

    const Quat<F> q = g.quat;
    const F norm2 = q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z;
    f.inverse_norm = rsqrt_(norm2);
    f.quat = {q.w * f.inverse_norm, q.x * f.inverse_norm, q.y * f.inverse_norm, q.z * f.inverse_norm};
    f.axes = rotation_of(f.quat);
    f.scale = {exp_(g.log_scale.x), exp_(g.log_scale.y), exp_(g.log_scale.z)};

    const F per_x = view.fx * f.inverse_z, per_y = view.fy * f.inverse_z;
    f.w0 = per_x * axpy(-f.x_clamped, view.rotation.row2, view.rotation.row0);
    f.w1 = per_y * axpy(-f.y_clamped, view.rotation.row2, view.rotation.row1);
    f.b0 = times(multiply_transposed(f.axes, f.w0), f.scale);
    f.b1 = times(multiply_transposed(f.axes, f.w1), f.scale);
    shape_in_picture(view, f);
    const F faded = exp_(-g.opacity_logit);
    f.sigmoid = reciprocal_(one + faded);
    f.complement = faded * f.sigmoid;
    f.opacity = f.sigmoid * f.compensation;

    f.visible = is_finite(g) & (p.z > view.near_plane) & (p.z < view.far_plane) & (norm2 > F(kLeastQuatNorm2)) &
                (norm2 < F(kMostQuatNorm2)) & (f.variance_x < F(kMostVariance)) &
                (f.variance_y < F(kMostVariance)) & (f.determinant > F(kLeastDeterminant)) &
                touches_picture(view, f);
    return f;
}

// Gradients of the loss by what the projection gives.
template <class F>
struct ScreenGradient {
    F mean_x, mean_y, conic_xx, conic_xy, conic_yy, opacity, depth;
};

template <class F>
struct GaussianGradient {
    Vec3<F> mean;
    Quat<F> quat;
    Vec3<F> log_scale;
    F opacity_logit;
    Mat3<F> rotation;     // of cam_from_world
    Vec3<F> translation;  // of cam_from_world
};

// Gradients by the rows of a 2×3 matrix, B or W.
template <class F>
struct RowsGradient {
    Vec3<F> row0, row1;
};

// Gradient by B.  It goes the way that the forward came, through b0 × b1: differentiating the inverse matrix instead
// would cost a digit.
template <class F>
RECON_FN RowsGradient<F> shape_vjp(const View<F>& view, const Footprint<F>& f, const ScreenGradient<F>& g) {
    const F two(2.0), inverse = reciprocal_(f.determinant);
    F by_determinant = -(inverse * (g.conic_xx * f.conic_xx + g.conic_xy * f.conic_xy + g.conic_yy * f.conic_yy));
    F by_sharp(0.0);
    if (view.antialiased) {
        const F by_factor2 = select(f.compensation2 > F(kLeastCompensation2),
                                    F(0.5) * g.opacity * f.sigmoid * reciprocal_(f.compensation), F(0.0));
        by_sharp = by_factor2 * inverse;
        by_determinant = by_determinant - by_sharp * f.compensation2;
    }
    by_sharp = by_sharp + by_determinant;
    const F by_xx = fma_(view.blur, by_determinant, g.conic_yy * inverse);
    const F by_yy = fma_(view.blur, by_determinant, g.conic_xx * inverse);
    const F by_xy = -(g.conic_xy * inverse);
    const Vec3<F> by_normal = (two * by_sharp) * f.normal;
    return {axpy(two * by_xx, f.b0, axpy(by_xy, f.b1, cross(f.b1, by_normal))),
            axpy(two * by_yy, f.b1, axpy(by_xy, f.b0, cross(by_normal, f.b0)))};
}

// Gradient by W, from the one by B; sets those of the quaternion and the log scales.
template <class F>
RECON_FN RowsGradient<F> axes_vjp(const Footprint<F>& f, const RowsGradient<F>& by_b, GaussianGradient<F>& out) {
    out.log_scale = times(by_b.row0, f.b0) + times(by_b.row1, f.b1);
    const Vec3<F> s0 = times(by_b.row0, f.scale), s1 = times(by_b.row1, f.scale);
    const Mat3<F> by_axes{axpy(f.w0.x, s0, f.w1.x * s1), axpy(f.w0.y, s0, f.w1.y * s1),
                          axpy(f.w0.z, s0, f.w1.z * s1)};
    const Quat<F> q = f.quat, by_unit = rotation_vjp(q, by_axes);
    const F along = q.w * by_unit.w + q.x * by_unit.x + q.y * by_unit.y + q.z * by_unit.z;
    out.quat = {f.inverse_norm * (by_unit.w - along * q.w), f.inverse_norm * (by_unit.x - along * q.x),
                f.inverse_norm * (by_unit.y - along * q.y), f.inverse_norm * (by_unit.z - along * q.z)};
    return {multiply(f.axes, s0), multiply(f.axes, s1)};
}

// What `g` at the outputs means for the Gaussian and for the pose; the view direction's share is not in it.
template <class F>
RECON_FN GaussianGradient<F> project_vjp(const View<F>& view, const Gaussian<F>& gaussian, const Footprint<F>& f,
                                         const ScreenGradient<F>& g) {
    const F zero(0.0);
    GaussianGradient<F> out;
    const RowsGradient<F> by = axes_vjp(f, shape_vjp(view, f, g), out);
    out.opacity_logit = g.opacity * f.compensation * f.sigmoid * f.complement;

    const F per_x = view.fx * f.inverse_z, per_y = view.fy * f.inverse_z;
    const F by_x_clamped = -(per_x * dot(by.row0, view.rotation.row2));
    const F by_y_clamped = -(per_y * dot(by.row1, view.rotation.row2));
    const MaskOf<F> x_free = (f.x_over_z > view.u_least) & (f.x_over_z < view.u_most);
    const MaskOf<F> y_free = (f.y_over_z > view.v_least) & (f.y_over_z < view.v_most);
    const F by_x = fma_(view.fx, g.mean_x, select(x_free, by_x_clamped, zero));
    const F by_y = fma_(view.fy, g.mean_y, select(y_free, by_y_clamped, zero));
    const F by_z = g.depth - f.inverse_z * (by_x * f.x_over_z + by_y * f.y_over_z + dot(by.row0, f.w0) +
                                            dot(by.row1, f.w1));
    const Vec3<F> by_p{by_x * f.inverse_z, by_y * f.inverse_z, by_z};

    out.mean = multiply_transposed(view.rotation, by_p);
    out.translation = by_p;
    out.rotation.row0 = axpy(by_p.x, gaussian.mean, per_x * by.row0);
    out.rotation.row1 = axpy(by_p.y, gaussian.mean, per_y * by.row1);
    out.rotation.row2 = axpy(by_p.z, gaussian.mean,
                             axpy(-(per_x * f.x_clamped), by.row0, -(per_y * f.y_clamped) * by.row1));
    return out;
}

}  // namespace recon::projection
