// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of occupancy grids.
//
// Updating: a thread owns a range of cells, and looks through those blocks of the list that have cells in it; lists
// that ascend, as occupancy_cells makes them, are looked through once.  Then a thread owns whole blocks of cells: for
// the mean, whose sums are added in the order of the blocks, and for the bits.
//
// Choosing: a thread owns blocks of cells, and makes the choices that fall into them.
#include <cmath>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/occupancy/math.h"
#include "recon/kernels/occupancy/params.h"

namespace recon {
namespace {

constexpr int64_t kBlock = 4096;  // cells
constexpr int64_t kEntries = 1024;  // of a list
constexpr int64_t kMostSide = 128;  // blocks along a side of level 1

int64_t cells_of(int32_t resolution) { return static_cast<int64_t>(resolution) * resolution * resolution; }
int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// ---- bits ----------------------------------------------------------------------------------------------------------

// The 32 cells from `first` on; `last` is behind the last that there is.
template <class Test>
RECON_FN uint32_t word_of(const float* densities, int64_t first, int64_t last, Test test) {
    uint32_t word = 0;
    for (int i = 0; i < 32 && first + i < last; i += kLanes) {
        // Whole packs: the number of cells is a multiple of 512.
        word |= bits(test(load(densities + first + i))) << i;
    }
    return word;
}

// Each block of two cells a side: whether any of them is on; from bits, or from the blocks of the level below.
void join_bits(const uint8_t* rows, int32_t side, uint8_t* flags) {
    const int64_t half = side / 2, bytes = side / 8;
#pragma omp parallel for schedule(static)
    for (int64_t z = 0; z < half; ++z) {
        for (int64_t y = 0; y < half; ++y) {
            const uint8_t* a = rows + (2 * z * side + 2 * y) * bytes;
            const uint8_t* b = a + side * bytes;
            uint8_t* to = flags + (z * half + y) * half;
            for (int64_t i = 0; i < bytes; ++i) {
                const unsigned any = a[i] | a[i + bytes] | b[i] | b[i + bytes];
                for (int64_t k = 0; k < 4; ++k) to[4 * i + k] = (any >> (2 * k) & 3u) != 0;
            }
        }
    }
}
void join_flags(const uint8_t* from, int64_t side, uint8_t* to) {
    const int64_t half = side / 2;
    for (int64_t z = 0; z < half; ++z) {
        for (int64_t y = 0; y < half; ++y) {
            const uint8_t* a = from + (2 * z * side + 2 * y) * side;
            const uint8_t* b = a + side * side;
            for (int64_t x = 0; x < half; ++x) {
                const int64_t i = 2 * x, k = 2 * x + 1;
                *to++ = a[i] | a[k] | a[i + side] | a[k + side] | b[i] | b[k] | b[i + side] | b[k + side];
            }
        }
    }
}

// The blocks of a plane and the eight around each in it.
void spread_plane(const uint8_t* plane, int64_t side, uint8_t* to) {
    uint8_t row[kMostSide + 2] = {};
    for (int64_t y = 0; y < side; ++y) {
        const uint8_t* middle = plane + y * side;
        const uint8_t* above = y > 0 ? middle - side : middle;
        const uint8_t* below = y + 1 < side ? middle + side : middle;
        for (int64_t x = 0; x < side; ++x) row[x + 1] = above[x] | middle[x] | below[x];
        row[side + 1] = 0;
        for (int64_t x = 0; x < side; ++x) to[y * side + x] = row[x] | row[x + 1] | row[x + 2];
    }
}

// Flags as bits; whole words are written.
uint32_t packed_word(const uint8_t* flags, int64_t count) {
    uint32_t word = 0;
    for (int64_t i = 0; i < count; i += 8) {
        uint64_t eight = 0;
        std::memcpy(&eight, flags + i, static_cast<size_t>(count - i < 8 ? count - i : 8));
        // Gathers the lowest bits of eight bytes in the highest byte.
        word |= static_cast<uint32_t>((eight * 0x0102040810204080u) >> 56) << i;
    }
    return word;
}

// The blocks of a level and those around each, as bits; the other two are scratch of as many flags.
void spread_flags(const uint8_t* flags, int64_t side, uint8_t* in_plane, uint8_t* spread, uint32_t* words) {
    const int64_t plane = side * side, count = plane * side;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t z = 0; z < side; ++z) spread_plane(flags + z * plane, side, in_plane + z * plane);
#pragma omp for schedule(static)
        for (int64_t z = 0; z < side; ++z) {
            const uint8_t* middle = in_plane + z * plane;
            const uint8_t* before = z > 0 ? middle - plane : middle;
            const uint8_t* behind = z + 1 < side ? middle + plane : middle;
            uint8_t* to = spread + z * plane;
            for (int64_t i = 0; i < plane; ++i) to[i] = before[i] | middle[i] | behind[i];
        }
#pragma omp for schedule(static)
        for (int64_t word = 0; word < blocks_of(count, 32); ++word)
            words[word] = packed_word(spread + 32 * word, count - 32 * word < 32 ? count - 32 * word : 32);
    }
}

// Makes the higher levels of level 0; `flags` is scratch for three times as many as level 1 has blocks.
void make_levels(uint32_t* words, int32_t resolution, uint8_t* flags) {
    const int64_t half = resolution / 2, count = half * half * half;
    uint8_t *here = flags, *there = flags + count, *const in_plane = there + count;
    join_bits(reinterpret_cast<const uint8_t*>(words), resolution, here);
    for (int level = 1; level < kLevels; ++level) {
        if (level > 1) {
            join_flags(here, resolution >> (level - 1), there);
            uint8_t* const made = there;
            there = here, here = made;
        }
        spread_flags(here, resolution >> level, in_plane, there, words + level_begin(resolution, level));
    }
}

// ---- updating ------------------------------------------------------------------------------------------------------

struct Range {
    int32_t least, greatest;
};

Range range_of(const int32_t* cells, int64_t first, int64_t last) {
    Range range{INT32_MAX, INT32_MIN};
    for (int64_t i = first; i < last; ++i) {
        range.least = cells[i] < range.least ? cells[i] : range.least;
        range.greatest = cells[i] > range.greatest ? cells[i] : range.greatest;
    }
    return range;
}

// Merges what was found into the cells from `first` to before `last`, a multiple of 32 each.
void merge(const OccupancyUpdateParams& p, int64_t first, int64_t last) {
    for (int64_t block = 0; block < p.count; block += kEntries) {
        const int64_t end = block + kEntries < p.count ? block + kEntries : p.count;
        const Range range = range_of(p.cells, block, end);
        if (range.greatest < first || range.least >= last) continue;
        for (int64_t i = block; i < end; ++i) {
            const int64_t cell = p.cells[i];
            const float found = p.found[i];
            if (cell < first || cell >= last || !(found >= 0.0f)) continue;
            float density = p.densities[cell];
            if (!(density >= 0.0f)) continue;
            uint32_t& word = p.touched[cell / 32];
            const uint32_t bit = 1u << (cell % 32);
            if ((word & bit) == 0) density = faded(density, p.decay);
            word |= bit;
            const float value = found < kOpaque ? found : kOpaque;
            p.densities[cell] = density > value ? density : value;
        }
    }
}

// The sum and the number of the densities that are known, of a block of cells.
void sum_block(const OccupancyUpdateParams& p, int64_t block, int64_t cells) {
    const int64_t end = (block + 1) * kBlock < cells ? (block + 1) * kBlock : cells;
    const Pack zero(0.0f), known(1e30f);
    Pack total = zero;
    int64_t count = 0;
    for (int64_t i = block * kBlock; i < end; i += kLanes) {
        const Pack density = load(p.densities + i);
        const Mask use = (density >= zero) & (density < known);
        total = total + select(use, density, zero);
        count += __builtin_popcount(bits(use));
    }
    p.sums[block] = static_cast<double>(sum(total));
    p.counts[block] = count;
}

// False, and nothing is changed, where a cell is none.
bool occupancy_update(const OccupancyUpdateParams& p) {
    const int64_t cells = cells_of(p.resolution), blocks = blocks_of(cells, kBlock);
    bool right = true;
#pragma omp parallel for schedule(static) reduction(&& : right)
    for (int64_t block = 0; block < blocks_of(p.count, kEntries); ++block) {
        const int64_t end = (block + 1) * kEntries < p.count ? (block + 1) * kEntries : p.count;
        const Range range = range_of(p.cells, block * kEntries, end);
        right = right && range.least >= 0 && range.greatest < cells;
    }
    if (!right) return false;
    const int64_t share = blocks_of(blocks_of(cells, 32), p.threads) * 32;
#pragma omp parallel for schedule(static, 1) num_threads(p.threads)
    for (int64_t part = 0; part < p.threads; ++part) {
        const int64_t end = (part + 1) * share < cells ? (part + 1) * share : cells;
        if (part * share < end) merge(p, part * share, end);
    }
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) sum_block(p, block, cells);
    double total = 0;
    int64_t known = 0;
    for (int64_t block = 0; block < blocks; ++block) total += p.sums[block], known += p.counts[block];
    const float mean = known > 0 ? static_cast<float>(total / static_cast<double>(known)) : p.threshold;
    const Pack threshold(mean < p.threshold ? mean : p.threshold);
#pragma omp parallel for schedule(static)
    for (int64_t word = 0; word < cells / 32; ++word)
        p.bits[word] = word_of(p.densities, 32 * word, cells, [&](Pack density) { return density > threshold; });
    make_levels(p.bits, p.resolution, p.flags);
    return true;
}

// ---- choosing ------------------------------------------------------------------------------------------------------

RECON_FN uint32_t choices(const OccupancyCellsParams& p, bool occupied, int64_t word) {
    if (occupied) return p.bits[word];
    return word_of(p.densities, 32 * word, 32 * word + 32, [](Pack density) { return density >= Pack(0.0f); });
}

void occupancy_count(const OccupancyCellsParams& p) {
    const int64_t words = cells_of(p.resolution) / 32, blocks = blocks_of(words, kBlock / 32);
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        int64_t possible = 0, occupied = 0;
        for (int64_t word = block * (kBlock / 32); word < words && word < (block + 1) * (kBlock / 32); ++word) {
            possible += __builtin_popcount(choices(p, false, word));
            occupied += __builtin_popcount(choices(p, true, word));
        }
        p.possible[block + 1] = possible;
        p.occupied[block + 1] = occupied;
    }
    p.possible[0] = p.occupied[0] = 0;
    for (int64_t block = 0; block < blocks; ++block) {
        p.possible[block + 1] += p.possible[block];
        p.occupied[block + 1] += p.occupied[block];
    }
}

// Makes those of `count` choices that fall into a block, and puts them behind `first`.
void choose(const OccupancyCellsParams& p, bool occupied, int64_t block, int64_t count, int64_t first) {
    const int64_t* before = occupied ? p.occupied : p.possible;
    const int64_t words = cells_of(p.resolution) / 32, total = before[blocks_of(words, kBlock / 32)];
    const int64_t here = before[block], end = before[block + 1];
    if (here == end || count == 0) return;
    int32_t cells[kBlock];
    int64_t listed = 0;
    for (int64_t word = block * (kBlock / 32); word < words && word < (block + 1) * (kBlock / 32); ++word)
        for (uint32_t on = choices(p, occupied, word); on != 0; on &= on - 1)
            cells[listed++] = static_cast<int32_t>(32 * word + __builtin_ctz(on));
    // From the first part whose cell may be here.
    int64_t first_part = here * count / total;
    while (first_part > 0 && rank_in(part_of(first_part - 1, count, total), p.key, first) >= here) --first_part;
    for (Part part = part_of(first_part, count, total); part.number < count; next_part(part)) {
        const int64_t rank = rank_in(part, p.key, first);
        if (rank >= end) break;
        if (rank >= here) p.cells[first + part.number] = cells[rank - here];
    }
}

// Random positions in the cells from entry `begin` to before `end`, at most kEntries; loops that compilers vectorise.
void place(const OccupancyCellsParams& p, int64_t begin, int64_t end) {
    const double side = p.resolution, per_row = 1.0 / side, per_layer = 1.0 / (side * side);
    const float size = static_cast<float>(p.resolution);
    const int count = static_cast<int>(end - begin);
    const int32_t* cells = p.cells + begin;
    float corner[3][kEntries];
    for (int i = 0; i < count; ++i) {
        const auto z = static_cast<int32_t>((cells[i] + 0.5) * per_layer);
        const auto row = static_cast<int32_t>((cells[i] + 0.5) * per_row);
        corner[0][i] = static_cast<float>(cells[i] - row * p.resolution);
        corner[1][i] = static_cast<float>(row - z * p.resolution);
        corner[2][i] = static_cast<float>(z);
    }
    for (uint32_t axis = 0; axis < 3; ++axis) {
        const uint32_t first = 4 * static_cast<uint32_t>(begin) + axis + 1;
        for (int i = 0; i < count; ++i) {
            const uint32_t word = random_word(p.key, first + 4 * static_cast<uint32_t>(i));
            const float within = static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
            corner[axis][i] = (corner[axis][i] + within) / size;
        }
    }
    float* to = p.positions + 3 * begin;
    for (int i = 0; i < count; ++i)
        to[3 * i] = corner[0][i], to[3 * i + 1] = corner[1][i], to[3 * i + 2] = corner[2][i];
}

void occupancy_choose(const OccupancyCellsParams& p) {
    const int64_t blocks = blocks_of(cells_of(p.resolution), kBlock), count = p.from_possible + p.from_occupied;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            choose(p, false, block, p.from_possible, 0);
            choose(p, true, block, p.from_occupied, p.from_possible);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < blocks_of(count, kEntries); ++i)
            place(p, i * kEntries, (i + 1) * kEntries < count ? (i + 1) * kEntries : count);
    }
}

// ---- what no camera sees -------------------------------------------------------------------------------------------

template <bool kContracted>
RECON_FN Mask never_occupied(const UnseenParams& p, Pack x, Pack y, Pack z) {
    Sphere<Pack> sphere = sphere_of<kContracted>(x, y, z, static_cast<float>(p.resolution), p.half_size);
    sphere.x = sphere.x + Pack(p.center_x), sphere.y = sphere.y + Pack(p.center_y);
    sphere.z = sphere.z + Pack(p.center_z);
    Pack views(0.0f);
    Mask in_the_way = Pack(1.0f) < Pack(0.0f);
    for (int32_t camera = 0; camera < p.camera_count; ++camera) {
        const Sight<Pack> sight = sight_of(p.cameras + 24 * camera, sphere);
        views = views + select(sight.seen, Pack(1.0f), Pack(0.0f));
        in_the_way = in_the_way | sight.in_the_way;
    }
    return in_the_way | (views < Pack(static_cast<float>(p.min_views)));
}

void occupancy_mark(const UnseenParams& p) {
    const int64_t side = p.resolution, cells = cells_of(p.resolution);
#pragma omp parallel for schedule(static)
    for (int64_t word = 0; word < cells / 32; ++word) {
        uint32_t never = 0;
        for (int i = 0; i < 32; i += kLanes) {
            float at[3][kLanes];
            for (int lane = 0; lane < kLanes; ++lane) {
                const int64_t cell = 32 * word + i + lane;
                at[0][lane] = static_cast<float>(cell % side);
                at[1][lane] = static_cast<float>(cell / side % side);
                at[2][lane] = static_cast<float>(cell / (side * side));
            }
            const Pack x = load(at[0]), y = load(at[1]), z = load(at[2]);
            const Mask mask = p.contracted ? never_occupied<true>(p, x, y, z) : never_occupied<false>(p, x, y, z);
            float* densities = p.densities + 32 * word + i;
            store(densities, select(mask, Pack(kNeverOccupied), load(densities)));
            never |= bits(mask) << i;
        }
        p.bits[word] &= ~never;
    }
    make_levels(p.bits, p.resolution, p.flags);
}

}  // namespace

void bind_occupancy(nb::module_& m) {
    auto u = nb::class_<OccupancyUpdateParams>(m, "OccupancyUpdateParams").def(nb::init<>());
    RECON_BIND_POINTER(u, OccupancyUpdateParams, densities);
    RECON_BIND_POINTER(u, OccupancyUpdateParams, bits);
    RECON_BIND_POINTER(u, OccupancyUpdateParams, cells);
    RECON_BIND_POINTER(u, OccupancyUpdateParams, found);
    RECON_BIND_VALUE(u, OccupancyUpdateParams, count);
    RECON_BIND_VALUE(u, OccupancyUpdateParams, resolution);
    RECON_BIND_VALUE(u, OccupancyUpdateParams, threads);
    RECON_BIND_VALUE(u, OccupancyUpdateParams, threshold);
    RECON_BIND_VALUE(u, OccupancyUpdateParams, decay);
    RECON_BIND_POINTER(u, OccupancyUpdateParams, touched);
    RECON_BIND_POINTER(u, OccupancyUpdateParams, sums);
    RECON_BIND_POINTER(u, OccupancyUpdateParams, counts);
    RECON_BIND_POINTER(u, OccupancyUpdateParams, flags);
    auto c = nb::class_<OccupancyCellsParams>(m, "OccupancyCellsParams").def(nb::init<>());
    RECON_BIND_POINTER(c, OccupancyCellsParams, densities);
    RECON_BIND_POINTER(c, OccupancyCellsParams, bits);
    RECON_BIND_VALUE(c, OccupancyCellsParams, resolution);
    RECON_BIND_POINTER(c, OccupancyCellsParams, possible);
    RECON_BIND_POINTER(c, OccupancyCellsParams, occupied);
    RECON_BIND_VALUE(c, OccupancyCellsParams, from_possible);
    RECON_BIND_VALUE(c, OccupancyCellsParams, from_occupied);
    RECON_BIND_VALUE(c, OccupancyCellsParams, key);
    RECON_BIND_POINTER(c, OccupancyCellsParams, cells);
    RECON_BIND_POINTER(c, OccupancyCellsParams, positions);
    auto s = nb::class_<UnseenParams>(m, "UnseenParams").def(nb::init<>());
    RECON_BIND_POINTER(s, UnseenParams, densities);
    RECON_BIND_POINTER(s, UnseenParams, bits);
    RECON_BIND_POINTER(s, UnseenParams, flags);
    RECON_BIND_POINTER(s, UnseenParams, cameras);
    RECON_BIND_VALUE(s, UnseenParams, camera_count);
    RECON_BIND_VALUE(s, UnseenParams, min_views);
    RECON_BIND_VALUE(s, UnseenParams, resolution);
    RECON_BIND_VALUE(s, UnseenParams, contracted);
    RECON_BIND_VALUE(s, UnseenParams, center_x);
    RECON_BIND_VALUE(s, UnseenParams, center_y);
    RECON_BIND_VALUE(s, UnseenParams, center_z);
    RECON_BIND_VALUE(s, UnseenParams, half_size);
    m.def("occupancy_update", &occupancy_update, nb::call_guard<nb::gil_scoped_release>());
    m.def("occupancy_count", &occupancy_count, nb::call_guard<nb::gil_scoped_release>());
    m.def("occupancy_choose", &occupancy_choose, nb::call_guard<nb::gil_scoped_release>());
    m.def("occupancy_mark", &occupancy_mark, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
