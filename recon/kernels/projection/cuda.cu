// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of the projection: a thread owns a Gaussian, forward and backward.  The thread reads its own SH row;
// only visible Gaussians read theirs.  The pose's gradient is summed over a block in double, block by block into
// `pose_partial`, and by one more block in their order, so that it is the same in every run.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/projection/cuda.h"
#include "recon/kernels/projection/gaussians.cuh"

namespace recon::projection {
namespace {

template <int Degree>
RECON_FN Vec3<float> color_of(const float* sh, Vec3<float> direction) {
    const ShBasis<Degree, float> basis = sh_basis<Degree>(direction);
    Vec3<float> color{0.5f, 0.5f, 0.5f};
    for (int k = 0; k < sh_bases(Degree); ++k) {
        color.x = fma_(basis.y[k], sh[3 * k], color.x);
        color.y = fma_(basis.y[k], sh[3 * k + 1], color.y);
        color.z = fma_(basis.y[k], sh[3 * k + 2], color.z);
    }
    return color;
}

RECON_FN Vec3<float> color_of(int degree, const float* sh, Vec3<float> direction) {
    switch (degree) {
        case 0: return color_of<0>(sh, direction);
        case 1: return color_of<1>(sh, direction);
        case 2: return color_of<2>(sh, direction);
        default: return color_of<3>(sh, direction);
    }
}

RECON_FN bool in_range(float a) { return abs_(a) < static_cast<float>(kMostColor); }

struct Shown {
    bool visible;
    Footprint<float> footprint;
    Vec3<float> color;
};

RECON_FN Shown show(const ProjectionParams& p, const View<float>& view, int64_t i) {
    Shown s;
    s.color = {0.0f, 0.0f, 0.0f};
    const Gaussian<float> g = load_gaussian(p, i);
    s.visible = may_be_visible(view, g.mean, g.log_scale);
    if (!s.visible) return s;
    s.footprint = project_gaussian(view, g);
    s.visible = s.footprint.visible;
    if (!s.visible) return s;
    s.color = color_of(p.sh_degree, p.sh + i * 3 * p.sh_bases, direction_to(view, g.mean).unit);
    s.visible = in_range(s.color.x) && in_range(s.color.y) && in_range(s.color.z);
    return s;
}

// Gradient by the coefficients of one Gaussian; returns that by its mean through the view direction.
template <int Degree>
RECON_FN Vec3<float> color_vjp(const ProjectionParams& p, int64_t i, const Direction& direction, Vec3<float> by) {
    const ShBasis<Degree, float> basis = sh_basis<Degree>(direction.unit);
    ShBasis<Degree, float> by_basis;
    const float* sh = p.sh + i * 3 * p.sh_bases;
    float* out = p.grad_sh == nullptr ? nullptr : p.grad_sh + i * 3 * p.sh_bases;
    for (int k = 0; k < sh_bases(Degree); ++k) {
        by_basis.y[k] = fma_(sh[3 * k], by.x, fma_(sh[3 * k + 1], by.y, sh[3 * k + 2] * by.z));
        if (out == nullptr) continue;
        out[3 * k] = basis.y[k] * by.x, out[3 * k + 1] = basis.y[k] * by.y, out[3 * k + 2] = basis.y[k] * by.z;
    }
    for (int k = 3 * sh_bases(Degree); out != nullptr && k < 3 * p.sh_bases; ++k) out[k] = 0.0f;
    return normalize_vjp(direction.unit, direction.inverse_length, sh_basis_vjp<Degree>(direction.unit, by_basis));
}

RECON_FN Vec3<float> color_vjp(const ProjectionParams& p, int64_t i, const Direction& direction, Vec3<float> by) {
    switch (p.sh_degree) {
        case 0: return color_vjp<0>(p, i, direction, by);
        case 1: return color_vjp<1>(p, i, direction, by);
        case 2: return color_vjp<2>(p, i, direction, by);
        default: return color_vjp<3>(p, i, direction, by);
    }
}

RECON_FN Vec3<float> by_color(const ProjectionParams& p, int64_t i) {
    if (p.grad_colors == nullptr) return {0.0f, 0.0f, 0.0f};
    const float *c = p.colors + 3 * i, *g = p.grad_colors + 3 * i;
    return {c[0] > 0.0f ? g[0] : 0.0f, c[1] > 0.0f ? g[1] : 0.0f, c[2] > 0.0f ? g[2] : 0.0f};
}

RECON_FN ScreenGradient<float> screen_gradient(const ProjectionParams& p, int64_t i) {
    ScreenGradient<float> g{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (p.grad_means_px != nullptr) g.mean_x = p.grad_means_px[2 * i], g.mean_y = p.grad_means_px[2 * i + 1];
    if (p.grad_conics != nullptr) {
        const float* c = p.grad_conics + 3 * i;
        g.conic_xx = c[0], g.conic_xy = c[1], g.conic_yy = c[2];
    }
    if (p.grad_opacities != nullptr) g.opacity = p.grad_opacities[i];
    if (p.grad_depths != nullptr) g.depth = p.grad_depths[i];
    return g;
}

RECON_FN void put(float* to, Vec3<float> a) { to[0] = a.x, to[1] = a.y, to[2] = a.z; }

// Writes the gradients of a Gaussian, zero for a culled one.
RECON_FN void write_gradients(const ProjectionParams& p, int64_t i, const GaussianGradient<float>& g) {
    if (p.grad_means != nullptr) put(p.grad_means + 3 * i, g.mean);
    if (p.grad_log_scales != nullptr) put(p.grad_log_scales + 3 * i, g.log_scale);
    if (p.grad_quats != nullptr) store_four(p.grad_quats + 4 * i, {g.quat.w, g.quat.x, g.quat.y, g.quat.z});
    if (p.grad_opacity_logits != nullptr) p.grad_opacity_logits[i] = g.opacity_logit;
}

}  // namespace
}  // namespace recon::projection

using namespace recon;
using namespace recon::projection;

RECON_KERNEL(project_forward, ProjectionLaunch, 256) {
    RECON_SHARED(View<float>, view);
    const ProjectionParams& q = p.projection;
    if (threadIdx.x == 0) view = view_of<float>(q);
    __syncthreads();
    const int64_t i = global_thread();
    if (i >= q.count) return;
    const Shown s = show(q, view, i);
    q.visible[i] = s.visible ? 1 : 0;
    const auto kept = [&](float a) { return s.visible ? a : 0.0f; };
    const Footprint<float>& f = s.footprint;
    q.means_px[2 * i] = kept(f.mean_x), q.means_px[2 * i + 1] = kept(f.mean_y);
    put(q.conics + 3 * i, {kept(f.conic_xx), kept(f.conic_xy), kept(f.conic_yy)});
    q.opacities[i] = kept(f.opacity);
    q.depths[i] = kept(f.depth);
    put(q.colors + 3 * i, {kept(fmax_(s.color.x, 0.0f)), kept(fmax_(s.color.y, 0.0f)), kept(fmax_(s.color.z, 0.0f))});
}

RECON_KERNEL(project_backward, ProjectionLaunch, 128) {
    RECON_SHARED(View<float>, view);
    RECON_SHARED(PoseScratch, scratch);
    const ProjectionParams& q = p.projection;
    if (threadIdx.x == 0) view = view_of<float>(q);
    __syncthreads();
    const int64_t i = global_thread();
    const bool present = i < q.count, visible = present && q.visible[i] != 0;
    const Vec3<float> zero{0.0f, 0.0f, 0.0f};
    GaussianGradient<float> g{zero, {0.0f, 0.0f, 0.0f, 0.0f}, zero, 0.0f, {zero, zero, zero}, zero};
    Vec3<float> by_direction = zero;
    if (visible) {
        const Gaussian<float> gaussian = load_gaussian(q, i);
        g = project_vjp(view, gaussian, project_gaussian(view, gaussian), screen_gradient(q, i));
        by_direction = color_vjp(q, i, direction_to(view, gaussian.mean), by_color(q, i));
        g.mean = g.mean + by_direction;
    }
    if (visible || (present && q.zero_culled)) write_gradients(q, i, g);
    if (present && !visible && q.zero_culled && q.grad_sh != nullptr)
        for (int k = 0; k < 3 * q.sh_bases; ++k) q.grad_sh[i * 3 * q.sh_bases + k] = 0.0f;
    if (p.pose_partial != nullptr)
        sum_pose(g, by_direction, scratch, p.pose_partial + static_cast<int64_t>(blockIdx.x) * kPoseSums);
}

RECON_KERNEL(finish_pose_gradient, ProjectionLaunch, 32) {
    RECON_SHARED(PoseTotals, totals);
    const int s = lane_number();
    if (s < kPoseSums) {
        double sum = 0;
        for (int64_t block = 0; block < p.pose_blocks; ++block) sum += p.pose_partial[block * kPoseSums + s];
        totals.of[s] = sum;
    }
    __syncwarp();
    if (s == 0) finish_pose(p.projection, totals.of);
}
