// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of tile binning.  No pair is ever compared: the visible Gaussians are sorted by depth and then dealt
// out to the tiles in that order by a counting sort.
//
//   bin_count   Cuts the range of depths into chunks, about equally full, then takes blocks of Gaussians, in any order
//               of threads: finds their tiles (shapes.h), counts the pairs of each (chunk, tile), a table of counters
//               per thread, and groups the block's Gaussians by chunk.  At the end each (chunk, tile) has its place.
//   bin_fill    Numbers the pairs, Gaussian by Gaussian, so that a backward pass can sum per Gaussian.  Takes chunks, in
//               any order of threads: collects a chunk's Gaussians from the blocks, sorts them by depth and writes
//               their pairs where the chunk's share of each tile's list begins.
// Every place in the result follows from the input alone, so it does not depend on the number of threads or chunks.
#include <omp.h>

#include <atomic>

#include "recon/kernels/binning/order.h"
#include "recon/kernels/binning/params.h"
#include "recon/kernels/binning/shapes.h"
#include "recon/kernels/binning/work.h"
#include "recon/kernels/common/binding.h"

namespace recon {
namespace {

constexpr int64_t kMostCounters = 1 << 18;  // per thread: 1 MiB stays in the cache
constexpr int64_t kChunkSize = 1 << 15;     // Gaussians that sort within the cache
constexpr int64_t kSerialBelow = 2048;      // Gaussians

enum Outcome { kDone, kTooMany, kNoMemory };

int64_t tile_count(const BinParams& p) { return static_cast<int64_t>(tiles_along(p.width)) * tiles_along(p.height); }

// ---- one block -----------------------------------------------------------------------------------------------------

// The Gaussians of a block that touch tiles, before they are grouped by chunk.
struct Touching {
    uint64_t keys[kBlock];
    uint8_t chunks[kBlock];
    int size = 0;
};

RECON_FN IntPack chunks_of(Pack depth, const BinWork& work) {
    IntPack chunk{};
    for (int i = 0; i + 1 < work.chunks; ++i) chunk -= as_integers(depth >= Pack(work.splitters[i]));
    return chunk;
}

// Lists the tiles of one pack; `counts` are its Gaussians' numbers of pairs.
Outcome bin_pack(const BinParams& p, const BinWork& work, int64_t first, int count, PairList& list, int32_t* counts,
                 Touching& touching) {
    store(counts, IntPack{});
    const Inputs in = load_inputs(p, first, count);
    if (!any(in.present)) return kDone;
    const Shapes s = find_shapes(p, in);
    uint32_t todo = lane_bits(s.touches);
    if (todo == 0) return kDone;
    const int64_t tiles = tile_count(p);
    const IntPack chunk = chunks_of(in.depth, work), chunk_slots = chunk * static_cast<int32_t>(tiles);
    const IntPack high = (s.y1 - s.y0 + 1) & as_integers(s.touches), flat = high & (high <= kRows);
    int rows = 0;
    while (rows < kRows && any(to_float(flat) > Pack(static_cast<float>(rows)))) ++rows;
    Runs runs;
    store(counts, find_runs(p, s, flat, chunk_slots, rows, runs));
    int32_t keys[kLanes], chunks[kLanes], heights[kLanes];
    store(keys, depth_keys(in.depth));
    store(chunks, chunk);
    store(heights, high);
    if (!list.reserve(int64_t(kLanes) * kRows * tiles_along(p.width))) return kNoMemory;
    for (; todo != 0; todo &= todo - 1) {
        const int i = __builtin_ctz(todo);
        touching.chunks[touching.size] = static_cast<uint8_t>(chunks[i]);
        touching.keys[touching.size++] =
            static_cast<uint64_t>(static_cast<uint32_t>(keys[i])) << 32 | static_cast<uint64_t>(first + i);
        if (heights[i] > kRows) {
            const int64_t before = list.size, most = int64_t(heights[i]) * (s.x1[i] - s.x0[i] + 1);
            if (before + most > p.max_pairs + tiles_along(p.width)) return kTooMany;
            if (!list.reserve(most + int64_t(kLanes) * kRows * tiles_along(p.width))) return kNoMemory;
            append_tall(p, s, i, s.y0[i], s.y1[i], chunks[i] * static_cast<int32_t>(tiles), list);
            counts[i] = static_cast<int32_t>(list.size - before);
        } else {
            for (int r = 0; r < rows; ++r) append_run(list, runs.first[r][i], runs.count[r][i]);
        }
    }
    return list.size > p.max_pairs ? kTooMany : kDone;
}

void group_by_chunk(const Touching& touching, int chunks, Block& block) {
    int32_t places[kMaxChunks] = {};
    for (int i = 0; i < touching.size; ++i) ++places[touching.chunks[i]];
    int32_t sum = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        block.chunk_starts[chunk] = sum;
        sum += places[chunk];
        places[chunk] = block.chunk_starts[chunk];
    }
    block.chunk_starts[chunks] = sum;
    for (int i = 0; i < touching.size; ++i) block.keys[places[touching.chunks[i]]++] = touching.keys[i];
}

Outcome bin_block(const BinParams& p, const BinWork& work, int64_t begin, int64_t end, int32_t* counters,
                  Block& block) {
    Touching touching;
    block.list.size = 0;
    int32_t counts[kBlock];
    for (int64_t g = begin; g < end; g += kLanes) {
        const int count = end - g < kLanes ? static_cast<int>(end - g) : kLanes;
        const Outcome outcome = bin_pack(p, work, g, count, block.list, counts + (g - begin), touching);
        if (outcome != kDone) return outcome;
    }
    int32_t sum = 0;
    for (int64_t i = 0; i < end - begin; ++i) {
        block.starts[i] = sum;
        sum += counts[i];
    }
    block.starts[end - begin] = sum;
    for (int64_t i = 0; i < block.list.size; ++i) ++counters[block.list.slots[i]];
    group_by_chunk(touching, work.chunks, block);
    return kDone;
}

// ---- counting ------------------------------------------------------------------------------------------------------

// Decides on threads and chunks.
bool plan(const BinParams& p, BinWork& work) {
    const int64_t tiles = tile_count(p);
    work.threads = p.count < kSerialBelow ? 1 : omp_get_max_threads();
    // Several chunks a thread, since chunks differ in work.
    int64_t chunks = p.count / kChunkSize, evened = work.threads > 1 ? 4 * work.threads : 1;
    chunks = chunks > evened ? chunks : evened;
    const int64_t most = kMostCounters / tiles > work.threads ? kMostCounters / tiles : work.threads;
    chunks = chunks < most ? chunks : most;
    chunks = chunks < kMaxChunks ? chunks : kMaxChunks;
    // Slots are 32-bit numbers, and the counters of a gigantic picture should not fill the memory.
    if (chunks * work.threads * tiles > int64_t(1) << 26) chunks = 1;
    work.chunks = choose_splitters(p, static_cast<int>(chunks), work.splitters);
    const int64_t blocks = (p.count + kBlock - 1) / kBlock;
    return work.blocks.fit(blocks) && work.counters.fit(work.threads * work.chunks * tiles);
}

// Turns the threads' counts into places within each tile's list, and writes where the lists begin.
void place_chunks(const BinParams& p, BinWork& work) {
    const int64_t tiles = tile_count(p), table = tiles * work.chunks;
    int32_t* const counters = work.counters.data();
    constexpr int64_t kStretch = 1024;
    const int64_t stretches = (tiles + kStretch - 1) / kStretch;
#pragma omp parallel for schedule(static) num_threads(work.threads) if (table * work.threads > (1 << 17))
    for (int64_t stretch = 0; stretch < stretches; ++stretch) {
        const int64_t begin = stretch * kStretch, end = begin + kStretch < tiles ? begin + kStretch : tiles;
        int32_t* const sums = p.offsets;
        std::memset(sums + begin, 0, static_cast<size_t>(end - begin) * sizeof(int32_t));
        for (int64_t chunk = 0; chunk < work.chunks; ++chunk) {
            int32_t* const places = counters + chunk * tiles;
            for (int thread = 1; thread < work.threads; ++thread) {
                const int32_t* const more = places + thread * table;
                for (int64_t tile = begin; tile < end; ++tile) places[tile] += more[tile];
            }
            for (int64_t tile = begin; tile < end; ++tile) {
                const int32_t here = places[tile];
                places[tile] = sums[tile];
                sums[tile] += here;
            }
        }
    }
    int32_t sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int32_t here = p.offsets[tile];
        p.offsets[tile] = sum;
        sum += here;
    }
    p.offsets[tiles] = sum;
}

// Returns the number of pairs; -1 where they are more than max_pairs, -2 where memory ran out.
int64_t bin_count(const BinParams& p, BinWork& work) {
    if (!plan(p, work)) return -2;
    const int64_t blocks = (p.count + kBlock - 1) / kBlock, table = tile_count(p) * work.chunks;
    std::atomic<int64_t> pairs{0};
    std::atomic<int> worst{kDone};
#pragma omp parallel num_threads(work.threads)
    {
        for (int64_t t = omp_get_thread_num(); t < work.threads; t += omp_get_num_threads())
            std::memset(work.counters.data() + t * table, 0, static_cast<size_t>(table) * sizeof(int32_t));
        int32_t* const counters = work.counters.data() + omp_get_thread_num() * table;
#pragma omp for schedule(dynamic, 4)
        for (int64_t b = 0; b < blocks; ++b) {
            if (worst.load(std::memory_order_relaxed) != kDone) continue;
            const int64_t begin = b * kBlock, end = begin + kBlock < p.count ? begin + kBlock : p.count;
            Block& block = work.blocks[b];
            const Outcome outcome = bin_block(p, work, begin, end, counters, block);
            if (outcome != kDone) worst.store(outcome);
            if ((pairs += block.list.size) > p.max_pairs) worst.store(kTooMany);
        }
    }
    if (worst.load() != kDone) return worst.load() == kTooMany ? -1 : -2;
    int64_t total = 0, in_chunk[kMaxChunks] = {};
    for (int64_t b = 0; b < blocks; ++b) {
        Block& block = work.blocks[b];
        block.first_pair = total;
        total += block.list.size;
        for (int chunk = 0; chunk < work.chunks; ++chunk)
            in_chunk[chunk] += block.chunk_starts[chunk + 1] - block.chunk_starts[chunk];
    }
    work.largest_chunk = *std::max_element(in_chunk, in_chunk + work.chunks);
    place_chunks(p, work);
    p.pair_starts[p.count] = static_cast<int32_t>(total);
    const bool fits = work.sorting.fit(2 * work.largest_chunk * work.threads);
    return fits ? total : -2;
}

// ---- filling -------------------------------------------------------------------------------------------------------

void number_pairs(const BinParams& p, int64_t begin, int64_t end, const Block& block) {
    const int32_t first = static_cast<int32_t>(block.first_pair);
    for (int64_t i = 0; i < end - begin; ++i) {
        p.pair_starts[begin + i] = first + block.starts[i];
        p.touched[begin + i] = block.starts[i + 1] > block.starts[i];
    }
}

int64_t collect(const BinWork& work, int64_t blocks, int chunk, uint64_t* keys) {
    int64_t size = 0;
    for (int64_t b = 0; b < blocks; ++b) {
        const Block& block = work.blocks[b];
        const int32_t first = block.chunk_starts[chunk], count = block.chunk_starts[chunk + 1] - first;
        std::memcpy(keys + size, block.keys + first, static_cast<size_t>(count) * sizeof(uint64_t));
        size += count;
    }
    return size;
}

void deal_out(const BinParams& p, const BinWork& work, const uint64_t* sorted, int64_t count) {
    constexpr int64_t kFar = 24, kNear = 12;  // Gaussians that memory is asked for ahead of
    int32_t* const places = work.counters.data();
    for (int64_t i = 0; i < count; ++i) {
        if (i + kFar < count) {
            const uint32_t g = static_cast<uint32_t>(sorted[i + kFar]);
            __builtin_prefetch(work.blocks[g / kBlock].starts + g % kBlock);
        }
        if (i + kNear < count) {
            const uint32_t g = static_cast<uint32_t>(sorted[i + kNear]);
            const Block& block = work.blocks[g / kBlock];
            __builtin_prefetch(block.list.slots + block.starts[g % kBlock]);
        }
        const uint32_t g = static_cast<uint32_t>(sorted[i]);
        const Block& block = work.blocks[g / kBlock];
        const int32_t first = block.starts[g % kBlock], last = block.starts[g % kBlock + 1];
        const uint64_t pair = static_cast<uint64_t>(block.first_pair);
        for (int32_t k = first; k < last; ++k) {
            const uint64_t entry = g | (pair + static_cast<uint64_t>(k)) << 32;
            std::memcpy(p.entries + 2 * int64_t(places[block.list.slots[k]]++), &entry, sizeof entry);
        }
    }
}

void bin_fill(const BinParams& p, BinWork& work) {
    const int64_t tiles = tile_count(p), blocks = (p.count + kBlock - 1) / kBlock;
#pragma omp parallel num_threads(work.threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t begin = b * kBlock, end = begin + kBlock < p.count ? begin + kBlock : p.count;
            number_pairs(p, begin, end, work.blocks[b]);
        }
        uint64_t* const keys = work.sorting.data() + 2 * work.largest_chunk * omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
        for (int chunk = 0; chunk < work.chunks; ++chunk) {
            int32_t* const places = work.counters.data() + chunk * tiles;
            for (int64_t tile = 0; tile < tiles; ++tile) places[tile] += p.offsets[tile];
            const int64_t count = collect(work, blocks, chunk, keys);
            const uint64_t* const sorted = radix_sort(keys, keys + work.largest_chunk, count);
            deal_out(p, work, sorted, count);
        }
    }
}

}  // namespace

void bind_binning(nb::module_& m) {
    auto c = nb::class_<BinParams>(m, "BinParams").def(nb::init<>());
    RECON_BIND_POINTER(c, BinParams, means_px);
    RECON_BIND_POINTER(c, BinParams, conics);
    RECON_BIND_POINTER(c, BinParams, opacities);
    RECON_BIND_POINTER(c, BinParams, depths);
    RECON_BIND_POINTER(c, BinParams, visible);
    RECON_BIND_POINTER(c, BinParams, pair_starts);
    RECON_BIND_POINTER(c, BinParams, touched);
    RECON_BIND_POINTER(c, BinParams, offsets);
    RECON_BIND_POINTER(c, BinParams, entries);
    RECON_BIND_VALUE(c, BinParams, count);
    RECON_BIND_VALUE(c, BinParams, max_pairs);
    RECON_BIND_VALUE(c, BinParams, width);
    RECON_BIND_VALUE(c, BinParams, height);
    RECON_BIND_VALUE(c, BinParams, alpha_cutoff);
    nb::class_<BinWork>(m, "BinWork").def(nb::init<>());
    m.def("bin_count", &bin_count, nb::call_guard<nb::gil_scoped_release>());
    m.def("bin_fill", &bin_fill, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
