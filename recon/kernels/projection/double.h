// SPDX-License-Identifier: Apache-2.0
// The scalar scheduler in double precision: the same math, one Gaussian after the other on one thread.  The tests
// differentiate it numerically, which float is too coarse for.
#pragma once
#include "recon/kernels/projection/spherical_harmonics.h"
#include "recon/kernels/projection/view.h"

namespace recon::projection {

inline Gaussian<double> gaussian_at(const ProjectionParamsDouble& p, int64_t i) {
    const double *m = p.means + 3 * i, *q = p.quats + 4 * i, *s = p.log_scales + 3 * i;
    return {{m[0], m[1], m[2]}, {q[0], q[1], q[2], q[3]}, {s[0], s[1], s[2]}, p.opacity_logits[i]};
}

template <int Degree>
inline void raw_color(const ProjectionParamsDouble& p, int64_t i, const ShBasis<Degree, double>& basis,
                      double (&color)[3]) {
    const double* sh = p.sh + i * p.sh_bases * 3;
    for (int c = 0; c < 3; ++c) {
        color[c] = 0.5;
        for (int k = 0; k < sh_bases(Degree); ++k) color[c] += basis.y[k] * sh[3 * k + c];
    }
}

struct Direction {
    Vec3<double> unit;
    double inverse_length;
};
inline Direction direction_to(const View<double>& view, Vec3<double> mean) {
    const Vec3<double> d = mean + -1.0 * view.center;
    const double inverse = 1.0 / sqrt_(dot(d, d));
    return {inverse * d, inverse};
}

template <int Degree>
void forward_double(const ProjectionParamsDouble& p) {
    const View<double> view = view_of<double>(p);
    for (int64_t i = 0; i < p.count; ++i) {
        const Gaussian<double> g = gaussian_at(p, i);
        const Footprint<double> f = project_gaussian(view, g);
        double color[3];
        raw_color<Degree>(p, i, sh_basis<Degree>(direction_to(view, g.mean).unit), color);
        bool visible = f.visible;
        for (double c : color) visible = visible && abs_(c) < kMostColor;
        const double keep[] = {f.mean_x, f.mean_y, f.conic_xx, f.conic_xy, f.conic_yy, f.opacity, f.depth};
        p.visible[i] = visible;
        p.means_px[2 * i] = visible ? keep[0] : 0.0, p.means_px[2 * i + 1] = visible ? keep[1] : 0.0;
        for (int c = 0; c < 3; ++c) {
            p.conics[3 * i + c] = visible ? keep[2 + c] : 0.0;
            p.colors[3 * i + c] = visible ? fmax_(color[c], 0.0) : 0.0;
        }
        p.opacities[i] = visible ? keep[5] : 0.0;
        p.depths[i] = visible ? keep[6] : 0.0;
    }
}

// Every gradient pointer must be set.  Writes the gradient by the coefficients, returns the one by the view direction.
template <int Degree>
inline Vec3<double> color_vjp_double(const ProjectionParamsDouble& p, int64_t i, const Direction& direction) {
    const ShBasis<Degree, double> basis = sh_basis<Degree>(direction.unit);
    double color[3];
    raw_color<Degree>(p, i, basis, color);
    ShBasis<Degree, double> by_basis{};
    for (int k = 0; k < sh_bases(Degree); ++k)
        for (int c = 0; c < 3; ++c) {
            const double by_color = color[c] > 0 ? p.grad_colors[3 * i + c] : 0.0;
            const int64_t at = (i * p.sh_bases + k) * 3 + c;
            p.grad_sh[at] = basis.y[k] * by_color;
            by_basis.y[k] += p.sh[at] * by_color;
        }
    return normalize_vjp(direction.unit, direction.inverse_length, sh_basis_vjp<Degree>(direction.unit, by_basis));
}

template <int Degree>
void backward_double(const ProjectionParamsDouble& p) {
    const View<double> view = view_of<double>(p);
    double sums[kPoseSums] = {};
    for (int64_t i = 0; i < p.count; ++i) {
        for (int k = 0; k < 3 * p.sh_bases; ++k) p.grad_sh[i * p.sh_bases * 3 + k] = 0.0;
        GaussianGradient<double> out{};
        if (p.visible[i]) {
            const Gaussian<double> g = gaussian_at(p, i);
            const double* conic = p.grad_conics + 3 * i;
            const ScreenGradient<double> by{p.grad_means_px[2 * i], p.grad_means_px[2 * i + 1], conic[0], conic[1],
                                            conic[2], p.grad_opacities[i], p.grad_depths[i]};
            out = project_vjp(view, g, project_gaussian(view, g), by);
            const Vec3<double> by_direction = color_vjp_double<Degree>(p, i, direction_to(view, g.mean));
            out.mean = out.mean + by_direction;
            const Vec3<double> rows[] = {out.rotation.row0, out.rotation.row1, out.rotation.row2, out.translation,
                                         by_direction};
            for (int r = 0; r < 5; ++r)
                sums[3 * r] += rows[r].x, sums[3 * r + 1] += rows[r].y, sums[3 * r + 2] += rows[r].z;
        }
        double *m = p.grad_means + 3 * i, *q = p.grad_quats + 4 * i, *s = p.grad_log_scales + 3 * i;
        m[0] = out.mean.x, m[1] = out.mean.y, m[2] = out.mean.z;
        q[0] = out.quat.w, q[1] = out.quat.x, q[2] = out.quat.y, q[3] = out.quat.z;
        s[0] = out.log_scale.x, s[1] = out.log_scale.y, s[2] = out.log_scale.z;
        p.grad_opacity_logits[i] = out.opacity_logit;
    }
    finish_pose(p, sums);
}

}  // namespace recon::projection
