// SPDX-License-Identifier: Apache-2.0
// The camera and the options of a projection, broadcast to the number type that the math runs on.
#pragma once
#include "recon/kernels/projection/math.h"
#include "recon/kernels/projection/params.h"

namespace recon::projection {

// As the original 3D Gaussian splatting does, the linearised projection is taken at most this many half fields of
// view beyond the picture's border; each side for itself, because the principal point may be anywhere.
constexpr double kClampBeyond = 0.3;

template <class F, class T>
inline View<F> view_of(const ProjectionParamsOf<T>& p) {
    const T* m = p.cam_from_world;
    const double r[9] = {double(m[0]), double(m[1]), double(m[2]), double(m[4]), double(m[5]),
                         double(m[6]), double(m[8]), double(m[9]), double(m[10])};
    const double t[3] = {double(m[3]), double(m[7]), double(m[11])};
    View<F> v;
    v.rotation = {{F(r[0]), F(r[1]), F(r[2])}, {F(r[3]), F(r[4]), F(r[5])}, {F(r[6]), F(r[7]), F(r[8])}};
    v.translation = {F(t[0]), F(t[1]), F(t[2])};
    v.center = {F(-(r[0] * t[0] + r[3] * t[1] + r[6] * t[2])), F(-(r[1] * t[0] + r[4] * t[1] + r[7] * t[2])),
                F(-(r[2] * t[0] + r[5] * t[1] + r[8] * t[2]))};
    v.fx = F(p.fx), v.fy = F(p.fy), v.cx = F(p.cx), v.cy = F(p.cy), v.width = F(p.width), v.height = F(p.height);
    const double beyond_x = kClampBeyond * 0.5 * p.width / p.fx, beyond_y = kClampBeyond * 0.5 * p.height / p.fy;
    v.u_least = F(-p.cx / p.fx - beyond_x), v.u_most = F((p.width - p.cx) / p.fx + beyond_x);
    v.v_least = F(-p.cy / p.fy - beyond_y), v.v_most = F((p.height - p.cy) / p.fy + beyond_y);
    v.near_plane = F(p.near_plane), v.far_plane = F(p.far_plane);
    v.blur = F(p.blur_px2), v.alpha_cutoff = F(p.alpha_cutoff);
    v.inverse_cutoff = F(1.0 / p.alpha_cutoff);
    v.most_reach2 = F(-2.02 * std::log(p.alpha_cutoff) + 1e-3);  // leaves room for rounding
    v.antialiased = p.antialiased != 0;
    return v;
}

// What the Gaussians of one camera add to the pose's gradient: rows of R, t, and the view directions.
constexpr int kPoseSums = 15;

// The pose's gradient [3, 4] from the sums, where `sums[12..14]` is the gradient by minus the camera's centre Rᵀ t.
template <class T>
inline void finish_pose(const ProjectionParamsOf<T>& p, const double* sums) {
    const T* m = p.cam_from_world;
    for (int i = 0; i < 3; ++i) {
        double by_translation = sums[9 + i];
        for (int j = 0; j < 3; ++j) {
            p.grad_cam_from_world[4 * i + j] = sums[3 * i + j] + double(m[4 * i + 3]) * sums[12 + j];
            by_translation += double(m[4 * i + j]) * sums[12 + j];
        }
        p.grad_cam_from_world[4 * i + 3] = by_translation;
    }
}

}  // namespace recon::projection
