// SPDX-License-Identifier: Apache-2.0
// A pack of Gaussians, one per SIMD lane, between memory and the projection's math: what the schedulers of the
// projection and of the fused update share.
#pragma once
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/projection/math.h"
#include "recon/kernels/projection/params.h"
#include "recon/kernels/projection/spherical_harmonics.h"
#include "recon/kernels/projection/view.h"

namespace recon::projection {

// What stands in for the SH row of a Gaussian that is culled, unseen or missing.
alignas(64) inline constexpr float kZeroRow[64] = {};

// Asks for the `count` numbers from `p` on, ahead of their use.
RECON_FN void fetch(const float* p, int64_t count) {
    for (int64_t at = 0; at < count; at += 16) __builtin_prefetch(p + at, 0, 3);
}

// The Gaussians from `i` on.
RECON_FN Gaussian<Pack> load_gaussians(const ProjectionParams& p, int64_t i) {
    const Pack3 m = load_rows3(p.means + 3 * i), s = load_rows3(p.log_scales + 3 * i);
    const Pack4 q = load_rows4(p.quats + 4 * i);
    return {{m.x, m.y, m.z}, {q.x, q.y, q.z, q.w}, {s.x, s.y, s.z}, load(p.opacity_logits + i)};
}

// The bits of the lanes whose flag is not 0.
RECON_FN uint32_t flag_bits(const uint8_t* flags, int rows) {
    uint32_t set = 0;
    for (int r = 0; r < rows; ++r) set |= (flags[r] != 0 ? 1u : 0u) << r;
    return set;
}

struct Directions {
    Vec3<Pack> unit;
    Pack inverse_length;
};
RECON_FN Directions directions_to(const View<Pack>& view, Vec3<Pack> mean) {
    const Vec3<Pack> d{mean.x - view.center.x, mean.y - view.center.y, mean.z - view.center.z};
    const Pack inverse = rsqrt_(dot(d, d));
    return {inverse * d, inverse};
}

// The packs that hold the coefficients in use of a Gaussian per lane: column 3k + c is coefficient k of channel c.
template <int Degree>
constexpr int sh_columns() {
    return 3 * sh_bases(Degree);
}
template <int Degree>
constexpr int sh_squares() {
    return (sh_columns<Degree>() + kLanes - 1) / kLanes;
}
template <int Degree>
struct ShColumns {
    Pack column[sh_squares<Degree>() * kLanes];
};

// Reads the rows from `i` on whose bit in `lanes` is set; the others count as zero and are not touched.
template <int Degree>
RECON_FN void load_sh(const ProjectionParams& p, int64_t i, uint32_t lanes, ShColumns<Degree>& sh) {
    const int width = 3 * p.sh_bases;
    const float* rows[kLanes];
    for (int r = 0; r < kLanes; ++r) rows[r] = (lanes >> r) & 1u ? p.sh + (i + r) * width : kZeroRow;
    for (int square = 0; square < sh_squares<Degree>(); ++square) {
        const int first = square * kLanes;
        Pack tile[kLanes];
        if (first + kLanes <= width) {
            for (int r = 0; r < kLanes; ++r) tile[r] = load(rows[r] + first);
        } else {
            const Mask inside = first_lanes(width - first);
            for (int r = 0; r < kLanes; ++r) tile[r] = load_masked(rows[r] + first, inside);
        }
        transpose(tile);
        for (int c = 0; c < kLanes; ++c) sh.column[first + c] = tile[c];
    }
}

template <int Degree>
RECON_FN Vec3<Pack> raw_colors(const ShColumns<Degree>& sh, const ShBasis<Degree, Pack>& basis) {
    Vec3<Pack> color{Pack(0.5f), Pack(0.5f), Pack(0.5f)};
    for (int k = 0; k < sh_bases(Degree); ++k) {
        color.x = fma_(basis.y[k], sh.column[3 * k], color.x);
        color.y = fma_(basis.y[k], sh.column[3 * k + 1], color.y);
        color.z = fma_(basis.y[k], sh.column[3 * k + 2], color.z);
    }
    return color;
}

// Gradient by the mean through the view direction, from the one by the colours.  `sh` comes with the coefficients and
// leaves with their gradient; columns beyond the degree become zero.
template <int Degree>
RECON_FN Vec3<Pack> colors_vjp(const Directions& direction, const ShBasis<Degree, Pack>& basis, Vec3<Pack> by,
                               ShColumns<Degree>& sh) {
    ShBasis<Degree, Pack> by_basis;
    for (int k = 0; k < sh_bases(Degree); ++k) {
        by_basis.y[k] = fma_(sh.column[3 * k], by.x, fma_(sh.column[3 * k + 1], by.y, sh.column[3 * k + 2] * by.z));
        sh.column[3 * k] = basis.y[k] * by.x;
        sh.column[3 * k + 1] = basis.y[k] * by.y;
        sh.column[3 * k + 2] = basis.y[k] * by.z;
    }
    for (int c = sh_columns<Degree>(); c < sh_squares<Degree>() * kLanes; ++c) sh.column[c] = Pack(0.0f);
    return normalize_vjp(direction.unit, direction.inverse_length, sh_basis_vjp<Degree>(direction.unit, by_basis));
}

RECON_FN ScreenGradient<Pack> load_screen_gradient(const ProjectionParams& p, int64_t i) {
    const Pack zero(0.0f);
    ScreenGradient<Pack> g{zero, zero, zero, zero, zero, zero, zero};
    if (p.grad_means_px != nullptr) {
        const Pack2 m = load_rows2(p.grad_means_px + 2 * i);
        g.mean_x = m.x, g.mean_y = m.y;
    }
    if (p.grad_conics != nullptr) {
        const Pack3 c = load_rows3(p.grad_conics + 3 * i);
        g.conic_xx = c.x, g.conic_xy = c.y, g.conic_yy = c.z;
    }
    if (p.grad_opacities != nullptr) g.opacity = load(p.grad_opacities + i);
    if (p.grad_depths != nullptr) g.depth = load(p.grad_depths + i);
    return g;
}

RECON_FN Vec3<Pack> where(Mask m, Vec3<Pack> a) {
    const Pack zero(0.0f);
    return {select(m, a.x, zero), select(m, a.y, zero), select(m, a.z, zero)};
}

// What the Gaussians of a block add to the pose's gradient, a sum per lane.
struct PoseSums {
    Vec3<Pack> row[5];  // three of the rotation, the translation, the view directions

    PoseSums() {
        for (Vec3<Pack>& r : row) r = {Pack(0.0f), Pack(0.0f), Pack(0.0f)};
    }
    RECON_FN void add(Mask lanes, const GaussianGradient<Pack>& g, Vec3<Pack> by_direction) {
        const Vec3<Pack> rows[] = {g.rotation.row0, g.rotation.row1, g.rotation.row2, g.translation, by_direction};
        for (int r = 0; r < 5; ++r) row[r] = row[r] + where(lanes, rows[r]);
    }
    // Writes the totals in double, [kPoseSums].
    void total(double* sums) const {
        const auto sum_in_double = [](Pack a) {
            float lanes[kLanes];
            store(lanes, a);
            double total = 0;
            for (float lane : lanes) total += lane;
            return total;
        };
        for (int r = 0; r < 5; ++r) {
            sums[3 * r] = sum_in_double(row[r].x);
            sums[3 * r + 1] = sum_in_double(row[r].y);
            sums[3 * r + 2] = sum_in_double(row[r].z);
        }
    }
};

}  // namespace recon::projection
