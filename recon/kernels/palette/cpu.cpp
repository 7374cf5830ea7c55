// SPDX-License-Identifier: Apache-2.0
// Lloyd's algorithm within groups of rows.  A thread owns a block of rows while rows look for their nearest code, and
// a group while codes become the means of their rows, so nothing is shared and sums do not depend on threads.
//
// The nearest code minimises |c|²/2 - x·c.  Codes lie kLanes side by side, transposed, so one pass over the D numbers
// of kRows rows fills kRows × 2 packs of dot products from registers: a small matrix product that never leaves the
// first cache.
#include <algorithm>
#include <limits>
#include <vector>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/simd.h"
#include "recon/kernels/palette/params.h"

namespace recon {
namespace {

constexpr int kRows = kLanes == 16 ? 8 : 4;
constexpr int kPair = 2 * kLanes;
constexpr int64_t kBlock = 256;

struct Block {
    int64_t group, begin, end;
};

// The codes of all groups in the order in which they are read: [pairs of packs][D][kPair], and half their squared
// lengths.  A group's last pair is filled up with codes that are infinitely far.
class Codes {
public:
    explicit Codes(const PaletteParams& p) : p_(p), first_(static_cast<size_t>(p.groups) + 1, 0) {
        for (int64_t g = 0; g < p.groups; ++g) {
            const int64_t codes = p.code_offsets[g + 1] - p.code_offsets[g];
            first_[g + 1] = first_[g] + (codes + kPair - 1) / kPair;
        }
        numbers_.resize(static_cast<size_t>(first_[p.groups] * kPair * p.dims));
        halves_.resize(static_cast<size_t>(first_[p.groups] * kPair));
    }
    void arrange(int64_t g) {
        const int64_t begin = p_.code_offsets[g], codes = p_.code_offsets[g + 1] - begin;
        for (int64_t slot = 0; slot < (first_[g + 1] - first_[g]) * kPair; ++slot) {
            const int64_t pair = first_[g] + slot / kPair, lane = slot % kPair;
            const float* code = p_.codebook + (begin + slot) * p_.dims;
            double square = 0;
            for (int64_t d = 0; d < p_.dims; ++d) {
                const float number = slot < codes ? code[d] : 0.0f;
                numbers_[static_cast<size_t>((pair * p_.dims + d) * kPair + lane)] = number;
                square += static_cast<double>(number) * number;
            }
            halves_[static_cast<size_t>(pair * kPair + lane)] =
                slot < codes ? static_cast<float>(square / 2) : std::numeric_limits<float>::infinity();
        }
    }
    int64_t first(int64_t g) const { return first_[static_cast<size_t>(g)]; }
    const float* numbers(int64_t pair) const { return numbers_.data() + pair * p_.dims * kPair; }
    const float* halves(int64_t pair) const { return halves_.data() + pair * kPair; }

private:
    const PaletteParams& p_;
    std::vector<int64_t> first_;
    std::vector<float> numbers_, halves_;
};

// The best of each lane so far, for kRows rows.
struct Best {
    Pack score[kRows], slot[kRows];
};

void meet_pair(const float* const* rows, const float* numbers, const float* halves, int64_t dims, int64_t slot,
               Best& best) {
    Pack low[kRows], high[kRows];
    for (int r = 0; r < kRows; ++r) low[r] = high[r] = Pack(0.0f);
    for (int64_t d = 0; d < dims; ++d) {
        const Pack a = load(numbers + d * kPair), b = load(numbers + d * kPair + kLanes);
        for (int r = 0; r < kRows; ++r) {
            const Pack x(rows[r][d]);
            low[r] = fma_(x, a, low[r]);
            high[r] = fma_(x, b, high[r]);
        }
    }
    // Slots are whole numbers below 2^24, which a float holds exactly.
    const Pack a = load(halves), b = load(halves + kLanes);
    const Pack first(static_cast<float>(slot)), second(static_cast<float>(slot + kLanes));
    for (int r = 0; r < kRows; ++r) {
        const Pack near = a - low[r], far = b - high[r];
        const Mask better = near < best.score[r];
        best.slot[r] = select(better, first, best.slot[r]);
        best.score[r] = select(better, near, best.score[r]);
        const Mask still = far < best.score[r];
        best.slot[r] = select(still, second, best.slot[r]);
        best.score[r] = select(still, far, best.score[r]);
    }
}

// The lowest code among the nearest.
int64_t winner(Pack score, Pack slot) {
    float scores[kLanes], slots[kLanes];
    store(scores, score);
    store(slots, slot);
    int64_t best = static_cast<int64_t>(slots[0]);
    float least = scores[0];
    for (int lane = 1; lane < kLanes; ++lane) {
        const int64_t code = static_cast<int64_t>(slots[lane]) + lane;
        if (scores[lane] < least || (scores[lane] == least && code < best)) {
            least = scores[lane];
            best = code;
        }
    }
    return best;
}

float squared_distance(const float* a, const float* b, int64_t dims) {
    float sum = 0;
    for (int64_t d = 0; d < dims; ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

void assign_block(const PaletteParams& p, const Codes& codes, const Block& block) {
    const int64_t first = codes.first(block.group), pairs = codes.first(block.group + 1) - first;
    for (int64_t begin = block.begin; begin < block.end; begin += kRows) {
        const float* rows[kRows];
        // The last rows of a block are met again where fewer than kRows are left.
        for (int r = 0; r < kRows; ++r) rows[r] = p.rows + std::min(begin + r, block.end - 1) * p.dims;
        Best best;
        for (int r = 0; r < kRows; ++r) {
            best.score[r] = Pack(std::numeric_limits<float>::infinity());
            best.slot[r] = Pack(0.0f);
        }
        for (int64_t pair = 0; pair < pairs; ++pair)
            meet_pair(rows, codes.numbers(first + pair), codes.halves(first + pair), p.dims, pair * kPair, best);
        for (int r = 0; r < kRows && begin + r < block.end; ++r) {
            const int64_t code = p.code_offsets[block.group] + winner(best.score[r], best.slot[r]);
            p.labels[begin + r] = static_cast<int32_t>(code);
            p.distances[begin + r] = squared_distance(rows[r], p.codebook + code * p.dims, p.dims);
        }
    }
}

// Codes that no row chose go to the rows that are worst off.
void reseed(const PaletteParams& p, int64_t g, const std::vector<int64_t>& empty) {
    std::vector<int64_t> rows(static_cast<size_t>(p.row_offsets[g + 1] - p.row_offsets[g]));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = p.row_offsets[g] + static_cast<int64_t>(i);
    const size_t count = std::min(empty.size(), rows.size());
    std::partial_sort(rows.begin(), rows.begin() + static_cast<int64_t>(count), rows.end(), [&p](int64_t a, int64_t b) {
        const float left = p.weights[a] * p.distances[a], right = p.weights[b] * p.distances[b];
        return left > right || (left == right && a < b);
    });
    for (size_t i = 0; i < count; ++i) {
        if (!(p.weights[rows[i]] * p.distances[rows[i]] > 0)) return;
        std::copy_n(p.rows + rows[i] * p.dims, p.dims, p.codebook + empty[i] * p.dims);
    }
}

void take_means(const PaletteParams& p, int64_t g) {
    const int64_t first = p.code_offsets[g], codes = p.code_offsets[g + 1] - first;
    std::vector<double> sums(static_cast<size_t>(codes * p.dims), 0.0), weights(static_cast<size_t>(codes), 0.0);
    for (int64_t row = p.row_offsets[g]; row < p.row_offsets[g + 1]; ++row) {
        const int64_t code = p.labels[row] - first;
        const double weight = p.weights[row];
        weights[static_cast<size_t>(code)] += weight;
        double* sum = sums.data() + code * p.dims;
        for (int64_t d = 0; d < p.dims; ++d) sum[d] += weight * p.rows[row * p.dims + d];
    }
    std::vector<int64_t> empty;
    for (int64_t code = 0; code < codes; ++code) {
        const double weight = weights[static_cast<size_t>(code)];
        if (!(weight > 0)) {
            empty.push_back(first + code);
            continue;
        }
        for (int64_t d = 0; d < p.dims; ++d)
            p.codebook[(first + code) * p.dims + d] =
                static_cast<float>(sums[static_cast<size_t>(code * p.dims + d)] / weight);
    }
    if (!empty.empty()) reseed(p, g, empty);
}

std::vector<Block> blocks_of(const PaletteParams& p) {
    std::vector<Block> blocks;
    for (int64_t g = 0; g < p.groups; ++g)
        for (int64_t begin = p.row_offsets[g]; begin < p.row_offsets[g + 1]; begin += kBlock)
            blocks.push_back({g, begin, std::min(begin + kBlock, p.row_offsets[g + 1])});
    return blocks;
}

void cluster_groups(const PaletteParams& p) {
    Codes codes(p);
    const std::vector<Block> blocks = blocks_of(p);
    for (int64_t iteration = 0; iteration <= p.iterations; ++iteration) {
#pragma omp parallel
        {
#pragma omp for schedule(dynamic, 1)
            for (int64_t g = 0; g < p.groups; ++g) codes.arrange(g);
#pragma omp for schedule(dynamic, 4)
            for (size_t i = 0; i < blocks.size(); ++i) assign_block(p, codes, blocks[i]);
            if (iteration < p.iterations) {
#pragma omp for schedule(dynamic, 1)
                for (int64_t g = 0; g < p.groups; ++g) take_means(p, g);
            }
        }
    }
}

}  // namespace

void bind_palette(nb::module_& m) {
    auto c = nb::class_<PaletteParams>(m, "PaletteParams").def(nb::init<>());
    RECON_BIND_POINTER(c, PaletteParams, rows);
    RECON_BIND_POINTER(c, PaletteParams, weights);
    RECON_BIND_POINTER(c, PaletteParams, row_offsets);
    RECON_BIND_POINTER(c, PaletteParams, code_offsets);
    RECON_BIND_POINTER(c, PaletteParams, codebook);
    RECON_BIND_POINTER(c, PaletteParams, labels);
    RECON_BIND_POINTER(c, PaletteParams, distances);
    RECON_BIND_VALUE(c, PaletteParams, groups);
    RECON_BIND_VALUE(c, PaletteParams, dims);
    RECON_BIND_VALUE(c, PaletteParams, iterations);
    m.def("cluster_groups", &cluster_groups, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
