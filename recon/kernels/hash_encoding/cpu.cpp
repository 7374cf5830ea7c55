// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the multiresolution hash encoding.
//
// The cells of a pack of positions are found with the positions in lanes; then each position's eight rows are read one
// by one, a row at a time, because gathers of single numbers take several times as long.  The rows of the next pack
// are fetched ahead, one for each pair of neighbours along x, which mostly share a line of memory.
//
// Who owns what: of the forward pass and of the gradient by the positions, a thread owns a chunk of samples and takes
// it through one level after another, so that a level's rows stay in its cache.  Of the gradient by the table, a thread
// owns a level, or where there are more threads than levels a part of its rows.  Every row thus takes its additions in
// the order of the samples, and nothing depends on the number of threads.
#include <omp.h>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/rows.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/hash_encoding/math.h"
#include "recon/kernels/hash_encoding/params.h"

namespace recon {
namespace {

constexpr int64_t kChunk = 16384;
constexpr int64_t kWorthThreads = 1024;
constexpr int kCorners = 8;

template <int Features>
struct RowOf {
    typedef float type __attribute__((vector_size(4 * Features)));
};
template <>
struct RowOf<1> {
    typedef float type;
};
template <int Features>
using Row = typename RowOf<Features>::type;

template <int Features>
RECON_FN Row<Features> load_row(const float* p) {
    Row<Features> r;
    std::memcpy(&r, p, sizeof r);
    return r;
}
template <int Features>
RECON_FN void store_row(float* p, Row<Features> r) {
    std::memcpy(p, &r, sizeof r);
}

struct Level {
    int number;
    float resolution;
    int32_t factor_y, factor_z;
    int32_t mask;       // of a hashed level: entries - 1
    int64_t first_row;
    int32_t rows;
};

Level level_of(const HashEncodingParams& p, int number, bool dense) {
    const int32_t side = p.resolutions[number] + 2;
    Level level;
    level.number = number;
    level.resolution = static_cast<float>(p.resolutions[number]);
    level.factor_y = dense ? side : static_cast<int32_t>(kHashFactorY);
    level.factor_z = dense ? side * side : static_cast<int32_t>(kHashFactorZ);
    level.mask = p.entries - 1;
    level.first_row = p.first_rows[number];
    level.rows = p.first_rows[number + 1] - p.first_rows[number];
    return level;
}

// A pack of positions on one level.
struct Cells {
    alignas(64) int32_t places[kCorners][kLanes];  // where a corner's row begins, in numbers from the level's first
    alignas(64) float fractions[3][kLanes];        // the position in its cell
};

template <int Features, bool Dense>
RECON_FN void find_cells(const float* positions, const Level& level, Cells& cells) {
    const Pack3 given = load_rows3(positions);
    const Pack resolution(level.resolution);
    const Ints factors[3] = {ints(1), ints(level.factor_y), ints(level.factor_z)};
    Ints axes[3][2];
    for (int axis = 0; axis < 3; ++axis) {
        const Pack x = bounded_to_unit(axis == 0 ? given.x : axis == 1 ? given.y : given.z);
        const Ints cell = truncated(among_cells(x, resolution));
        store(cells.fractions[axis], above_cell(x, resolution, floats(cell)));
        axes[axis][0] = axis == 0 ? cell : cell * factors[axis];
        axes[axis][1] = axes[axis][0] + factors[axis];
    }
    for (int corner = 0; corner < kCorners; corner += 2) {
        const Ints other = join_axes<Dense>(axes[1][corner >> 1 & 1], axes[2][corner >> 2]);
        for (int upper = 0; upper < 2; ++upper) {
            Ints row = join_axes<Dense>(axes[0][upper], other);
            if constexpr (!Dense) row = row & ints(level.mask);
            store(cells.places[corner + upper], row * ints(Features));
        }
    }
}

// The weights of the corners, [corner][lane].
struct Weights {
    alignas(64) float of[kCorners][kLanes];
};
RECON_FN void find_weights(const Cells& cells, Weights& weights) {
    const Pack x = load(cells.fractions[0]), y = load(cells.fractions[1]), z = load(cells.fractions[2]);
    for (int corner = 0; corner < kCorners; corner += 2) {
        const Pack other = axis_weight(y, corner >> 1 & 1) * axis_weight(z, corner >> 2);
        store(weights.of[corner], other * axis_weight(x, false));
        store(weights.of[corner + 1], other * axis_weight(x, true));
    }
}

// Calls visit(sample, count, cells, next) for one pack of samples after another, with the cells of the next one.
template <int Features, bool Dense, class Visit>
RECON_FN void for_packs(const HashEncodingParams& p, const Level& level, int64_t first, int64_t last,
                        const Visit& visit) {
    Cells buffers[2];
    float spare[3 * kLanes];
    const auto count_at = [&](int64_t sample) {
        return static_cast<int>(last - sample < kLanes ? last - sample : kLanes);
    };
    const auto find = [&](int64_t sample, Cells& cells) {
        find_cells<Features, Dense>(whole_rows<3>(p.positions, sample, count_at(sample), spare), level, cells);
    };
    find(first, buffers[0]);
    int turn = 0;
    for (int64_t sample = first; sample < last; sample += kLanes, turn ^= 1) {
        if (sample + kLanes < last) find(sample + kLanes, buffers[turn ^ 1]);
        visit(sample, count_at(sample), buffers[turn], buffers[turn ^ 1]);
    }
}

template <int Write>
RECON_FN void fetch_rows(const float* rows, const Cells& cells, int lane) {
    for (int corner = 0; corner < kCorners; corner += 2)
        __builtin_prefetch(rows + cells.places[corner][lane], Write);
}

// ---- forward -------------------------------------------------------------------------------------------------------

template <int Features, bool Dense>
void encode_level(const HashEncodingParams& p, const Level& level, int64_t first, int64_t last) {
    const float* rows = p.table + level.first_row * Features;
    const int64_t stride = static_cast<int64_t>(p.levels) * Features;
    float* encoded = p.encoded + level.number * Features;
    Weights weights;
    for_packs<Features, Dense>(p, level, first, last,
                               [&](int64_t sample, int count, const Cells& cells, const Cells& next) {
        find_weights(cells, weights);
        float* to = encoded + sample * stride;
        for (int lane = 0; lane < count; ++lane, to += stride) {
            fetch_rows<0>(rows, next, lane);
            Row<Features> even = weights.of[0][lane] * load_row<Features>(rows + cells.places[0][lane]);
            Row<Features> odd = weights.of[1][lane] * load_row<Features>(rows + cells.places[1][lane]);
            for (int corner = 2; corner < kCorners; corner += 2) {
                even += weights.of[corner][lane] * load_row<Features>(rows + cells.places[corner][lane]);
                odd += weights.of[corner + 1][lane] * load_row<Features>(rows + cells.places[corner + 1][lane]);
            }
            store_row<Features>(to, even + odd);
        }
    });
}

// ---- the gradient by the table -------------------------------------------------------------------------------------

// Of the level's rows in [first_row, last_row), which are all of them if `Whole`.
template <int Features, bool Dense, bool Whole>
void scatter_level(const HashEncodingParams& p, const Level& level, int64_t first_row, int64_t last_row) {
    float* rows = p.table_gradient + level.first_row * Features;
    const int64_t stride = static_cast<int64_t>(p.levels) * Features;
    const float* gradient = p.gradient + level.number * Features;
    const auto begin = static_cast<uint32_t>(first_row * Features);
    const auto extent = static_cast<uint32_t>((last_row - first_row) * Features);
    Weights weights;
    for_packs<Features, Dense>(p, level, 0, p.samples,
                               [&](int64_t sample, int count, const Cells& cells, const Cells& next) {
        find_weights(cells, weights);
        const float* from = gradient + sample * stride;
        for (int lane = 0; lane < count; ++lane, from += stride) {
            const Row<Features> by_encoded = load_row<Features>(from);
            const auto add = [&](int corner) {
                float* row = rows + cells.places[corner][lane];
                store_row<Features>(row, load_row<Features>(row) + weights.of[corner][lane] * by_encoded);
            };
            if constexpr (Whole) {
                fetch_rows<1>(rows, next, lane);
                for (int corner = 0; corner < kCorners; ++corner) add(corner);
            } else {
                for (int corner = 0; corner < kCorners; ++corner)
                    if (static_cast<uint32_t>(cells.places[corner][lane]) - begin < extent) add(corner);
            }
        }
    });
}

// ---- the gradient by the positions ---------------------------------------------------------------------------------

// The sum of each lane's row, of kLanes rows one after another.
template <int Features>
RECON_FN Pack sums_of_rows(const float* rows) {
    if constexpr (Features == 1) return load(rows);
    if constexpr (Features == 2) {
        const Pack2 r = load_rows2(rows);
        return r.x + r.y;
    }
    if constexpr (Features == 4) {
        const Pack4 r = load_rows4(rows);
        return (r.x + r.y) + (r.z + r.w);
    }
    alignas(64) float halves[4 * kLanes];
    for (int lane = 0; lane < kLanes; ++lane)
        store_row<4>(halves + 4 * lane, load_row<4>(rows + 8 * lane) + load_row<4>(rows + 8 * lane + 4));
    return sums_of_rows<4>(halves);
}

// Adds to the gradient [samples, 3] of the chunk.
template <int Features, bool Dense>
void differentiate_level(const HashEncodingParams& p, const Level& level, int64_t first, int64_t last) {
    const float* rows = p.table + level.first_row * Features;
    const int64_t stride = static_cast<int64_t>(p.levels) * Features;
    const float* gradient = p.gradient + level.number * Features;
    alignas(64) float products[3][kLanes * Features] = {};
    for_packs<Features, Dense>(p, level, first, last,
                               [&](int64_t sample, int count, const Cells& cells, const Cells& next) {
        const float* from = gradient + sample * stride;
        for (int lane = 0; lane < count; ++lane, from += stride) {
            fetch_rows<0>(rows, next, lane);
            Row<Features> corners[kCorners];
            for (int corner = 0; corner < kCorners; ++corner)
                corners[corner] = load_row<Features>(rows + cells.places[corner][lane]);
            const AxisDerivatives<Row<Features>> by = trilinear_derivatives(
                corners, cells.fractions[0][lane], cells.fractions[1][lane], cells.fractions[2][lane]);
            const Row<Features> by_encoded = load_row<Features>(from);
            store_row<Features>(products[0] + lane * Features, by.x * by_encoded);
            store_row<Features>(products[1] + lane * Features, by.y * by_encoded);
            store_row<Features>(products[2] + lane * Features, by.z * by_encoded);
        }
        float spare[3 * kLanes];
        const Pack scale(level.resolution);
        float* to = p.position_gradient + 3 * sample;
        const Pack3 sum = load_rows3(whole_rows<3>(p.position_gradient, sample, count, spare));
        float* into = count == kLanes ? to : spare;
        store_rows3(into, fma_(scale, sums_of_rows<Features>(products[0]), sum.x),
                    fma_(scale, sums_of_rows<Features>(products[1]), sum.y),
                    fma_(scale, sums_of_rows<Features>(products[2]), sum.z));
        if (count < kLanes) std::memcpy(to, spare, sizeof(float) * static_cast<size_t>(3 * count));
    });
}

// Where a position was moved to the border it does not matter how far.
void clear_outside(const HashEncodingParams& p, int64_t first, int64_t last) {
    for (int64_t i = 3 * first; i < 3 * last; ++i)
        if (!(p.positions[i] >= 0.0f && p.positions[i] <= 1.0f)) p.position_gradient[i] = 0.0f;
}

// ---- threads -------------------------------------------------------------------------------------------------------

// Calls work(first, last) for chunks of the samples, as many for each thread.
template <class Work>
void for_chunks(int64_t samples, const Work& work) {
    const int64_t threads = samples < kWorthThreads ? 1 : omp_get_max_threads();
    const int64_t rounds = (samples + threads * kChunk - 1) / (threads * kChunk);
    const int64_t packs = (samples + kLanes - 1) / kLanes, chunks = threads * rounds;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = chunk * packs / chunks * kLanes, end = (chunk + 1) * packs / chunks * kLanes;
        const int64_t last = end < samples ? end : samples;
        if (first < last) work(first, last);
    }
}

// Calls work(level, bool constant that says whether the level is dense).
template <class Work>
RECON_FN void with_level(const HashEncodingParams& p, int number, const Work& work) {
    if (p.dense_levels >> number & 1u)
        work(level_of(p, number, true), std::true_type{});
    else
        work(level_of(p, number, false), std::false_type{});
}

template <int Features>
void encode(const HashEncodingParams& p) {
    for_chunks(p.samples, [&](int64_t first, int64_t last) {
        for (int number = 0; number < p.levels; ++number)
            with_level(p, number, [&](const Level& level, auto dense) {
                encode_level<Features, decltype(dense)::value>(p, level, first, last);
            });
    });
}

template <int Features>
void scatter(const HashEncodingParams& p) {
    const int threads = p.samples < kWorthThreads ? 1 : omp_get_max_threads();
    const int parts = (threads + p.levels - 1) / p.levels;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int task = p.levels * parts - 1; task >= 0; --task) {
        const int64_t part = task % parts;
        with_level(p, task / parts, [&](const Level& level, auto dense) {
            constexpr bool kDense = decltype(dense)::value;
            if (parts == 1)
                scatter_level<Features, kDense, true>(p, level, 0, level.rows);
            else
                scatter_level<Features, kDense, false>(p, level, part * level.rows / parts,
                                                       (part + 1) * level.rows / parts);
        });
    }
}

template <int Features>
void differentiate(const HashEncodingParams& p) {
    for_chunks(p.samples, [&](int64_t first, int64_t last) {
        std::memset(p.position_gradient + 3 * first, 0, sizeof(float) * static_cast<size_t>(3 * (last - first)));
        for (int number = 0; number < p.levels; ++number)
            with_level(p, number, [&](const Level& level, auto dense) {
                differentiate_level<Features, decltype(dense)::value>(p, level, first, last);
            });
        clear_outside(p, first, last);
    });
}

template <int Features>
void encode_backward(const HashEncodingParams& p) {
    if (p.table_gradient != nullptr) scatter<Features>(p);
    if (p.position_gradient != nullptr) differentiate<Features>(p);
}

void hash_encode(const HashEncodingParams& p) {
    if (p.samples == 0) return;
    switch (p.features) {
        case 1: return encode<1>(p);
        case 2: return encode<2>(p);
        case 4: return encode<4>(p);
        default: return encode<8>(p);
    }
}

void hash_encode_backward(const HashEncodingParams& p) {
    if (p.samples == 0) return;
    switch (p.features) {
        case 1: return encode_backward<1>(p);
        case 2: return encode_backward<2>(p);
        case 4: return encode_backward<4>(p);
        default: return encode_backward<8>(p);
    }
}

void set_level(HashEncodingParams& p, int number, int32_t resolution, int32_t first_row, int32_t last_row, bool dense) {
    p.resolutions[number] = resolution;
    p.first_rows[number] = first_row;
    p.first_rows[number + 1] = last_row;
    const uint32_t bit = 1u << number;
    p.dense_levels = dense ? p.dense_levels | bit : p.dense_levels & ~bit;
}

}  // namespace

void bind_hash_encoding(nb::module_& m) {
    auto c = nb::class_<HashEncodingParams>(m, "HashEncodingParams").def(nb::init<>());
    RECON_BIND_POINTER(c, HashEncodingParams, positions);
    RECON_BIND_POINTER(c, HashEncodingParams, table);
    RECON_BIND_POINTER(c, HashEncodingParams, encoded);
    RECON_BIND_POINTER(c, HashEncodingParams, gradient);
    RECON_BIND_POINTER(c, HashEncodingParams, table_gradient);
    RECON_BIND_POINTER(c, HashEncodingParams, position_gradient);
    RECON_BIND_VALUE(c, HashEncodingParams, samples);
    RECON_BIND_VALUE(c, HashEncodingParams, levels);
    RECON_BIND_VALUE(c, HashEncodingParams, features);
    RECON_BIND_VALUE(c, HashEncodingParams, entries);
    c.def("set_level", &set_level);
    m.def("hash_encode", &hash_encode, nb::call_guard<nb::gil_scoped_release>());
    m.def("hash_encode_backward", &hash_encode_backward, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
