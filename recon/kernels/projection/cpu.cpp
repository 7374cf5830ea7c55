// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the projection.  A thread owns a block of kBlock Gaussians, a SIMD lane owns one Gaussian; rows of
// two to four numbers are turned into one pack per column in registers, the SH rows in squares of kLanes × kLanes.
// Rows of culled Gaussians are never read beyond what culls them.  The pose's gradient is summed per lane within a
// block and over the blocks in their order, in double, so that it does not depend on the number of threads.
#include <cstring>
#include <memory>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/projection/double.h"
#include "recon/kernels/projection/packs.h"

namespace recon {
namespace {

using namespace projection;

constexpr int64_t kBlock = 512;
static_assert(kBlock % kLanes == 0);

// A full pack's worth of rows for the last Gaussians, so that the pack functions need no special case.
struct Tail {
    float means[3 * kLanes] = {}, quats[4 * kLanes] = {}, log_scales[3 * kLanes] = {}, opacity_logits[kLanes] = {};
    float means_px[2 * kLanes], conics[3 * kLanes], opacities[kLanes], colors[3 * kLanes], depths[kLanes];
    uint8_t visible[kLanes] = {};
    float grad_means_px[2 * kLanes] = {}, grad_conics[3 * kLanes] = {}, grad_opacities[kLanes] = {};
    float grad_colors[3 * kLanes] = {}, grad_depths[kLanes] = {};
    float grad_means[3 * kLanes] = {}, grad_quats[4 * kLanes] = {}, grad_log_scales[3 * kLanes] = {};
    float grad_opacity_logits[kLanes] = {};

    // Redirects `p` to these buffers, filled with its `rows` Gaussians from `i` on.
    ProjectionParams read(const ProjectionParams& p, int64_t i, int64_t rows, bool backward) {
        ProjectionParams q = p;
        const auto take = [&](const float*& pointer, float* buffer, int width) {
            if (pointer == nullptr) return;
            std::memcpy(buffer, pointer + i * width, sizeof(float) * width * rows);
            pointer = buffer;
        };
        take(q.means, means, 3), take(q.quats, quats, 4), take(q.log_scales, log_scales, 3);
        take(q.opacity_logits, opacity_logits, 1);
        q.sh = p.sh + i * p.sh_bases * 3;  // SH rows are read and written one by one
        if (p.grad_sh != nullptr) q.grad_sh = p.grad_sh + i * p.sh_bases * 3;
        if (backward) {
            take(q.grad_means_px, grad_means_px, 2), take(q.grad_conics, grad_conics, 3);
            take(q.grad_opacities, grad_opacities, 1), take(q.grad_colors, grad_colors, 3);
            take(q.grad_depths, grad_depths, 1);
            std::memcpy(visible, p.visible + i, rows);
        }
        q.means_px = means_px, q.conics = conics, q.opacities = opacities, q.colors = colors, q.depths = depths;
        q.visible = visible;
        q.grad_means = grad_means, q.grad_quats = grad_quats, q.grad_log_scales = grad_log_scales;
        q.grad_opacity_logits = grad_opacity_logits;
        return q;
    }

    // Copies the results to where `p` wants them.
    void write(const ProjectionParams& p, int64_t i, int64_t rows, bool backward) const {
        const auto give = [&](float* pointer, const float* buffer, int width) {
            if (pointer != nullptr) std::memcpy(pointer + i * width, buffer, sizeof(float) * width * rows);
        };
        if (backward) {
            give(p.grad_means, grad_means, 3), give(p.grad_quats, grad_quats, 4);
            give(p.grad_log_scales, grad_log_scales, 3), give(p.grad_opacity_logits, grad_opacity_logits, 1);
            return;
        }
        give(p.means_px, means_px, 2), give(p.conics, conics, 3), give(p.opacities, opacities, 1);
        give(p.colors, colors, 3), give(p.depths, depths, 1);
        std::memcpy(p.visible + i, visible, rows);
    }
};

// ---- forward -------------------------------------------------------------------------------------------------------

// The pack of Gaussians from `i` on; `rows` of its lanes exist.  Writes all but the colours, asks for the SH rows of
// those that are visible and returns their bits.
uint32_t forward_shapes(const ProjectionParams& p, const View<Pack>& view, int64_t i, int rows) {
    const Pack zero(0.0f);
    const Pack3 m = load_rows3(p.means + 3 * i), s = load_rows3(p.log_scales + 3 * i);
    if (!any(may_be_visible<Pack>(view, {m.x, m.y, m.z}, {s.x, s.y, s.z}))) {
        for (int k = 0; k < 2; ++k) store(p.means_px + 2 * i + k * kLanes, zero);
        for (int k = 0; k < 3; ++k) store(p.conics + 3 * i + k * kLanes, zero);
        store(p.opacities + i, zero);
        store(p.depths + i, zero);
        std::memset(p.visible + i, 0, kLanes);
        return 0;
    }
    const Footprint<Pack> f = project_gaussian(view, load_gaussians(p, i));
    const Mask visible = f.visible & first_lanes(rows);
    const auto keep = [&](Pack a) { return select(visible, a, zero); };
    store_rows2(p.means_px + 2 * i, keep(f.mean_x), keep(f.mean_y));
    store_rows3(p.conics + 3 * i, keep(f.conic_xx), keep(f.conic_xy), keep(f.conic_yy));
    store(p.opacities + i, keep(f.opacity));
    store(p.depths + i, keep(f.depth));
    const uint32_t set = bits(visible);
    for (int r = 0; r < kLanes; ++r) p.visible[i + r] = (set >> r) & 1u;
    return set;
}

// Asks for the SH rows of the Gaussians whose bit in `set` is set.
template <int Degree>
RECON_FN void fetch_sh(const ProjectionParams& p, int64_t i, uint32_t set) {
    const int64_t width = 3 * p.sh_bases;
    for (int r = 0; r < kLanes; ++r)
        if ((set >> r) & 1u) fetch(p.sh + (i + r) * width, sh_columns<Degree>());
}

// Writes the colours of a pack, and takes back what is visible but has none.
template <int Degree>
void forward_colors(const ProjectionParams& p, const View<Pack>& view, int64_t i, uint32_t set) {
    const Pack zero(0.0f), most{float(kMostColor)};
    Vec3<Pack> color{zero, zero, zero};
    if (set != 0) {
        const Pack3 m = load_rows3(p.means + 3 * i);
        ShColumns<Degree> sh;
        load_sh<Degree>(p, i, set, sh);
        color = raw_colors<Degree>(sh, sh_basis<Degree>(directions_to(view, {m.x, m.y, m.z}).unit));
        const Mask sound = mask_from_bits(set) & (abs_(color.x) < most) & (abs_(color.y) < most) &
                           (abs_(color.z) < most);
        color = where(sound, {fmax_(color.x, zero), fmax_(color.y, zero), fmax_(color.z, zero)});
        const uint32_t broken = set & ~bits(sound);
        for (int r = 0; broken != 0 && r < kLanes; ++r) {
            if (!((broken >> r) & 1u)) continue;
            const int64_t at = i + r;
            p.means_px[2 * at] = p.means_px[2 * at + 1] = p.opacities[at] = p.depths[at] = 0.0f;
            p.conics[3 * at] = p.conics[3 * at + 1] = p.conics[3 * at + 2] = 0.0f;
            p.visible[at] = 0;
        }
    }
    store_rows3(p.colors + 3 * i, color.x, color.y, color.z);
}

// Asks for what shapes are made from.
RECON_FN void fetch_gaussians(const ProjectionParams& p, int64_t i) {
    if (i + kLanes > p.count) return;
    fetch(p.means + 3 * i, 3 * kLanes), fetch(p.log_scales + 3 * i, 3 * kLanes);
    fetch(p.quats + 4 * i, 4 * kLanes), fetch(p.opacity_logits + i, kLanes);
}

// Shapes come some packs before colours, so that the SH rows arrive meanwhile, and only those that are needed.
template <int Degree>
void forward_block(const ProjectionParams& p, const View<Pack>& view, int64_t first, int64_t last) {
    constexpr int kPacks = 32 / kLanes;
    int64_t i = first;
    while (i + kLanes <= last) {
        uint32_t set[kPacks];
        int packs = 0;
        for (; packs < kPacks && i + (packs + 1) * kLanes <= last; ++packs) {
            fetch_gaussians(p, i + (packs + 2 * kPacks) * kLanes);
            set[packs] = forward_shapes(p, view, i + packs * kLanes, kLanes);
            fetch_sh<Degree>(p, i + packs * kLanes, set[packs]);
        }
        for (int pack = 0; pack < packs; ++pack) forward_colors<Degree>(p, view, i + pack * kLanes, set[pack]);
        i += packs * kLanes;
    }
    if (i == last) return;
    Tail tail;
    const ProjectionParams rest = tail.read(p, i, last - i, false);
    forward_colors<Degree>(rest, view, 0, forward_shapes(rest, view, 0, static_cast<int>(last - i)));
    tail.write(p, i, last - i, false);
}

template <int Degree>
void forward(const ProjectionParams& p) {
    const View<Pack> view = view_of<Pack>(p);
    const int64_t blocks = (p.count + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t last = (block + 1) * kBlock < p.count ? (block + 1) * kBlock : p.count;
        forward_block<Degree>(p, view, block * kBlock, last);
    }
}

// ---- backward ------------------------------------------------------------------------------------------------------

// Writes the first `width` numbers of each existing row: zero in culled rows (unless they may be left) and beyond the
// coefficients in use.
template <int Degree>
RECON_FN void store_sh_gradient(const ProjectionParams& p, int64_t i, uint32_t lanes, int rows,
                                ShColumns<Degree>& sh) {
    const int width = 3 * p.sh_bases;
    float* const gradients = p.grad_sh + i * width;
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
                store(gradients + r * width + first, tile[r]);
            } else {
                store_masked(gradients + r * width + first, tile[r], inside);
            }
        }
    }
    const int written = sh_squares<Degree>() * kLanes < width ? sh_squares<Degree>() * kLanes : width;
    for (int r = 0; r < rows; ++r) {
        const bool used = (lanes >> r) & 1u;
        const int from = used ? written : 0;
        if ((used || p.zero_culled) && from < width)
            std::memset(gradients + r * width + from, 0, sizeof(float) * (width - from));
    }
}

// Writes the gradient by the coefficients, returns the one by the view direction (zero in lanes that are off).
template <int Degree>
RECON_FN Vec3<Pack> color_vjp(const ProjectionParams& p, const View<Pack>& view, int64_t i, Vec3<Pack> mean,
                              Mask visible, int rows) {
    const Pack zero(0.0f);
    ShColumns<Degree> sh;
    load_sh<Degree>(p, i, bits(visible), sh);
    const Directions direction = directions_to(view, mean);
    const ShBasis<Degree, Pack> basis = sh_basis<Degree>(direction.unit);
    const Vec3<Pack> color = raw_colors<Degree>(sh, basis);
    const Pack3 given = load_rows3(p.grad_colors + 3 * i);
    const Vec3<Pack> by_color{select(visible & (color.x > zero), given.x, zero),
                              select(visible & (color.y > zero), given.y, zero),
                              select(visible & (color.z > zero), given.z, zero)};
    const Vec3<Pack> by_direction = colors_vjp<Degree>(direction, basis, by_color, sh);
    if (p.grad_sh != nullptr) store_sh_gradient<Degree>(p, i, bits(visible), rows, sh);
    return where(visible, by_direction);
}

RECON_FN void store_gradient(const ProjectionParams& p, int64_t i, const GaussianGradient<Pack>& g, Mask visible) {
    const Vec3<Pack> mean = where(visible, g.mean), log_scale = where(visible, g.log_scale);
    const auto keep = [&](Pack a) { return select(visible, a, Pack(0.0f)); };
    if (p.grad_means != nullptr) store_rows3(p.grad_means + 3 * i, mean.x, mean.y, mean.z);
    if (p.grad_quats != nullptr)
        store_rows4(p.grad_quats + 4 * i, keep(g.quat.w), keep(g.quat.x), keep(g.quat.y), keep(g.quat.z));
    if (p.grad_log_scales != nullptr)
        store_rows3(p.grad_log_scales + 3 * i, log_scale.x, log_scale.y, log_scale.z);
    if (p.grad_opacity_logits != nullptr) store(p.grad_opacity_logits + i, keep(g.opacity_logit));
}

void zero_rows(const ProjectionParams& p, int64_t i, int rows) {
    if (!p.zero_culled) return;
    const auto zero = [&](float* pointer, int width) {
        if (pointer != nullptr) std::memset(pointer + i * width, 0, sizeof(float) * width * rows);
    };
    zero(p.grad_means, 3), zero(p.grad_quats, 4), zero(p.grad_log_scales, 3), zero(p.grad_opacity_logits, 1);
    zero(p.grad_sh, 3 * p.sh_bases);
}

template <int Degree>
void backward_pack(const ProjectionParams& p, const View<Pack>& view, int64_t i, int rows, PoseSums& sums) {
    const uint32_t flags = flag_bits(p.visible + i, rows);
    if (flags == 0) return zero_rows(p, i, rows);
    const Mask visible = mask_from_bits(flags);
    const Gaussian<Pack> g = load_gaussians(p, i);
    GaussianGradient<Pack> out = project_vjp(view, g, project_gaussian(view, g), load_screen_gradient(p, i));
    Vec3<Pack> by_direction{Pack(0.0f), Pack(0.0f), Pack(0.0f)};
    if (p.grad_colors != nullptr) {
        by_direction = color_vjp<Degree>(p, view, i, g.mean, visible, rows);
        out.mean = out.mean + by_direction;
    } else if (p.grad_sh != nullptr) {
        std::memset(p.grad_sh + i * 3 * p.sh_bases, 0, sizeof(float) * 3 * p.sh_bases * rows);
    }
    store_gradient(p, i, out, visible);
    if (p.grad_cam_from_world != nullptr) sums.add(visible, out, by_direction);
}

template <int Degree>
void backward_block(const ProjectionParams& p, const View<Pack>& view, int64_t first, int64_t last, double* pose) {
    PoseSums sums;
    for (int64_t i = first; i < last; i += kLanes) {
        if (i + kLanes <= last) {
            backward_pack<Degree>(p, view, i, kLanes, sums);
            continue;
        }
        Tail tail;
        backward_pack<Degree>(tail.read(p, i, last - i, true), view, 0, static_cast<int>(last - i), sums);
        tail.write(p, i, last - i, true);
    }
    sums.total(pose);
}

template <int Degree>
void backward(const ProjectionParams& p) {
    const View<Pack> view = view_of<Pack>(p);
    const int64_t blocks = (p.count + kBlock - 1) / kBlock;
    const std::unique_ptr<double[]> partial(new double[blocks * kPoseSums + 1]);
#pragma omp parallel for schedule(dynamic, 1)
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
