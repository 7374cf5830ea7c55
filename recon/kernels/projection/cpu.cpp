// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the projection.  A thread owns a block of kBlock Gaussians, a SIMD lane owns one Gaussian; rows of
// two to four numbers are turned into one pack per column in registers, the SH rows in squares of kLanes × kLanes.
// Rows of culled Gaussians are never read beyond what culls them.  The pose's gradient is summed per lane within a
// block and over the blocks in their order, in double, so that it does not depend on the number of threads.
#include <cstring>
#include <memory>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/projection/double.h"
#include "recon/kernels/projection/math.h"
#include "recon/kernels/projection/params.h"
#include "recon/kernels/projection/spherical_harmonics.h"
#include "recon/kernels/projection/view.h"

namespace recon {
namespace {

using namespace projection;

constexpr int64_t kBlock = 512;
static_assert(kBlock % kLanes == 0);

// What stands in for the SH row of a culled or missing Gaussian.
alignas(64) constexpr float kZeroRow[64] = {};

template <class T>
T* advance(T* p, int64_t by) {
    return p == nullptr ? nullptr : p + by;
}

// The same parameters for the Gaussians from `i` on.
ProjectionParams from_row(const ProjectionParams& p, int64_t i) {
    ProjectionParams q = p;
    q.means = advance(p.means, 3 * i), q.quats = advance(p.quats, 4 * i);
    q.log_scales = advance(p.log_scales, 3 * i), q.opacity_logits = advance(p.opacity_logits, i);
    q.sh = advance(p.sh, i * p.sh_bases * 3);
    q.means_px = advance(p.means_px, 2 * i), q.conics = advance(p.conics, 3 * i);
    q.opacities = advance(p.opacities, i), q.colors = advance(p.colors, 3 * i);
    q.depths = advance(p.depths, i), q.visible = advance(p.visible, i);
    q.grad_means_px = advance(p.grad_means_px, 2 * i), q.grad_conics = advance(p.grad_conics, 3 * i);
    q.grad_opacities = advance(p.grad_opacities, i), q.grad_colors = advance(p.grad_colors, 3 * i);
    q.grad_depths = advance(p.grad_depths, i);
    q.grad_means = advance(p.grad_means, 3 * i), q.grad_quats = advance(p.grad_quats, 4 * i);
    q.grad_log_scales = advance(p.grad_log_scales, 3 * i);
    q.grad_opacity_logits = advance(p.grad_opacity_logits, i);
    q.grad_sh = advance(p.grad_sh, i * p.sh_bases * 3);
    return q;
}

// A full pack's worth of rows for the last Gaussians, so that the pack functions need no special case.
struct Tail {
    float means[3 * kLanes] = {}, quats[4 * kLanes] = {}, log_scales[3 * kLanes] = {}, opacity_logits[kLanes] = {};
    float means_px[2 * kLanes], conics[3 * kLanes], opacities[kLanes], colors[3 * kLanes], depths[kLanes];
    uint8_t visible[kLanes] = {};
    float grad_means_px[2 * kLanes] = {}, grad_conics[3 * kLanes] = {}, grad_opacities[kLanes] = {};
    float grad_colors[3 * kLanes] = {}, grad_depths[kLanes] = {};
    float grad_means[3 * kLanes] = {}, grad_quats[4 * kLanes] = {}, grad_log_scales[3 * kLanes] = {};
    float grad_opacity_logits[kLanes] = {};

    // Redirects `p`, which has `rows` Gaussians left, to these buffers, filled with what it reads.
    ProjectionParams read(const ProjectionParams& p, int64_t rows, bool backward) {
        ProjectionParams q = p;
        const auto take = [&](const float*& pointer, float* buffer, int width) {
            if (pointer == nullptr) return;
            std::memcpy(buffer, pointer, sizeof(float) * width * rows);
            pointer = buffer;
        };
        take(q.means, means, 3), take(q.quats, quats, 4), take(q.log_scales, log_scales, 3);
        take(q.opacity_logits, opacity_logits, 1);
        if (backward) {
            take(q.grad_means_px, grad_means_px, 2), take(q.grad_conics, grad_conics, 3);
            take(q.grad_opacities, grad_opacities, 1), take(q.grad_colors, grad_colors, 3);
            take(q.grad_depths, grad_depths, 1);
            std::memcpy(visible, p.visible, rows);
        }
        q.means_px = means_px, q.conics = conics, q.opacities = opacities, q.colors = colors, q.depths = depths;
        q.visible = visible;
        q.grad_means = grad_means, q.grad_quats = grad_quats, q.grad_log_scales = grad_log_scales;
        q.grad_opacity_logits = grad_opacity_logits;
        return q;
    }

    // Copies the results to where `p` wants them.
    void write(const ProjectionParams& p, int64_t rows, bool backward) const {
        const auto give = [&](float* pointer, const float* buffer, int width) {
            if (pointer != nullptr) std::memcpy(pointer, buffer, sizeof(float) * width * rows);
        };
        if (backward) {
            give(p.grad_means, grad_means, 3), give(p.grad_quats, grad_quats, 4);
            give(p.grad_log_scales, grad_log_scales, 3), give(p.grad_opacity_logits, grad_opacity_logits, 1);
            return;
        }
        give(p.means_px, means_px, 2), give(p.conics, conics, 3), give(p.opacities, opacities, 1);
        give(p.colors, colors, 3), give(p.depths, depths, 1);
        std::memcpy(p.visible, visible, rows);
    }
};

Gaussian<Pack> load_gaussians(const ProjectionParams& p) {
    const Pack3 m = load_rows3(p.means), s = load_rows3(p.log_scales);
    const Pack4 q = load_rows4(p.quats);
    return {{m.x, m.y, m.z}, {q.x, q.y, q.z, q.w}, {s.x, s.y, s.z}, load(p.opacity_logits)};
}

struct Directions {
    Vec3<Pack> unit;
    Pack inverse_length;
};
RECON_FN Directions directions_to(const View<Pack>& view, Vec3<Pack> mean) {
    const Vec3<Pack> d{mean.x - view.center.x, mean.y - view.center.y, mean.z - view.center.z};
    const Pack inverse = Pack(1.0f) / sqrt_(dot(d, d));
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

// Reads the rows whose bit in `lanes` is set; the others count as zero and are not touched.
template <int Degree>
RECON_FN void load_sh(const ProjectionParams& p, uint32_t lanes, ShColumns<Degree>& sh) {
    const int width = 3 * p.sh_bases;
    const float* rows[kLanes];
    for (int r = 0; r < kLanes; ++r) rows[r] = (lanes >> r) & 1u ? p.sh + r * width : kZeroRow;
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

// ---- forward -------------------------------------------------------------------------------------------------------

// One pack of Gaussians; `rows` of its lanes exist.
template <int Degree>
void forward_pack(const ProjectionParams& p, const View<Pack>& view, int rows) {
    const Gaussian<Pack> g = load_gaussians(p);
    const Footprint<Pack> f = project_gaussian(view, g);
    Mask visible = f.visible & first_lanes(rows);
    Vec3<Pack> color{Pack(0.0f), Pack(0.0f), Pack(0.0f)};
    if (any(visible)) {
        ShColumns<Degree> sh;
        load_sh<Degree>(p, bits(visible), sh);
        color = raw_colors<Degree>(sh, sh_basis<Degree>(directions_to(view, g.mean).unit));
        const Pack most{float(kMostColor)};
        visible = visible & (abs_(color.x) < most) & (abs_(color.y) < most) & (abs_(color.z) < most);
    }
    const Pack zero(0.0f);
    const auto keep = [&](Pack a) { return select(visible, a, zero); };
    store_rows2(p.means_px, keep(f.mean_x), keep(f.mean_y));
    store_rows3(p.conics, keep(f.conic_xx), keep(f.conic_xy), keep(f.conic_yy));
    store_rows3(p.colors, keep(fmax_(color.x, zero)), keep(fmax_(color.y, zero)), keep(fmax_(color.z, zero)));
    store(p.opacities, keep(f.opacity));
    store(p.depths, keep(f.depth));
    const uint32_t flags = bits(visible);
    for (int r = 0; r < kLanes; ++r) p.visible[r] = (flags >> r) & 1u;
}

template <int Degree>
void forward(const ProjectionParams& p) {
    const View<Pack> view = view_of<Pack>(p);
    const int64_t blocks = (p.count + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t last = (block + 1) * kBlock < p.count ? (block + 1) * kBlock : p.count;
        for (int64_t i = block * kBlock; i < last; i += kLanes) {
            const ProjectionParams here = from_row(p, i);
            if (i + kLanes <= last) {
                forward_pack<Degree>(here, view, kLanes);
                continue;
            }
            Tail tail;
            forward_pack<Degree>(tail.read(here, last - i, false), view, static_cast<int>(last - i));
            tail.write(here, last - i, false);
        }
    }
}

// ---- backward ------------------------------------------------------------------------------------------------------

struct PoseSums {
    Vec3<Pack> row[5];  // three of the rotation, the translation, the view directions
};

RECON_FN ScreenGradient<Pack> load_screen_gradient(const ProjectionParams& p) {
    const Pack zero(0.0f);
    ScreenGradient<Pack> g{zero, zero, zero, zero, zero, zero, zero};
    if (p.grad_means_px != nullptr) {
        const Pack2 m = load_rows2(p.grad_means_px);
        g.mean_x = m.x, g.mean_y = m.y;
    }
    if (p.grad_conics != nullptr) {
        const Pack3 c = load_rows3(p.grad_conics);
        g.conic_xx = c.x, g.conic_xy = c.y, g.conic_yy = c.z;
    }
    if (p.grad_opacities != nullptr) g.opacity = load(p.grad_opacities);
    if (p.grad_depths != nullptr) g.depth = load(p.grad_depths);
    return g;
}

// Writes the first `width` numbers of each existing row: zero in culled rows (unless they may be left) and beyond the
// coefficients in use.
template <int Degree>
RECON_FN void store_sh_gradient(const ProjectionParams& p, uint32_t lanes, int rows, ShColumns<Degree>& sh) {
    const int width = 3 * p.sh_bases;
    for (int square = 0; square < sh_squares<Degree>(); ++square) {
        const int first = square * kLanes;
        Pack tile[kLanes];
        for (int c = 0; c < kLanes; ++c) tile[c] = sh.column[first + c];
        transpose(tile);
        const bool whole = first + kLanes <= width;
        const Mask inside = first_lanes(width - first);
        for (int r = 0; r < rows; ++r) {
            if (!((lanes >> r) & 1u)) continue;
            if (whole) {
                store(p.grad_sh + r * width + first, tile[r]);
            } else {
                store_masked(p.grad_sh + r * width + first, tile[r], inside);
            }
        }
    }
    const int written = sh_squares<Degree>() * kLanes < width ? sh_squares<Degree>() * kLanes : width;
    for (int r = 0; r < rows; ++r) {
        const bool used = (lanes >> r) & 1u;
        const int from = used ? written : 0;
        if ((used || p.zero_culled) && from < width)
            std::memset(p.grad_sh + r * width + from, 0, sizeof(float) * (width - from));
    }
}

// Writes the gradient by the coefficients, returns the one by the view direction (zero in lanes that are off).
template <int Degree>
RECON_FN Vec3<Pack> color_vjp(const ProjectionParams& p, const View<Pack>& view, Vec3<Pack> mean, Mask visible,
                              int rows) {
    const Pack zero(0.0f);
    ShColumns<Degree> sh;
    load_sh<Degree>(p, bits(visible), sh);
    const Directions direction = directions_to(view, mean);
    const ShBasis<Degree, Pack> basis = sh_basis<Degree>(direction.unit);
    const Vec3<Pack> color = raw_colors<Degree>(sh, basis);
    const Pack3 given = load_rows3(p.grad_colors);
    const Pack by_r = select(visible & (color.x > zero), given.x, zero);
    const Pack by_g = select(visible & (color.y > zero), given.y, zero);
    const Pack by_b = select(visible & (color.z > zero), given.z, zero);
    ShBasis<Degree, Pack> by_basis;
    for (int k = 0; k < sh_bases(Degree); ++k) {
        by_basis.y[k] = fma_(sh.column[3 * k], by_r, fma_(sh.column[3 * k + 1], by_g, sh.column[3 * k + 2] * by_b));
        sh.column[3 * k] = basis.y[k] * by_r;
        sh.column[3 * k + 1] = basis.y[k] * by_g;
        sh.column[3 * k + 2] = basis.y[k] * by_b;
    }
    if (p.grad_sh != nullptr) {
        // A square may reach beyond the coefficients in use; those get zero.
        for (int c = sh_columns<Degree>(); c < sh_squares<Degree>() * kLanes; ++c) sh.column[c] = zero;
        store_sh_gradient<Degree>(p, bits(visible), rows, sh);
    }
    const Vec3<Pack> by = normalize_vjp(direction.unit, direction.inverse_length,
                                        sh_basis_vjp<Degree>(direction.unit, by_basis));
    return {select(visible, by.x, zero), select(visible, by.y, zero), select(visible, by.z, zero)};
}

RECON_FN void store_gradient(const ProjectionParams& p, const GaussianGradient<Pack>& g, Mask visible) {
    const auto keep = [&](Pack a) { return select(visible, a, Pack(0.0f)); };
    if (p.grad_means != nullptr) store_rows3(p.grad_means, keep(g.mean.x), keep(g.mean.y), keep(g.mean.z));
    if (p.grad_quats != nullptr)
        store_rows4(p.grad_quats, keep(g.quat.w), keep(g.quat.x), keep(g.quat.y), keep(g.quat.z));
    if (p.grad_log_scales != nullptr)
        store_rows3(p.grad_log_scales, keep(g.log_scale.x), keep(g.log_scale.y), keep(g.log_scale.z));
    if (p.grad_opacity_logits != nullptr) store(p.grad_opacity_logits, keep(g.opacity_logit));
}

void zero_rows(const ProjectionParams& p, int rows) {
    if (!p.zero_culled) return;
    const auto zero = [&](float* pointer, int width) {
        if (pointer != nullptr) std::memset(pointer, 0, sizeof(float) * width * rows);
    };
    zero(p.grad_means, 3), zero(p.grad_quats, 4), zero(p.grad_log_scales, 3), zero(p.grad_opacity_logits, 1);
    zero(p.grad_sh, 3 * p.sh_bases);
}

template <int Degree>
void backward_pack(const ProjectionParams& p, const View<Pack>& view, int rows, PoseSums& sums) {
    uint32_t flags = 0;
    for (int r = 0; r < rows; ++r) flags |= (p.visible[r] != 0 ? 1u : 0u) << r;
    if (flags == 0) return zero_rows(p, rows);
    const Mask visible = mask_from_bits(flags);
    const Gaussian<Pack> g = load_gaussians(p);
    GaussianGradient<Pack> out = project_vjp(view, g, project_gaussian(view, g), load_screen_gradient(p));
    Vec3<Pack> by_direction{Pack(0.0f), Pack(0.0f), Pack(0.0f)};
    if (p.grad_colors != nullptr) {
        by_direction = color_vjp<Degree>(p, view, g.mean, visible, rows);
        out.mean = out.mean + by_direction;
    } else if (p.grad_sh != nullptr) {
        std::memset(p.grad_sh, 0, sizeof(float) * 3 * p.sh_bases * rows);
    }
    store_gradient(p, out, visible);
    if (p.grad_cam_from_world == nullptr) return;
    const Vec3<Pack> rows_of_pose[] = {out.rotation.row0, out.rotation.row1, out.rotation.row2, out.translation,
                                       by_direction};
    for (int r = 0; r < 5; ++r) {
        sums.row[r].x = sums.row[r].x + select(visible, rows_of_pose[r].x, Pack(0.0f));
        sums.row[r].y = sums.row[r].y + select(visible, rows_of_pose[r].y, Pack(0.0f));
        sums.row[r].z = sums.row[r].z + select(visible, rows_of_pose[r].z, Pack(0.0f));
    }
}

double sum_in_double(Pack a) {
    float lanes[kLanes];
    store(lanes, a);
    double total = 0;
    for (float lane : lanes) total += lane;
    return total;
}

template <int Degree>
void backward_block(const ProjectionParams& p, const View<Pack>& view, int64_t first, int64_t last, double* pose) {
    const Vec3<Pack> none{Pack(0.0f), Pack(0.0f), Pack(0.0f)};
    PoseSums sums{{none, none, none, none, none}};
    for (int64_t i = first; i < last; i += kLanes) {
        const ProjectionParams here = from_row(p, i);
        if (i + kLanes <= last) {
            backward_pack<Degree>(here, view, kLanes, sums);
            continue;
        }
        Tail tail;
        backward_pack<Degree>(tail.read(here, last - i, true), view, static_cast<int>(last - i), sums);
        tail.write(here, last - i, true);
    }
    for (int r = 0; r < 5; ++r) {
        pose[3 * r] = sum_in_double(sums.row[r].x);
        pose[3 * r + 1] = sum_in_double(sums.row[r].y);
        pose[3 * r + 2] = sum_in_double(sums.row[r].z);
    }
}

template <int Degree>
void backward(const ProjectionParams& p) {
    const View<Pack> view = view_of<Pack>(p);
    const int64_t blocks = (p.count + kBlock - 1) / kBlock;
    const std::unique_ptr<double[]> partial(new double[blocks * kPoseSums + 1]);
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t last = (block + 1) * kBlock < p.count ? (block + 1) * kBlock : p.count;
        backward_block<Degree>(p, view, block * kBlock, last, partial.get() + block * kPoseSums);
    }
    if (p.grad_cam_from_world == nullptr) return;
    double sums[kPoseSums] = {};
    for (int64_t block = 0; block < blocks; ++block)
        for (int s = 0; s < kPoseSums; ++s) sums[s] += partial[block * kPoseSums + s];
    finish_pose(p, sums);
}

// ---- binding -------------------------------------------------------------------------------------------------------

void project_forward(const ProjectionParams& p) {
    constexpr void (*by_degree[])(const ProjectionParams&) = {forward<0>, forward<1>, forward<2>, forward<3>};
    by_degree[p.sh_degree](p);
}
void project_backward(const ProjectionParams& p) {
    constexpr void (*by_degree[])(const ProjectionParams&) = {backward<0>, backward<1>, backward<2>, backward<3>};
    by_degree[p.sh_degree](p);
}
void project_forward_double(const ProjectionParamsDouble& p) {
    constexpr void (*by_degree[])(const ProjectionParamsDouble&) = {forward_double<0>, forward_double<1>,
                                                                    forward_double<2>, forward_double<3>};
    by_degree[p.sh_degree](p);
}
void project_backward_double(const ProjectionParamsDouble& p) {
    constexpr void (*by_degree[])(const ProjectionParamsDouble&) = {backward_double<0>, backward_double<1>,
                                                                    backward_double<2>, backward_double<3>};
    by_degree[p.sh_degree](p);
}

template <class Params>
void bind_params(nb::module_& m, const char* name) {
    auto c = nb::class_<Params>(m, name).def(nb::init<>());
    RECON_BIND_POINTER(c, Params, means);
    RECON_BIND_POINTER(c, Params, quats);
    RECON_BIND_POINTER(c, Params, log_scales);
    RECON_BIND_POINTER(c, Params, opacity_logits);
    RECON_BIND_POINTER(c, Params, sh);
    RECON_BIND_VALUE(c, Params, count);
    RECON_BIND_VALUE(c, Params, sh_bases);
    RECON_BIND_VALUE(c, Params, sh_degree);
    RECON_BIND_POINTER(c, Params, cam_from_world);
    RECON_BIND_VALUE(c, Params, fx);
    RECON_BIND_VALUE(c, Params, fy);
    RECON_BIND_VALUE(c, Params, cx);
    RECON_BIND_VALUE(c, Params, cy);
    RECON_BIND_VALUE(c, Params, width);
    RECON_BIND_VALUE(c, Params, height);
    RECON_BIND_VALUE(c, Params, near_plane);
    RECON_BIND_VALUE(c, Params, far_plane);
    RECON_BIND_VALUE(c, Params, blur_px2);
    RECON_BIND_VALUE(c, Params, alpha_cutoff);
    RECON_BIND_VALUE(c, Params, antialiased);
    RECON_BIND_POINTER(c, Params, means_px);
    RECON_BIND_POINTER(c, Params, conics);
    RECON_BIND_POINTER(c, Params, opacities);
    RECON_BIND_POINTER(c, Params, colors);
    RECON_BIND_POINTER(c, Params, depths);
    RECON_BIND_POINTER(c, Params, visible);
    RECON_BIND_POINTER(c, Params, grad_means_px);
    RECON_BIND_POINTER(c, Params, grad_conics);
    RECON_BIND_POINTER(c, Params, grad_opacities);
    RECON_BIND_POINTER(c, Params, grad_colors);
    RECON_BIND_POINTER(c, Params, grad_depths);
    RECON_BIND_POINTER(c, Params, grad_means);
    RECON_BIND_POINTER(c, Params, grad_quats);
    RECON_BIND_POINTER(c, Params, grad_log_scales);
    RECON_BIND_POINTER(c, Params, grad_opacity_logits);
    RECON_BIND_POINTER(c, Params, grad_sh);
    RECON_BIND_POINTER(c, Params, grad_cam_from_world);
    RECON_BIND_VALUE(c, Params, zero_culled);
}

}  // namespace

void bind_projection(nb::module_& m) {
    bind_params<ProjectionParams>(m, "ProjectionParams");
    bind_params<ProjectionParamsDouble>(m, "ProjectionParamsDouble");
    m.def("project_forward", &project_forward, nb::call_guard<nb::gil_scoped_release>());
    m.def("project_backward", &project_backward, nb::call_guard<nb::gil_scoped_release>());
    m.def("project_forward_double", &project_forward_double, nb::call_guard<nb::gil_scoped_release>());
    m.def("project_backward_double", &project_backward_double, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
