// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of the projection's backward pass joined to Adam: no gradient of a Gaussian is ever written.
//
// A thread owns a Gaussian's shape; a warp owns the SH rows of its 32 Gaussians, which lie side by side: it reads and
// steps them 32 numbers at a time.  In between, the rows stand in shared memory, where a thread exchanges its
// coefficients for their gradients.
#include "recon/kernels/adam/math.h"
#include "recon/kernels/blend/moments.cuh"
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/projection/gaussians.cuh"
#include "recon/kernels/update/cuda.h"

namespace recon::projection {
namespace {

constexpr int kUpdateWarps = 4;

// Adam's constants, the same for every number.
struct Adam {
    float beta1, beta2, scale2, epsilon, per_rate;

    RECON_FN explicit Adam(const UpdateParams& p)
        : beta1(p.beta1), beta2(p.beta2), scale2(rsqrt_(p.bias_correction2)), epsilon(p.epsilon),
          per_rate(1.0f / p.bias_correction1) {}

    RECON_FN void step(const TrainedRows& t, int64_t at, float gradient, float rate) const {
        const AdamState<float> s{t.value[at], t.first_moment[at], t.second_moment[at]};
        const AdamState<float> n = adam_update(s, gradient, beta1, beta2, rate * per_rate, scale2, epsilon);
        t.value[at] = n.parameter, t.first_moment[at] = n.first_moment, t.second_moment[at] = n.second_moment;
    }
};

// One more column than there are, so that lanes that read down a column meet no bank twice.
template <int Degree>
struct ShRows {
    static constexpr int kColumns = 3 * sh_bases(Degree), kStride = kColumns + 1;
    float of[kUpdateWarps][kWarp * kStride];
};

// Steps `Columns` numbers of each row, whose gradients stand in `rows`.
template <int Columns>
RECON_FN void step_rows(const UpdateParams& p, const Adam& adam, int64_t first, unsigned set, const float* rows,
                        int stride) {
    const int64_t width = 3 * p.projection.sh_bases;
#pragma unroll 4
    for (int at = lane_number(); at < kWarp * Columns; at += kWarp) {
        const int row = at / Columns, column = at % Columns;
        if (((set >> row) & 1u) == 0) continue;
        const float rate = column < 3 ? p.sh.rate : p.sh_detail_rate;
        adam.step(p.sh, (first + row) * width + column, rows[row * stride + column], rate);
    }
}

// Steps the colours of a warp's Gaussians and returns the gradient by the mean through the view direction.
template <int Degree>
RECON_FN Vec3<float> step_colors(const UpdateParams& p, const Adam& adam, const View<float>& view, int64_t i,
                                 unsigned set, Vec3<float> mean, Vec3<float> by, float* rows) {
    constexpr int kColumns = ShRows<Degree>::kColumns, kStride = ShRows<Degree>::kStride;
    const int lane = lane_number();
    const int64_t first = i - lane, width = 3 * p.projection.sh_bases;
    const bool reads = Degree > 0 && (p.view_gradient != 0 || p.sh_detail_rate != 0.0f);
    const bool details = Degree > 0 && p.sh_detail_rate != 0.0f;
    if (reads) {
#pragma unroll 4
        for (int at = lane; at < kWarp * kColumns; at += kWarp) {
            const int row = at / kColumns, column = at % kColumns;
            if (((set >> row) & 1u) != 0) rows[row * kStride + column] = p.sh.value[(first + row) * width + column];
        }
    }
    __syncwarp();
    Vec3<float> by_direction{0.0f, 0.0f, 0.0f};
    if (((set >> lane) & 1u) != 0) {
        float* own = rows + lane * kStride;
        if (reads) {
            const Direction direction = direction_to(view, mean);
            const ShBasis<Degree, float> basis = sh_basis<Degree>(direction.unit);
            ShBasis<Degree, float> by_basis;
            for (int k = 0; k < sh_bases(Degree); ++k) {
                float* c = own + 3 * k;
                by_basis.y[k] = fma_(c[0], by.x, fma_(c[1], by.y, c[2] * by.z));
                c[0] = basis.y[k] * by.x, c[1] = basis.y[k] * by.y, c[2] = basis.y[k] * by.z;
            }
            by_direction = normalize_vjp(direction.unit, direction.inverse_length,
                                         sh_basis_vjp<Degree>(direction.unit, by_basis));
        } else {
            const float y = static_cast<float>(kSh0);
            own[0] = y * by.x, own[1] = y * by.y, own[2] = y * by.z;
        }
    }
    __syncwarp();
    if (details) {
        step_rows<kColumns>(p, adam, first, set, rows, kStride);
    } else if (p.sh.rate != 0.0f) {
        step_rows<3>(p, adam, first, set, rows, kStride);
    }
    return by_direction;
}

RECON_FN Vec3<float> by_color(const UpdateParams& p, const float* moments, int64_t i) {
    const float* color = p.projection.colors + 3 * i;
    // Basis functions are at most 3 or so, which the bound on the coefficients' gradients leaves room for.
    const auto kept = [&](int c) {
        const float by = moments[kRed + c];
        return color[c] > 0.0f && abs_(by) <= 0.25f * kMostGradient ? by : 0.0f;
    };
    return {kept(0), kept(1), kept(2)};
}

RECON_FN void note_statistics(const UpdateLaunch& p, const float* moments, int64_t i) {
    if (p.gradient_sum == nullptr) return;
    const float x = moments[kAbsX], y = moments[kAbsY];
    p.gradient_sum[i] += sqrt_(fma_(x, x, y * y));
    p.seen_count[i] += 1.0f;
    p.most_weight[i] = fmax_(p.most_weight[i], moments[kWeightMax]);
}

RECON_FN void step_shape(const UpdateParams& p, const Adam& adam, int64_t i, const GaussianGradient<float>& g) {
    const float mean[] = {g.mean.x, g.mean.y, g.mean.z}, quat[] = {g.quat.w, g.quat.x, g.quat.y, g.quat.z};
    const float scale[] = {g.log_scale.x, g.log_scale.y, g.log_scale.z};
#pragma unroll
    for (int k = 0; k < 3; ++k) adam.step(p.means, 3 * i + k, mean[k], p.means.rate);
#pragma unroll
    for (int k = 0; k < 4; ++k) adam.step(p.quats, 4 * i + k, quat[k], p.quats.rate);
#pragma unroll
    for (int k = 0; k < 3; ++k) adam.step(p.log_scales, 3 * i + k, scale[k], p.log_scales.rate);
    adam.step(p.opacity_logits, i, g.opacity_logit, p.opacity_logits.rate);
}

struct UpdateScratch {
    View<float> view;
    PoseScratch pose;
};

template <int Degree>
RECON_FN void update(const UpdateLaunch& p, UpdateScratch& scratch, ShRows<Degree>& rows) {
    const UpdateParams& u = p.update;
    const int64_t i = global_thread();
    const bool live = *p.skip == 0;
    if (threadIdx.x == 0) scratch.view = view_of<float>(u.projection);
    __syncthreads();
    const View<float>& view = scratch.view;
    const bool seen = live && i < u.projection.count && u.seen[i] != 0;
    const unsigned set = __ballot_sync(kAllLanes, seen);
    const Vec3<float> zero{0.0f, 0.0f, 0.0f};
    GaussianGradient<float> g{zero, {0.0f, 0.0f, 0.0f, 0.0f}, zero, 0.0f, {zero, zero, zero}, zero};
    Vec3<float> by_direction = zero;
    if (set != 0) {
        const Adam adam(u);
        const float* moments = p.moments + i * kMoments;
        Vec3<float> mean = zero, by = zero;
        Footprint<float> f;
        if (seen) {
            const Gaussian<float> gaussian = load_gaussian(u.projection, i);
            mean = gaussian.mean;
            f = project_gaussian(view, gaussian);
            const ScreenMoments s = screen_moments(moments, f.conic_xx, f.conic_xy, f.conic_yy, f.opacity);
            g = project_vjp(view, gaussian, f,
                            {s.mean_x, s.mean_y, s.conic_xx, s.conic_xy, s.conic_yy, s.opacity, 0.0f});
            by = by_color(u, moments, i);
        }
        by_direction = step_colors<Degree>(u, adam, view, i, set, mean, by, rows.of[warp_number()]);
        if (seen) {
            g.mean = g.mean + by_direction;
            GaussianGradient<float> stepped = g;
            stepped.opacity_logit = fma_(u.opacity_penalty, f.sigmoid * f.complement, g.opacity_logit);
            stepped.log_scale = axpy(u.scale_penalty, f.scale, g.log_scale);
            step_shape(u, adam, i, stepped);
            note_statistics(p, moments, i);
        }
    }
    if (p.pose_partial != nullptr)
        sum_pose(g, by_direction, scratch.pose, p.pose_partial + static_cast<int64_t>(blockIdx.x) * kPoseSums);
}

}  // namespace
}  // namespace recon::projection

using namespace recon;
using namespace recon::projection;

RECON_KERNEL(update_0, UpdateLaunch, 128) {
    RECON_SHARED(UpdateScratch, scratch);
    RECON_SHARED(ShRows<0>, rows);
    update<0>(p, scratch, rows);
}

RECON_KERNEL(update_1, UpdateLaunch, 128) {
    RECON_SHARED(UpdateScratch, scratch);
    RECON_SHARED(ShRows<1>, rows);
    update<1>(p, scratch, rows);
}

RECON_KERNEL(update_2, UpdateLaunch, 128) {
    RECON_SHARED(UpdateScratch, scratch);
    RECON_SHARED(ShRows<2>, rows);
    update<2>(p, scratch, rows);
}

RECON_KERNEL(update_3, UpdateLaunch, 128) {
    RECON_SHARED(UpdateScratch, scratch);
    RECON_SHARED(ShRows<3>, rows);
    update<3>(p, scratch, rows);
}
