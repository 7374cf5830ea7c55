// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the projection's backward pass joined to Adam: no gradient of a Gaussian is ever written.
//
// A thread owns a block of kBlock Gaussians.  Gradients are formed with a SIMD lane for each Gaussian and turned into
// the order of memory in registers, where Adam runs along consecutive numbers.  Rows of two to four numbers are
// stepped a pack of Gaussians at a time, unseen ones getting back what was read; SH rows one by one, unseen ones not
// being touched at all.  The pose's gradient is summed as in the projection.
#include <cstring>
#include <memory>

#include "recon/kernels/adam/math.h"
#include "recon/kernels/common/binding.h"
#include "recon/kernels/projection/packs.h"
#include "recon/kernels/update/params.h"

namespace recon {
namespace {

using namespace projection;

constexpr int64_t kBlock = 512;
static_assert(kBlock % kLanes == 0);

// Memory is asked for this many Gaussians early: a pack takes longer than what a processor looks ahead, so that it
// would wait for memory and compute in turn.
constexpr int64_t kAhead = 16;
static_assert(kAhead % kLanes == 0);

RECON_FN void fetch_trained(const TrainedRows& t, int64_t from, int64_t count) {
    fetch(t.value + from, count);
    fetch(t.first_moment + from, count);
    fetch(t.second_moment + from, count);
}
// Asks for all but the SH of the pack of Gaussians from `i` on.
RECON_FN void fetch_rows(const UpdateParams& p, int64_t i) {
    fetch_trained(p.means, 3 * i, 3 * kLanes), fetch_trained(p.quats, 4 * i, 4 * kLanes);
    fetch_trained(p.log_scales, 3 * i, 3 * kLanes), fetch_trained(p.opacity_logits, i, kLanes);
    fetch(p.projection.colors + 3 * i, 3 * kLanes), fetch(p.projection.grad_colors + 3 * i, 3 * kLanes);
    fetch(p.projection.grad_means_px + 2 * i, 2 * kLanes), fetch(p.projection.grad_conics + 3 * i, 3 * kLanes);
    fetch(p.projection.grad_opacities + i, kLanes);
}

// Adam's constants, the same for every number.
struct Adam {
    Pack beta1, beta2, scale2, epsilon;
    float per_rate;  // 1 / bias_correction1

    explicit Adam(const UpdateParams& p)
        : beta1(p.beta1), beta2(p.beta2), scale2(1.0f / std::sqrt(p.bias_correction2)), epsilon(p.epsilon),
          per_rate(1.0f / p.bias_correction1) {}

    // What `adam_update` makes of a gradient before it is used.
    RECON_FN static Pack bounded(Pack gradient) {
        return select(abs_(gradient) <= Pack(kMostGradient), gradient, Pack(0.0f));
    }
    RECON_FN AdamState<Pack> step(AdamState<Pack> s, Pack gradient, Pack step_size) const {
        return adam_update_bounded(s, gradient, beta1, beta2, step_size, scale2, epsilon);
    }
    // One pack of consecutive numbers.
    RECON_FN void whole(const TrainedRows& t, int64_t at, Pack gradient, Pack step_size) const {
        const AdamState<Pack> s{load(t.value + at), load(t.first_moment + at), load(t.second_moment + at)};
        write(t, at, step(s, gradient, step_size));
    }
    // The same where numbers that are off are read and written back.
    RECON_FN void blended(const TrainedRows& t, int64_t at, Pack gradient, Pack step_size, Mask on) const {
        const AdamState<Pack> s{load(t.value + at), load(t.first_moment + at), load(t.second_moment + at)};
        const AdamState<Pack> n = step(s, gradient, step_size);
        write(t, at, {select(on, n.parameter, s.parameter), select(on, n.first_moment, s.first_moment),
                      select(on, n.second_moment, s.second_moment)});
    }
    // The same where numbers that are off may not exist.
    RECON_FN void masked(const TrainedRows& t, int64_t at, Pack gradient, Pack step_size, Mask on) const {
        AdamState<Pack> s{load_masked(t.value + at, on), load_masked(t.first_moment + at, on),
                          load_masked(t.second_moment + at, on)};
        s = step(s, gradient, step_size);
        store_masked(t.value + at, s.parameter, on);
        store_masked(t.first_moment + at, s.first_moment, on);
        store_masked(t.second_moment + at, s.second_moment, on);
    }

private:
    RECON_FN static void write(const TrainedRows& t, int64_t at, AdamState<Pack> s) {
        store(t.value + at, s.parameter);
        store(t.first_moment + at, s.first_moment);
        store(t.second_moment + at, s.second_moment);
    }
};

// ---- rows of one, three or four numbers ----------------------------------------------------------------------------

// Pack `P` of the rows whose columns are given.
template <int P>
RECON_FN Pack placed(const Pack (&column)[1]) {
    return column[0];
}
template <int P>
RECON_FN Pack placed(const Pack (&column)[3]) {
    return transposing::place3<P>(column[0], column[1], column[2]);
}
template <int P>
RECON_FN Pack placed(const Pack (&column)[4]) {
    return transposing::place4<P>(column[0], column[1], column[2], column[3]);
}

struct Lanes {
    uint32_t set;  // bits of the Gaussians that are updated
    Mask mask;
    bool all;
    uint32_t ahead;  // bits of those that come kAhead Gaussians later and whose SH rows are to be fetched
};

template <int W, int... P>
RECON_FN void step_packs(const Adam& adam, const TrainedRows& t, int64_t i, const Lanes& lanes,
                         const Pack (&gradient)[W], std::integer_sequence<int, P...>) {
    const Pack step_size(t.rate * adam.per_rate);
    if (lanes.all) {
        (adam.whole(t, W * i + P * kLanes, Adam::bounded(placed<P>(gradient)), step_size), ...);
        return;
    }
    Pack flags[W];
    for (Pack& flag : flags) flag = select(lanes.mask, Pack(1.0f), Pack(0.0f));
    (adam.blended(t, W * i + P * kLanes, Adam::bounded(placed<P>(gradient)), step_size,
                  placed<P>(flags) > Pack(0.5f)), ...);
}

// Steps the rows of `W` numbers of the Gaussians from `i` on.
template <int W>
RECON_FN void step_rows(const Adam& adam, const TrainedRows& t, int64_t i, const Lanes& lanes,
                        const Pack (&gradient)[W]) {
    step_packs(adam, t, i, lanes, gradient, std::make_integer_sequence<int, W>{});
}

// ---- spherical harmonics -------------------------------------------------------------------------------------------

// Pack `P` of the first four numbers of each row, of which the last, from the next coefficient, keeps its value.
template <int P>
RECON_FN void step_quad(const UpdateParams& p, const Adam& adam, int64_t i, const Lanes& lanes, Pack gradient) {
    const int64_t width = 3 * p.projection.sh_bases, at = (i + P * kQuads) * width;
    const uint32_t rows = (lanes.set >> (P * kQuads)) & ((1u << kQuads) - 1);
    for (int r = P * kQuads; r < (P + 1) * kQuads; ++r)
        if ((lanes.ahead >> r) & 1u) fetch_trained(p.sh, (i + r + kAhead) * width, 4);
    if (rows == 0) return;
    const AdamState<Pack> s{load_quads(p.sh.value + at, width, rows), load_quads(p.sh.first_moment + at, width, rows),
                            load_quads(p.sh.second_moment + at, width, rows)};
    const AdamState<Pack> n = adam.step(s, gradient, Pack(p.sh.rate * adam.per_rate));
    const Mask three = mask_from_bits(0x7777u & ((1u << kLanes) - 1));
    store_quads(p.sh.value + at, width, select(three, n.parameter, s.parameter), rows);
    store_quads(p.sh.first_moment + at, width, select(three, n.first_moment, s.first_moment), rows);
    store_quads(p.sh.second_moment + at, width, select(three, n.second_moment, s.second_moment), rows);
}
template <int... P>
RECON_FN void step_quads(const UpdateParams& p, const Adam& adam, int64_t i, const Lanes& lanes,
                         const Pack (&gradient)[4], std::integer_sequence<int, P...>) {
    (step_quad<P>(p, adam, i, lanes, placed<P>(gradient)), ...);
}

// The constant coefficient alone.
RECON_FN void step_sh_constant(const UpdateParams& p, const Adam& adam, int64_t i, const Lanes& lanes,
                               Vec3<Pack> by_color) {
    const Pack y(static_cast<float>(kSh0));
    const Pack gradient[3] = {y * by_color.x, y * by_color.y, y * by_color.z};
    if (p.projection.sh_bases == 1) return step_rows<3>(adam, p.sh, i, lanes, gradient);
    step_quads(p, adam, i, lanes, {gradient[0], gradient[1], gradient[2], Pack(0.0f)},
               std::make_integer_sequence<int, 4>{});
}

// The coefficients of `Degree`, from the columns of their gradient.
template <int Degree>
RECON_FN void step_sh(const UpdateParams& p, const Adam& adam, int64_t i, const Lanes& lanes,
                      const ShColumns<Degree>& gradient) {
    const int64_t width = 3 * p.projection.sh_bases;
    const Pack detail(p.sh_detail_rate * adam.per_rate);
    const Pack first = select(first_lanes(3), Pack(p.sh.rate * adam.per_rate), detail);
    for (int square = 0; square < sh_squares<Degree>(); ++square) {
        const int column = square * kLanes;
        const Pack step_size = square == 0 ? first : detail;
        Pack tile[kLanes];
        for (int c = 0; c < kLanes; ++c) tile[c] = gradient.column[column + c];
        transpose(tile);
        const bool whole = column + kLanes <= sh_columns<Degree>();
        const Mask inside = first_lanes(sh_columns<Degree>() - column);
        for (int r = 0; r < kLanes; ++r) {
            const int64_t at = (i + r) * width + column;
            if ((lanes.ahead >> r) & 1u) {
                fetch(p.sh.first_moment + at + kAhead * width, kLanes);
                fetch(p.sh.second_moment + at + kAhead * width, kLanes);
            }
            if (!((lanes.set >> r) & 1u)) continue;
            if (whole) {
                adam.whole(p.sh, at, tile[r], step_size);
            } else {
                adam.masked(p.sh, at, tile[r], step_size, inside);
            }
        }
    }
}

// Steps the colours, returns the gradient by the mean through the view direction (zero in lanes that are off).
// `Degree` is that of the coefficients that are read; with `Train` all of them are stepped, else the constant one.
template <int Degree, bool Train>
RECON_FN Vec3<Pack> step_colors(const UpdateParams& p, const Adam& adam, const View<Pack>& view, int64_t i,
                                const Lanes& lanes, Vec3<Pack> mean) {
    const Pack zero(0.0f);
    const Pack3 color = load_rows3(p.projection.colors + 3 * i), given = load_rows3(p.projection.grad_colors + 3 * i);
    // Basis functions are at most 3 or so, which the bound on the coefficients' gradients leaves room for.
    const Pack most(0.25f * kMostGradient);
    const auto kept = [&](Pack c, Pack by) {
        return select(lanes.mask & (c > zero) & (abs_(by) <= most), by, zero);
    };
    const Vec3<Pack> by_color{kept(color.x, given.x), kept(color.y, given.y), kept(color.z, given.z)};
    Vec3<Pack> by_direction{zero, zero, zero};
    if constexpr (Degree > 0) {
        const int64_t width = 3 * p.projection.sh_bases;
        for (int r = 0; r < kLanes; ++r)
            if ((lanes.ahead >> r) & 1u) fetch(p.sh.value + (i + r + kAhead) * width, sh_columns<Degree>());
        ShColumns<Degree> sh;
        load_sh<Degree>(p.projection, i, lanes.set, sh);
        const Directions direction = directions_to(view, mean);
        by_direction = where(lanes.mask,
                             colors_vjp<Degree>(direction, sh_basis<Degree>(direction.unit), by_color, sh));
        if constexpr (Train) step_sh<Degree>(p, adam, i, lanes, sh);
    }
    if constexpr (!Train) {
        if (p.sh.rate != 0) step_sh_constant(p, adam, i, lanes, by_color);
    }
    return by_direction;
}

// ---- one pack ------------------------------------------------------------------------------------------------------

template <int Degree, bool Train>
void update_pack(const UpdateParams& p, const Adam& adam, const View<Pack>& view, int64_t i, int rows,
                 PoseSums& sums) {
    const uint32_t set = flag_bits(p.seen + i, rows);
    if (set == 0) return;
    const Mask mask = mask_from_bits(set);
    const int64_t next = i + kAhead;
    const Lanes lanes{set, mask, all(mask), next + kLanes <= p.projection.count ? flag_bits(p.seen + next, kLanes) : 0};
    if (lanes.ahead != 0) fetch_rows(p, next);
    const Gaussian<Pack> gaussian = load_gaussians(p.projection, i);
    const Footprint<Pack> footprint = project_gaussian(view, gaussian);
    GaussianGradient<Pack> g = project_vjp(view, gaussian, footprint, load_screen_gradient(p.projection, i));
    const Vec3<Pack> by_direction = step_colors<Degree, Train>(p, adam, view, i, lanes, gaussian.mean);
    g.mean = g.mean + by_direction;
    if (p.projection.grad_cam_from_world != nullptr) sums.add(mask, g, by_direction);
    g.opacity_logit = fma_(Pack(p.opacity_penalty), footprint.sigmoid * footprint.complement, g.opacity_logit);
    g.log_scale = axpy(Pack(p.scale_penalty), footprint.scale, g.log_scale);
    step_rows<3>(adam, p.means, i, lanes, {g.mean.x, g.mean.y, g.mean.z});
    step_rows<4>(adam, p.quats, i, lanes, {g.quat.w, g.quat.x, g.quat.y, g.quat.z});
    step_rows<3>(adam, p.log_scales, i, lanes, {g.log_scale.x, g.log_scale.y, g.log_scale.z});
    step_rows<1>(adam, p.opacity_logits, i, lanes, {g.opacity_logit});
}

// A full pack's worth of rows for the last Gaussians, so that the pack functions need no special case.
class Tail {
public:
    Tail(const UpdateParams& p, int64_t i, int64_t rows) : given_(p), i_(i), rows_(rows), q_(p) {
        ProjectionParams& q = q_.projection;
        q.grad_means_px = take(q.grad_means_px, 2), q.grad_conics = take(q.grad_conics, 3);
        q.grad_opacities = take(q.grad_opacities, 1), q.grad_depths = take(q.grad_depths, 1);
        q.grad_colors = take(q.grad_colors, 3), q.colors = take(q.colors, 3);
        const int sh_width = 3 * q.sh_bases;
        if (q.sh_bases == 1) {
            take(q_.sh, 3);
        } else {  // SH rows are stepped one by one
            q_.sh = {p.sh.value + i * sh_width, p.sh.first_moment + i * sh_width, p.sh.second_moment + i * sh_width,
                     p.sh.rate};
        }
        take(q_.means, 3), take(q_.quats, 4), take(q_.log_scales, 3), take(q_.opacity_logits, 1);
        q.means = q_.means.value, q.quats = q_.quats.value, q.log_scales = q_.log_scales.value;
        q.opacity_logits = q_.opacity_logits.value, q.sh = q_.sh.value;
        q_.seen = p.seen + i;
        q.count = rows;  // nothing lies ahead of the last pack
    }
    const UpdateParams& params() const { return q_; }

    // Copies the results to where they belong.
    void write() const {
        give(given_.means, q_.means, 3), give(given_.quats, q_.quats, 4), give(given_.log_scales, q_.log_scales, 3);
        give(given_.opacity_logits, q_.opacity_logits, 1);
        if (given_.projection.sh_bases == 1) give(given_.sh, q_.sh, 3);
    }

private:
    float* take(const float* rows, int width) {
        if (rows == nullptr) return nullptr;
        float* copy = buffer_ + used_;
        used_ += width * kLanes;
        std::memcpy(copy, rows + i_ * width, sizeof(float) * width * rows_);
        return copy;
    }
    void take(TrainedRows& t, int width) {
        t.value = take(t.value, width);
        t.first_moment = take(t.first_moment, width);
        t.second_moment = take(t.second_moment, width);
    }
    void give(const TrainedRows& to, const TrainedRows& from, int width) const {
        const size_t bytes = sizeof(float) * width * rows_;
        std::memcpy(to.value + i_ * width, from.value, bytes);
        std::memcpy(to.first_moment + i_ * width, from.first_moment, bytes);
        std::memcpy(to.second_moment + i_ * width, from.second_moment, bytes);
    }

    const UpdateParams& given_;
    int64_t i_, rows_;
    UpdateParams q_;
    // Screen gradients of 2 + 3 + 1 + 1 + 3 numbers, 3 of the colour; 3 + 4 + 3 + 1 + 3 trained with their moments.
    float buffer_[(13 + 3 * 14) * kLanes] = {};
    int used_ = 0;
};

// ---- all of them ---------------------------------------------------------------------------------------------------

template <int Degree, bool Train>
void update_block(const UpdateParams& p, const Adam& adam, const View<Pack>& view, int64_t first, int64_t last,
                  double* pose) {
    PoseSums sums;
    for (int64_t i = first; i < last; i += kLanes) {
        if (i + kLanes <= last) {
            update_pack<Degree, Train>(p, adam, view, i, kLanes, sums);
            continue;
        }
        Tail tail(p, i, last - i);
        update_pack<Degree, Train>(tail.params(), adam, view, 0, static_cast<int>(last - i), sums);
        tail.write();
    }
    if (pose != nullptr) sums.total(pose);
}

template <int Degree, bool Train>
void update(const UpdateParams& p) {
    const View<Pack> view = view_of<Pack>(p.projection);
    const Adam adam(p);
    const int64_t count = p.projection.count, blocks = (count + kBlock - 1) / kBlock;
    const bool with_pose = p.projection.grad_cam_from_world != nullptr;
    const std::unique_ptr<double[]> partial(with_pose ? new double[blocks * kPoseSums + 1] : nullptr);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t last = (block + 1) * kBlock < count ? (block + 1) * kBlock : count;
        double* pose = with_pose ? partial.get() + block * kPoseSums : nullptr;
        update_block<Degree, Train>(p, adam, view, block * kBlock, last, pose);
    }
    if (!with_pose) return;
    double sums[kPoseSums] = {};
    for (int64_t block = 0; block < blocks; ++block)
        for (int s = 0; s < kPoseSums; ++s) sums[s] += partial[block * kPoseSums + s];
    finish_pose(p.projection, sums);
}

void update_splats(const UpdateParams& p) {
    constexpr void (*training[])(const UpdateParams&) = {update<0, false>, update<1, true>, update<2, true>,
                                                         update<3, true>};
    constexpr void (*reading[])(const UpdateParams&) = {update<0, false>, update<1, false>, update<2, false>,
                                                        update<3, false>};
    const int degree = p.projection.sh_degree;
    if (p.sh_detail_rate != 0) return training[degree](p);
    reading[p.view_gradient ? degree : 0](p);
}

}  // namespace

void bind_update(nb::module_& m) {
    auto t = nb::class_<TrainedRows>(m, "TrainedRows").def(nb::init<>());
    RECON_BIND_POINTER(t, TrainedRows, value);
    RECON_BIND_POINTER(t, TrainedRows, first_moment);
    RECON_BIND_POINTER(t, TrainedRows, second_moment);
    RECON_BIND_VALUE(t, TrainedRows, rate);
    auto c = nb::class_<UpdateParams>(m, "UpdateParams").def(nb::init<>());
    RECON_BIND_VALUE(c, UpdateParams, projection);
    RECON_BIND_POINTER(c, UpdateParams, seen);
    RECON_BIND_VALUE(c, UpdateParams, means);
    RECON_BIND_VALUE(c, UpdateParams, quats);
    RECON_BIND_VALUE(c, UpdateParams, log_scales);
    RECON_BIND_VALUE(c, UpdateParams, opacity_logits);
    RECON_BIND_VALUE(c, UpdateParams, sh);
    RECON_BIND_VALUE(c, UpdateParams, sh_detail_rate);
    RECON_BIND_VALUE(c, UpdateParams, view_gradient);
    RECON_BIND_VALUE(c, UpdateParams, beta1);
    RECON_BIND_VALUE(c, UpdateParams, beta2);
    RECON_BIND_VALUE(c, UpdateParams, epsilon);
    RECON_BIND_VALUE(c, UpdateParams, bias_correction1);
    RECON_BIND_VALUE(c, UpdateParams, bias_correction2);
    RECON_BIND_VALUE(c, UpdateParams, opacity_penalty);
    RECON_BIND_VALUE(c, UpdateParams, scale_penalty);
    m.def("update_splats", &update_splats, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
