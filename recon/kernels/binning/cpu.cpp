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

constexpr int64_t kMostCounters = 1 << 19;  // per thread: 2 MiB stay near
constexpr int64_t kChunkSize = 1 << 15;     // Gaussians that sort within the cache
constexpr int64_t kSerialBelow = 2048;      // Gaussians

enum Outcome { kDone, kTooMany, kNoMemory };

int64_t tile_count(const BinParams& p) { return static_cast<int64_t>(tiles_along(p.width)) * tiles_along(p.height); }

// ---- one block -----------------------------------------------------------------------------------------------------

// The Gaussians of a block that touch tiles, before they are grouped by chunk.
struct Touching {
    Record records[kBlock];
    uint8_t chunks[kBlock];
    int size = 0;
    int32_t from_chunk[kMaxChunks] = {};  // Gaussians that lie in this chunk or a later one
};

RECON_FN IntPack chunks_of(Pack depth, const BinWork& work, uint32_t touching, int32_t* from_chunk) {
    IntPack chunk{};
    for (int i = 0; i + 1 < work.chunks; ++i) {
        const Mask beyond = depth >= Pack(work.splitters[i]);
        chunk -= as_integers(beyond);
        from_chunk[i + 1] += __builtin_popcount(lane_bits(beyond) & touching);
    }
    return chunk;
}

// Writes the records of one pack but for the place in the list.
RECON_FN void make_records(Pack depth, const Runs& runs, int place, Record* records) {
    const IntPack listed = runs.cover == 0;
    const auto bits = [](IntPack a) { return Pack((FloatLanes)a); };
    store_rows4(reinterpret_cast<float*>(records), bits(depth_keys(depth)), Pack(0.0f),
                bits(listed ? runs.total : runs.corner), bits(runs.cover | (lane_numbers() + place) << 16));
}

// What is known of a pack of Gaussians while its pairs are listed.
struct PackShapes {
    Shapes shapes;
    Runs runs;
    int rows;
    alignas(64) Record records[kLanes];
    int32_t chunks[kLanes], heights[kLanes];
};

// Lists the tiles of a Gaussian that lanes do not find together.
__attribute__((noinline)) Outcome list_tall(const BinParams& p, PackShapes& s, int i, int64_t room, PairList& list) {
    const int32_t tiles_x = tiles_along(p.width), wide = s.shapes.x1[i] - s.shapes.x0[i] + 1;
    const int64_t before = list.size, high = s.heights[i];
    if (before + high * wide > p.max_pairs + tiles_x) return kTooMany;
    // Rounding may let a row reach a tile beyond the bounding ones.
    if (!list.reserve(high * (wide + 2) + room)) return kNoMemory;
    const int32_t first = s.chunks[i] * static_cast<int32_t>(tile_count(p));
    list.size =
        append_tall(p, s.shapes, i, s.shapes.y0[i], s.shapes.y1[i], first, list.slots + before) - list.slots;
    s.records[i].corner = static_cast<int32_t>(list.size - before);
    return kDone;
}

// Lists the pairs of the Gaussians of a pack in `todo`, a bit each; `counts` are their numbers of pairs.
RECON_FN Outcome list_pack(const BinParams& p, PackShapes& s, uint32_t todo, PairList& list, int32_t* counts,
                  Touching& touching) {
    const int64_t room = int64_t(kLanes) * kRows * tiles_along(p.width);
    if (!list.reserve(room)) return kNoMemory;
#if RECON_AVX512
    const IntPack offsets = cover_offsets(tiles_along(p.width));
#endif
    int32_t* end = list.slots + list.size;
    for (; todo != 0; todo &= todo - 1) {
        const int i = __builtin_ctz(todo);
        Record& record = s.records[i];
        record.start = static_cast<int32_t>(end - list.slots);
        if (s.heights[i] > kRows) {
            list.size = record.start;
            const Outcome outcome = list_tall(p, s, i, room, list);
            if (outcome != kDone) return outcome;
            end = list.slots + list.size;
            counts[i] = record.corner;
#if RECON_AVX512
        } else if (record.cover != 0) {
            store(end, covered_slots(record.cover, record.corner, offsets));
            end += __builtin_popcount(record.cover);
#endif
        } else {
            for (int r = 0; r < s.rows; ++r) end = append_run(end, s.runs.first[r][i], s.runs.count[r][i]);
        }
        touching.chunks[touching.size] = static_cast<uint8_t>(s.chunks[i]);
        touching.records[touching.size++] = record;
    }
    list.size = end - list.slots;
    return list.size > p.max_pairs ? kTooMany : kDone;
}

// Finds and lists the tiles of the `count` Gaussians from place `place` of the block on.
Outcome bin_pack(const BinParams& p, const BinWork& work, int64_t begin, int place, int count, PairList& list,
                 int32_t* counts, Touching& touching) {
    store(counts, IntPack{});
    const Inputs in = load_inputs(p, begin + place, count);
    if (!any(in.present)) return kDone;
    PackShapes s;
    s.shapes = find_shapes(p, in);
    const uint32_t todo = lane_bits(s.shapes.touches);
    if (todo == 0) return kDone;
    const IntPack chunk = chunks_of(in.depth, work, todo, touching.from_chunk);
    const IntPack high = (s.shapes.y1 - s.shapes.y0 + 1) & as_integers(s.shapes.touches);
    const IntPack flat = high & (high <= kRows);
    s.rows = 0;
    while (s.rows < kRows && any(to_float(flat) > Pack(static_cast<float>(s.rows)))) ++s.rows;
    find_runs(p, s.shapes, flat, chunk * static_cast<int32_t>(tile_count(p)), s.rows, s.runs);
    store(counts, s.runs.total);
    make_records(in.depth, s.runs, place, s.records);
    store(s.chunks, chunk);
    store(s.heights, high);
    return list_pack(p, s, todo, list, counts, touching);
}

void group_by_chunk(const Touching& touching, int chunks, Block& block) {
    int32_t places[kMaxChunks];
    block.chunk_starts[0] = places[0] = 0;
    for (int chunk = 1; chunk < chunks; ++chunk)
        block.chunk_starts[chunk] = places[chunk] = touching.size - touching.from_chunk[chunk];
    block.chunk_starts[chunks] = touching.size;
    if (chunks == 1)
        std::memcpy(block.records, touching.records, static_cast<size_t>(touching.size) * sizeof(Record));
    else
        for (int i = 0; i < touching.size; ++i) block.records[places[touching.chunks[i]]++] = touching.records[i];
}

Outcome bin_block(const BinParams& p, const BinWork& work, int64_t begin, int64_t end, int32_t* counters,
                  PairList& list, Block& block) {
    Touching touching;
    list.size = 0;
    int32_t counts[kBlock];
    for (int64_t g = begin; g < end; g += kLanes) {
        const int count = end - g < kLanes ? static_cast<int>(end - g) : kLanes, place = static_cast<int>(g - begin);
        // Where the records will go, in no order that the processor could foresee.
        for (int i = 0; i < kLanes; i += 4) __builtin_prefetch(block.records + place + i, 1);
        const Outcome outcome = bin_pack(p, work, begin, place, count, list, counts + place, touching);
        if (outcome != kDone) return outcome;
    }
    int32_t sum = 0;
    for (int64_t i = 0; i < end - begin; ++i) {
        p.pair_starts[begin + i] = sum;
        p.touched[begin + i] = counts[i] > 0;
        sum += counts[i];
    }
    for (int64_t i = 0; i < list.size; ++i) ++counters[list.slots[i]];
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
    return work.blocks.fit(blocks) && work.lists.fit(blocks) &&
           work.counters.fit(work.threads * work.chunks * tiles);
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
            PairList& list = work.lists[b];
            const Outcome outcome = bin_block(p, work, begin, end, counters, list, work.blocks[b]);
            if (outcome != kDone) worst.store(outcome);
            if ((pairs += list.size) > p.max_pairs) worst.store(kTooMany);
        }
    }
    if (worst.load() != kDone) return worst.load() == kTooMany ? -1 : -2;
    int64_t total = 0, in_chunk[kMaxChunks] = {};
    for (int64_t b = 0; b < blocks; ++b) {
        Block& block = work.blocks[b];
        block.first_pair = total;
        total += work.lists[b].size;
        for (int chunk = 0; chunk < work.chunks; ++chunk)
            in_chunk[chunk] += block.chunk_starts[chunk + 1] - block.chunk_starts[chunk];
    }
    work.largest_chunk = *std::max_element(in_chunk, in_chunk + work.chunks);
    place_chunks(p, work);
    p.pair_starts[p.count] = static_cast<int32_t>(total);
    work.pairs = total;
    const bool fits = work.sorting.fit(2 * work.largest_chunk * work.threads) &&
                      work.touches.fit(work.largest_chunk * work.threads);
    return fits ? total : -2;
}

// ---- filling -------------------------------------------------------------------------------------------------------

// Brings a chunk's Gaussians together, in order of number, with keys to sort them by.  Returns how many they are.
int64_t collect(const BinWork& work, int64_t blocks, int chunk, uint64_t* keys, Touch* touches) {
    uint64_t size = 0;
    for (int64_t b = 0; b < blocks; ++b) {
        // The runs are too short for the processor to foresee the next one.
        if (b + 8 < blocks) __builtin_prefetch(work.blocks[b + 8].chunk_starts + chunk);
        if (b + 4 < blocks) {
            const Block& soon = work.blocks[b + 4];
            const char* const end = reinterpret_cast<const char*>(soon.records + soon.chunk_starts[chunk + 1]);
            const char* line = reinterpret_cast<const char*>(soon.records + soon.chunk_starts[chunk]);
            for (; line < end; line += 64) __builtin_prefetch(line);
        }
        const Block& block = work.blocks[b];
        const uint32_t first_pair = static_cast<uint32_t>(block.first_pair), first = static_cast<uint32_t>(b * kBlock);
        for (int32_t i = block.chunk_starts[chunk]; i < block.chunk_starts[chunk + 1]; ++i, ++size) {
            const Record& r = block.records[i];
            keys[size] = static_cast<uint64_t>(r.depth_key) << 32 | size;
            touches[size] = {first + r.place, first_pair + static_cast<uint32_t>(r.start), r.corner, r.cover};
        }
    }
    return static_cast<int64_t>(size);
}

// Pairs in order, on their way to their places.  They are gathered before they are written, so that the processor need
// not guess how many each Gaussian has while it waits for memory.
class Batch {
  public:
    Batch(const BinParams& p, int32_t* places) : entries_out_(p.entries), places_(places) {
        const int tiles_x = tiles_along(p.width);
#if RECON_AVX512
        offsets_ = cover_offsets(tiles_x);
#else
        for (int bit = 0; bit < kCoverBits; ++bit) offsets_[bit] = cover_offset(bit, tiles_x);
#endif
    }

    void add_cover(const Touch& t) {
        uint64_t entry = t.gaussian | static_cast<uint64_t>(t.pair) << 32;
#if RECON_AVX512
        store(slots_ + size_, covered_slots(t.cover, t.corner, offsets_));
        Entries entries = steps_ + entry;
        std::memcpy(entries_ + size_, &entries, sizeof entries);
        entries += kNext * 8;
        std::memcpy(entries_ + size_ + 8, &entries, sizeof entries);
        size_ += __builtin_popcount(t.cover);
#else
        // Most have up to four, and four are written without asking; bits past the cover stand in for what is missing.
        uint32_t cover = t.cover | 0xfu << kCoverBits;
        int end = size_;
        for (int k = 0; k < 4; ++k, cover &= cover - 1, entry += kNext) {
            end += cover % (1u << kCoverBits) != 0;
            slots_[size_ + k] = t.corner + offsets_[__builtin_ctz(cover)];
            entries_[size_ + k] = entry;
        }
        size_ = end;
        for (; cover % (1u << kCoverBits) != 0; cover &= cover - 1, entry += kNext)
            add(t.corner + offsets_[__builtin_ctz(cover)], entry);
#endif
        if (size_ >= kSize) flush();
    }

    void add_list(const Touch& t, const int32_t* slots) {
        uint64_t entry = t.gaussian | static_cast<uint64_t>(t.pair) << 32;
        for (int32_t k = 0; k < t.corner; ++k, entry += kNext) {
            add(slots[k], entry);
            if (size_ >= kSize) flush();
        }
    }

    void flush() {
        for (int k = 0; k < size_; ++k) __builtin_prefetch(entries_out_ + 2 * int64_t(places_[slots_[k]]), 1);
        for (int k = 0; k < size_; ++k)
            std::memcpy(entries_out_ + 2 * int64_t(places_[slots_[k]]++), entries_ + k, sizeof(uint64_t));
        size_ = 0;
    }

  private:
    static constexpr int kSize = 256, kCoverBits = kRows * kColumns;
    static constexpr uint64_t kNext = uint64_t(1) << 32;  // the next pair

    void add(int32_t slot, uint64_t entry) {
        slots_[size_] = slot;
        entries_[size_++] = entry;
    }

    int32_t* entries_out_;
    int32_t* places_;
    int size_ = 0;
#if RECON_AVX512
    typedef uint64_t Entries __attribute__((vector_size(64)));
    IntPack offsets_;
    Entries steps_ = {0, kNext, 2 * kNext, 3 * kNext, 4 * kNext, 5 * kNext, 6 * kNext, 7 * kNext};
#else
    int32_t offsets_[kCoverBits + 4] = {};
#endif
    int32_t slots_[kSize + kCoverBits];
    uint64_t entries_[kSize + kCoverBits];
};

void deal_out(const BinParams& p, const BinWork& work, const uint64_t* sorted, const Touch* touches, int64_t count) {
    constexpr int64_t kAhead = 12;
    Batch batch(p, work.counters.data());
    for (int64_t i = 0; i < count; ++i) {
        __builtin_prefetch(touches + static_cast<uint32_t>(sorted[i + kAhead < count ? i + kAhead : i]));
        const Touch t = touches[static_cast<uint32_t>(sorted[i])];
        if (t.cover != 0) {
            batch.add_cover(t);
        } else {
            const uint32_t b = t.gaussian / kBlock;
            batch.add_list(t, work.lists[b].slots + (t.pair - work.blocks[b].first_pair));
        }
    }
    batch.flush();
}

void bin_fill(const BinParams& p, BinWork& work) {
    const int64_t tiles = tile_count(p), blocks = (p.count + kBlock - 1) / kBlock;
    if (p.entries != work.entries || work.pairs > work.wished) {
        prefer_huge_pages(p.entries, work.pairs * 2 * static_cast<int64_t>(sizeof(int32_t)));
        work.entries = p.entries;
        work.wished = work.pairs;
    }
#pragma omp parallel num_threads(work.threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t b = 0; b < blocks; ++b) {
            const int32_t first = static_cast<int32_t>(work.blocks[b].first_pair);
            const int64_t end = (b + 1) * kBlock < p.count ? (b + 1) * kBlock : p.count;
            for (int64_t g = b * kBlock; g < end; ++g) p.pair_starts[g] += first;
        }
        uint64_t* const keys = work.sorting.data() + 2 * work.largest_chunk * omp_get_thread_num();
        Touch* const touches = work.touches.data() + work.largest_chunk * omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
        for (int turn = 0; turn < work.chunks; ++turn) {
            // Not neighbours at a time: their shares of a tile's list meet in one line of memory.
            const int apart = work.chunks % work.threads == 0 ? work.threads : 1;
            const int chunk = turn % apart * (work.chunks / apart) + turn / apart;
            int32_t* const places = work.counters.data() + chunk * tiles;
            for (int64_t tile = 0; tile < tiles; ++tile) places[tile] += p.offsets[tile];
            const int64_t count = collect(work, blocks, chunk, keys, touches);
            const uint64_t* const sorted = sort_by_depth(keys, keys + work.largest_chunk, count);
            deal_out(p, work, sorted, touches, count);
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
