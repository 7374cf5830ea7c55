// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the photometric loss.  A thread owns a band of rows and streams down it, a group of rows at a time:
// it prepares the source rows that come into reach, computes SSIM and its derivatives of one group, and finishes the
// group (derivatives filtered, L1 added, gradient written) that lies far enough behind.  All that lives between these
// stages are rings of rows in the thread's scratch, which stay in the L2 cache; only the derivatives of the five rows
// beyond either end of a band are computed twice.  Sums are kept per row and added in order, and no row's numbers
// depend on its band, so the result does not depend on the number of threads.
#include <omp.h>

#include <cstring>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/ssim/math.h"
#include "recon/kernels/ssim/params.h"
#include "recon/kernels/ssim/window.h"

namespace recon {
namespace {

constexpr int kRing = 2 * kGroup + 8;     // rows between the last one to finish and the last one prepared
constexpr int kDerivatives = 3;
constexpr int64_t kChunk = 256 / kLanes;  // packs filtered down before they are filtered along: they stay in L1
constexpr int64_t kLeastBand = 16;        // rows
constexpr int64_t kAlign = 16;            // floats in a cache line
constexpr float kByte = 1.0f / 255.0f;

int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

// The places of a thread's lines of samples, each with a margin of zeros on both sides for the filter.
struct Layout {
    int64_t samples, packs, margin, line;

    explicit Layout(const SsimParams& p)
        : samples(p.width * p.channels),
          packs((samples + kLanes - 1) / kLanes),
          margin(round_up(kSsimRadius * p.channels, kAlign)),
          // An odd number of cache lines, so that the same place of successive lines never shares a cache set.
          line(round_up(round_up(samples, kAlign) + 2 * margin, 2 * kAlign) + kAlign) {}

    // Rings of x, y, weights and derivatives; the lines filtered down; zeros, the background, ones within the row.
    static constexpr int kX = 0, kY = kRing, kWeight = 2 * kRing, kDerivative = 3 * kRing;
    static constexpr int kDown = (3 + kDerivatives) * kRing, kZero = kDown + 4 * kGroup;
    static constexpr int kBackground = kZero + kDerivatives, kOnes = kBackground + 1, kLines = kOnes + 1;

    int64_t floats() const { return kLines * line + kAlign; }
};

int64_t ssim_workspace_floats(const SsimParams& p) { return omp_get_max_threads() * Layout(p).floats(); }

// One weight per pixel becomes one per sample; `out` has room for whole packs.
void spread_weights(const SsimParams& p, const float* weights, float* out) {
    int64_t i = 0;
    if (p.channels == 3)
        for (; i + kLanes <= p.width; i += kLanes) {
            const Pack w = load(weights + i);
            store_rows3(out + 3 * i, w, w, w);
        }
    for (; i < p.width; ++i)
        for (int64_t c = 0; c < p.channels; ++c) out[i * p.channels + c] = weights[i];
}

bool is_weighted(const SsimParams& p) { return p.weight || (p.mask && !p.mask_is_alpha); }

// The weights of row `y` of a weighted picture; `spare` has room for a row of pixels.
const float* weights_of_row(const SsimParams& p, int64_t y, float* spare) {
    const float* weight = p.weight ? p.weight + y * p.width : nullptr;
    if (!p.mask || p.mask_is_alpha) return weight;
    const uint8_t* mask = p.mask + y * p.width;
    for (int64_t i = 0; i < p.width; ++i) spare[i] = static_cast<float>(mask[i]) * kByte;
    if (weight)
        for (int64_t i = 0; i < p.width; ++i) spare[i] *= weight[i];
    return spare;
}

// Streams down the rows [first, last).  `Step` is the number of channels where it is known beforehand, else 0.
template <int Step>
class Band {
public:
    Band(const SsimParams& p, float* scratch, int64_t first, int64_t last, double total)
        : p_(p), at_(p), first_(first), last_(last), weighted_(is_weighted(p)),
          ssim_scale_(static_cast<float>(-p.ssim_weight / total)), l1_scale_(static_cast<float>(p.l1_weight / total)) {
        base_ = scratch + (kAlign - reinterpret_cast<uintptr_t>(scratch) / sizeof(float) % kAlign) % kAlign;
        clear();
    }

    void run() {
        const int64_t derivatives_end = last_ + kSsimRadius;
        int64_t prepared = first_ - 2 * kSsimRadius, finished = first_;
        for (int64_t row = first_ - kSsimRadius; finished < last_; row += kGroup) {
            for (; prepared < row + kGroup + kSsimRadius; ++prepared)
                if (inside(prepared) && prepared < derivatives_end + kSsimRadius) prepare(prepared);
            compare(row);
            for (; finished < last_ && finished + kGroup + kSsimRadius <= row + kGroup; finished += kGroup)
                finish(finished);
        }
    }

private:
    int64_t step() const { return Step > 0 ? Step : p_.channels; }
    bool inside(int64_t row) const { return row >= 0 && row < p_.height; }
    float* line(int number) const { return base_ + number * at_.line + at_.margin; }
    float* ring(int first_line, int64_t row, int lines = 1) const {
        return line(inside(row) ? first_line + static_cast<int>(row % kRing) * lines : Layout::kZero);
    }

    // Whatever lies outside the picture is 0: the margins of all lines, and the rest of the last pack.
    void clear() {
        const int64_t end = at_.margin + at_.packs * kLanes - kLanes;
        for (int n = 0; n < Layout::kLines; ++n) {
            float* start = base_ + n * at_.line;
            std::memset(start, 0, sizeof(float) * at_.margin);
            std::memset(start + end, 0, sizeof(float) * (at_.line - end));
        }
        std::memset(line(Layout::kZero) - at_.margin, 0, sizeof(float) * kDerivatives * at_.line);
        float* ones = line(Layout::kOnes);
        for (int64_t i = 0; i < at_.samples; ++i) ones[i] = 1.0f;
        if (!p_.background) return;
        float* background = line(Layout::kBackground);
        for (int64_t i = 0; i < at_.samples; ++i) background[i] = p_.background[i % p_.channels];
    }

    // Brings row `row` of the picture into the rings.
    void prepare(int64_t row) const {
        const int64_t offset = row * at_.samples;
        std::memcpy(ring(Layout::kX, row), p_.image + offset, sizeof(float) * at_.samples);
        float* y = ring(Layout::kY, row);
        if (p_.target)
            std::memcpy(y, p_.target + offset, sizeof(float) * at_.samples);
        else
            for (int64_t i = 0; i < at_.samples; ++i) y[i] = static_cast<float>(p_.target_bytes[offset + i]) * kByte;
        float* weights = ring(Layout::kWeight, row);
        float* spare = line(Layout::kDown);
        if (weighted_) spread_weights(p_, weights_of_row(p_, row, spare), weights);
        if (!p_.mask || !p_.mask_is_alpha) return;
        for (int64_t i = 0; i < p_.width; ++i) spare[i] = static_cast<float>(p_.mask[row * p_.width + i]) * kByte;
        float* alpha = line(Layout::kDown + 1);
        const float* background = line(Layout::kBackground);
        spread_weights(p_, spare, alpha);
        for (int64_t i = 0; i < at_.samples; ++i) y[i] = background[i] + alpha[i] * (y[i] - background[i]);
    }

    const float* weights(int64_t row) const {
        return weighted_ ? ring(Layout::kWeight, row) : line(Layout::kOnes);
    }
    // Packs that lie wholly within the picture and weigh 1.
    int64_t plain_packs() const { return weighted_ ? 0 : at_.samples / kLanes; }

    // SSIM and its derivatives of the rows row .. row + kGroup - 1, as far as this band needs them.
    void compare(int64_t row) {
        const float *x[kSourceRows], *y[kSourceRows];
        for (int r = 0; r < kSourceRows; ++r) {
            x[r] = ring(Layout::kX, row + r - kSsimRadius);
            y[r] = ring(Layout::kY, row + r - kSsimRadius);
        }
        double sums[kGroup] = {};
        const int64_t behind = (kSsimRadius * step() + kLanes - 1) / kLanes;
        int64_t along = 0;
        for (int64_t down = 0; down < at_.packs;) {
            const int64_t down_end = down + kChunk < at_.packs ? down + kChunk : at_.packs;
            for (; down < down_end; ++down) moments_down(x, y, down * kLanes, line(Layout::kDown), at_.line);
            const int64_t along_end = down == at_.packs ? down : down - behind;
            for (int o = 0; o < kGroup; ++o)
                if (inside(row + o) && row + o < last_ + kSsimRadius)
                    sums[o] += compare_along(row + o, o, along, along_end);
            along = along_end > along ? along_end : along;
        }
        for (int o = 0; o < kGroup; ++o)
            if (row + o >= first_ && row + o < last_) p_.row_sums[3 * (row + o) + 1] = sums[o];
    }

    // The packs [from, to) of one row, which is row `o` of its group.  Returns the sum of SSIM.
    double compare_along(int64_t row, int o, int64_t from, int64_t to) const {
        const float* moments = line(Layout::kDown + o);
        const float* weight = weights(row);
        float* out = ring(Layout::kDerivative, row, kDerivatives);
        const int64_t plain = plain_packs();
        Pack total(0.0f);
        int64_t n = from;
        for (; n < to && n < plain; ++n) {
            const SsimValue<Pack> v = compare_pack(moments + n * kLanes);
            total = total + v.value;
            store_derivatives(out + n * kLanes, v);
        }
        for (; n < to; ++n) {
            SsimValue<Pack> v = compare_pack(moments + n * kLanes);
            const Pack w = load(weight + n * kLanes), zero(0.0f);
            // A weight of 0 silences even a NaN.
            const Mask counts = w > zero;
            v = {select(counts, v.value * w, zero), select(counts, v.d_x * w, zero),
                 select(counts, v.d_xx * w, zero), select(counts, v.d_xy * w, zero)};
            total = total + v.value;
            store_derivatives(out + n * kLanes, v);
        }
        return sum(total);
    }
    RECON_FN SsimValue<Pack> compare_pack(const float* moments) const {
        const int64_t moment = kGroup * at_.line;
        return ssim_of_moments(SsimMoments<Pack>{
            filter_along<Step>(moments, step()), filter_along<Step>(moments + moment, step()),
            filter_along<Step>(moments + 2 * moment, step()), filter_along<Step>(moments + 3 * moment, step())});
    }
    RECON_FN void store_derivatives(float* out, const SsimValue<Pack>& v) const {
        store(out, v.d_x);
        store(out + at_.line, v.d_xx);
        store(out + 2 * at_.line, v.d_xy);
    }

    // L1 and the gradient of the rows row .. row + kGroup - 1, without those beyond the band.
    void finish(int64_t row) {
        const int rows = static_cast<int>(last_ - row < kGroup ? last_ - row : kGroup);
        const float* derivatives[kSourceRows];
        for (int r = 0; r < kSourceRows; ++r)
            derivatives[r] = ring(Layout::kDerivative, row + r - kSsimRadius, kDerivatives);
        double sums[kGroup] = {};
        const int64_t behind = (kSsimRadius * step() + kLanes - 1) / kLanes;
        int64_t along = 0;
        for (int64_t down = 0; down < at_.packs;) {
            const int64_t down_end = down + kChunk < at_.packs ? down + kChunk : at_.packs;
            if (p_.gradient)
                for (; down < down_end; ++down)
                    derivatives_down(derivatives, at_.line, down * kLanes, line(Layout::kDown), at_.line);
            down = down_end;
            const int64_t along_end = down == at_.packs ? down : down - behind;
            for (int o = 0; o < rows; ++o) sums[o] += finish_along(row + o, o, along, along_end);
            along = along_end > along ? along_end : along;
        }
        for (int o = 0; o < rows; ++o) p_.row_sums[3 * (row + o) + 2] = sums[o];
    }

    double finish_along(int64_t row, int o, int64_t from, int64_t to) const {
        const float *x = ring(Layout::kX, row), *y = ring(Layout::kY, row), *weight = weights(row);
        const float* filtered = line(Layout::kDown + o);
        float* gradient = p_.gradient ? p_.gradient + row * at_.samples : nullptr;
        Pack total(0.0f);
        for (int64_t n = from; n < to; ++n) {
            const int64_t i = n * kLanes;
            const Pack a = load(x + i), b = load(y + i), w = load(weight + i), zero(0.0f);
            const Mask counts = w > zero;
            total = total + select(counts, abs_(a - b) * w, zero);
            if (!gradient) continue;
            // G∗d_x + 2x·G∗d_xx + y·G∗d_xy, and the sign of L1.
            const Pack d_x = filter_along<Step>(filtered + i, step());
            const Pack d_xx = filter_along<Step>(filtered + kGroup * at_.line + i, step());
            const Pack d_xy = filter_along<Step>(filtered + 2 * kGroup * at_.line + i, step());
            const Pack ssim = fma_(b, d_xy, fma_(a + a, d_xx, d_x));
            const Pack slope = select(counts, w * Pack(l1_scale_), zero);
            const Pack l1 = select(a > b, slope, select(a < b, -slope, zero));
            const Pack g = fma_(ssim, Pack(ssim_scale_), l1);
            if (i + kLanes <= at_.samples)
                store(gradient + i, g);
            else
                store_masked(gradient + i, g, first_lanes(static_cast<int>(at_.samples - i)));
        }
        return sum(total);
    }

    const SsimParams& p_;
    Layout at_;
    int64_t first_, last_;
    bool weighted_;
    float ssim_scale_, l1_scale_;
    float* base_;
};

template <int Step>
void run_band(const SsimParams& p, float* scratch, int64_t first, int64_t last, double total) {
    Band<Step>(p, scratch, first, last, total).run();
}

double sum_rows(const SsimParams& p, int column) {
    double total = 0;
    for (int64_t y = 0; y < p.height; ++y) total += p.row_sums[3 * y + column];
    return total;
}

// The sum of all weights, each of which counts for every channel.
double sum_samples(const SsimParams& p) {
    const double pixels = is_weighted(p) ? sum_rows(p, 0) : static_cast<double>(p.height * p.width);
    return std::fmax(pixels * static_cast<double>(p.channels), 1e-12);
}

double sum_weights(const SsimParams& p, int64_t y, float* spare) {
    const float* weights = weights_of_row(p, y, spare);
    double total = 0;
    int64_t i = 0;
    for (; i + kLanes <= p.width; i += kLanes) total += static_cast<double>(sum(load(weights + i)));
    for (; i < p.width; ++i) total += static_cast<double>(weights[i]);
    return total;
}

double photometric(const SsimParams& p) {
    const int64_t most = (p.height + kLeastBand - 1) / kLeastBand;
    double total = 0;
#pragma omp parallel
    {
        float* scratch = p.workspace + omp_get_thread_num() * Layout(p).floats();
        if (is_weighted(p)) {
#pragma omp for schedule(static)
            for (int64_t y = 0; y < p.height; ++y) p.row_sums[3 * y] = sum_weights(p, y, scratch);
        }
        const double weights = sum_samples(p);
#pragma omp single nowait
        total = weights;
        const int64_t threads = omp_get_num_threads(), bands = threads < most ? threads : most;
#pragma omp for schedule(static, 1) nowait
        for (int64_t band = 0; band < bands; ++band) {
            const int64_t first = band * p.height / bands, last = (band + 1) * p.height / bands;
            (p.channels == 3 ? run_band<3> : p.channels == 1 ? run_band<1> : run_band<0>)(p, scratch, first, last, weights);
        }
    }
    return p.l1_weight * (sum_rows(p, 2) / total) + p.ssim_weight * (1.0 - sum_rows(p, 1) / total);
}

}  // namespace

void bind_ssim(nb::module_& m) {
    auto c = nb::class_<SsimParams>(m, "SsimParams").def(nb::init<>());
    RECON_BIND_POINTER(c, SsimParams, image);
    RECON_BIND_POINTER(c, SsimParams, target);
    RECON_BIND_POINTER(c, SsimParams, target_bytes);
    RECON_BIND_POINTER(c, SsimParams, weight);
    RECON_BIND_POINTER(c, SsimParams, mask);
    RECON_BIND_POINTER(c, SsimParams, background);
    RECON_BIND_POINTER(c, SsimParams, gradient);
    RECON_BIND_POINTER(c, SsimParams, workspace);
    RECON_BIND_POINTER(c, SsimParams, row_sums);
    RECON_BIND_VALUE(c, SsimParams, height);
    RECON_BIND_VALUE(c, SsimParams, width);
    RECON_BIND_VALUE(c, SsimParams, channels);
    RECON_BIND_VALUE(c, SsimParams, mask_is_alpha);
    RECON_BIND_VALUE(c, SsimParams, l1_weight);
    RECON_BIND_VALUE(c, SsimParams, ssim_weight);
    m.def("ssim_workspace_floats", &ssim_workspace_floats);
    m.def("photometric", &photometric, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
