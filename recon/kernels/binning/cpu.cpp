// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of tile binning.  No pair is ever compared: the visible Gaussians are radix-sorted once by depth and
// then dealt out to the tiles in that order by a counting sort.
//
//   bin_count   Blocks of Gaussians, in any order of threads: a pack of Gaussians at a time finds ellipses and bounding
//               tiles, a pack of tile rows at a time the span of tiles in each row.  A Gaussian's tiles lie together
//               and in order ("pairs"); pair_starts is their prefix sum, so that a backward pass can sum per Gaussian.
//   bin_fill    Sorts by depth, counts pairs per (chunk of the sorted list, tile), takes the prefix sum over tiles,
//               then chunks, and lets each chunk write its share.
// Every place in the result follows from the input alone, so it does not depend on the number of threads.
#include <omp.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <vector>

#include "recon/kernels/binning/math.h"
#include "recon/kernels/binning/params.h"
#include "recon/kernels/common/binding.h"

namespace recon {
namespace {

constexpr int64_t kBlock = 1024;                // Gaussians
constexpr int64_t kParallelSortFrom = 1 << 16;  // below, the barriers cost more than a second thread gains

int tiles_along(int32_t pixels) { return (pixels + kTileSize - 1) / kTileSize; }

// The pairs of one block of Gaussians.
struct PairBuffer {
    int32_t* tiles = nullptr;
    int64_t size = 0, capacity = 0;
    int64_t visible = 0;  // Gaussians that touch a tile

    PairBuffer() = default;
    PairBuffer(const PairBuffer&) = delete;
    PairBuffer& operator=(const PairBuffer&) = delete;
    ~PairBuffer() { std::free(tiles); }

    bool reserve(int64_t more) {
        if (size + more <= capacity) return true;
        const int64_t wanted = size + more > 2 * capacity ? size + more : 2 * capacity;
        void* grown = std::realloc(tiles, static_cast<size_t>(wanted) * sizeof(int32_t));
        if (grown == nullptr) return false;
        tiles = static_cast<int32_t*>(grown);
        capacity = wanted;
        return true;
    }
};

// Uninitialised memory that only grows; growing loses what it held.
template <class T>
class Buffer {
  public:
    T* take(int64_t count) {
        if (count > capacity_) {
            memory_.reset();
            memory_.reset(new T[static_cast<size_t>(count)]);
            capacity_ = count;
        }
        return memory_.get();
    }

  private:
    std::unique_ptr<T[]> memory_;
    int64_t capacity_ = 0;
};

}  // namespace

// What bin_count hands on to bin_fill, and the memory of both, which is kept from call to call.
struct BinWork {
    Buffer<PairBuffer> block_memory;
    Buffer<int64_t> start_memory, place_memory;
    Buffer<uint64_t> key_memory, other_memory;
    Buffer<int32_t> counter_memory;

    PairBuffer* blocks = nullptr;
    int64_t* block_starts = nullptr;  // pairs before each block
    uint64_t* keys = nullptr;         // per block: depth key in the high, Gaussian in the low half
    int64_t visible = 0;
};

namespace {

// Orders as the floats do.
uint32_t depth_key(float depth) {
    uint32_t u;
    depth += 0.0f;  // -0 and +0 are one depth
    std::memcpy(&u, &depth, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

struct Bounds {
    int32_t x0[kLanes], x1[kLanes], y0[kLanes], y1[kLanes];  // tiles, inclusive; x0 > x1 where there is none
    uint32_t inside;                                         // bit per lane: the ellipse does not leave the picture
};

// First and last index of the pixel centres in [first, last] (positions), clamped to the picture.
RECON_FN void pixel_range(Interval<Pack> range, Pack margin, float size, Pack& first, Pack& last) {
    const Pack low = range.first - margin - Pack(0.5f), high = range.last + margin - Pack(0.5f);
    first = ceil_(fmin_(fmax_(low, Pack(0.0f)), Pack(size)));
    last = floor_(fmin_(fmax_(high, Pack(-1.0f)), Pack(size - 1.0f)));
}

RECON_FN void store_tiles(Pack pixel, Mask valid, float otherwise, int32_t* tiles) {
    float t[kLanes];
    store(t, select(valid, pixel, Pack(otherwise)));
    for (int i = 0; i < kLanes; ++i) tiles[i] = static_cast<int32_t>(t[i]) >> 4;
}

struct Inputs {
    float x[kLanes], y[kLanes], a[kLanes], b[kLanes], c[kLanes], opacity[kLanes], depth[kLanes];
};

// Lanes beyond `count` and invisible ones get an opacity of 0, which no cutoff lets through.
void load_inputs(const BinParams& p, int64_t first, int count, Inputs& in) {
    for (int i = 0; i < kLanes; ++i) {
        const int64_t g = first + (i < count ? i : 0);
        in.x[i] = p.means_px[2 * g];
        in.y[i] = p.means_px[2 * g + 1];
        in.a[i] = p.conics[3 * g];
        in.b[i] = p.conics[3 * g + 1];
        in.c[i] = p.conics[3 * g + 2];
        in.opacity[i] = i < count && p.visible[g] ? p.opacities[g] : 0.0f;
        in.depth[i] = p.depths[g];
    }
}

struct Shapes {
    Ellipse<Pack> ellipse;
    Bounds bounds;
};

Shapes find_shapes(const BinParams& p, const Inputs& in) {
    const Pack x = load(in.x), y = load(in.y), a = load(in.a), b = load(in.b), c = load(in.c);
    const Pack opacity = load(in.opacity), limit(1e30f);
    const Pack det = determinant(a, b, c);
    const Mask valid = conic_is_valid(a, b, c, det) & (opacity >= Pack(p.alpha_cutoff)) & (opacity <= limit) &
                       (abs_(load(in.depth)) <= Pack(3.4e38f)) & (abs_(x) <= limit) & (abs_(y) <= limit);
    const Pack ratio = select(valid, opacity * Pack(1.0f / p.alpha_cutoff), Pack(1.0f));
    Shapes s;
    s.ellipse = make_ellipse(a, b, c, det, log_(ratio) * Pack(1.44269504f));
    Pack x0, x1, y0, y1;
    const Pack half_width = s.ellipse.half_width, half_height = s.ellipse.half_height;
    pixel_range({x - half_width, x + half_width}, bound_margin(x, half_width), float(p.width), x0, x1);
    pixel_range({y - half_height, y + half_height}, bound_margin(y, half_height), float(p.height), y0, y1);
    const Mask touches = valid & (x0 <= x1) & (y0 <= y1);
    s.bounds.inside = bits((x - half_width >= Pack(0.0f)) & (x + half_width <= Pack(float(p.width))) &
                           (y - half_height >= Pack(0.0f)) & (y + half_height <= Pack(float(p.height))));
    store_tiles(x0, touches, kTileSize, s.bounds.x0);
    store_tiles(x1, touches, 0.0f, s.bounds.x1);
    store_tiles(y0, touches, 0.0f, s.bounds.y0);
    store_tiles(y1, touches, 0.0f, s.bounds.y1);
    return s;
}

RECON_FN Pack lane(Pack a, int i) {
    float t[kLanes];
    store(t, a);
    return Pack(t[i]);
}

// Appends the tiles of lane `i`, row by row; each row of tiles is cut to the span that the ellipse reaches in it.
void emit_rows(const BinParams& p, const Inputs& in, const Shapes& s, int i, PairBuffer& out) {
    const int tiles_x = tiles_along(p.width);
    const Bounds& bounds = s.bounds;
    const Ellipse<Pack> e{lane(s.ellipse.skew_x, i),     lane(s.ellipse.skew_y, i),  lane(s.ellipse.half_width, i),
                          lane(s.ellipse.half_height, i), lane(s.ellipse.chord_x, i), lane(s.ellipse.chord_y, i)};
    const Pack x(in.x[i]);
    const Pack margin = bound_margin(x, e.half_width);
    for (int y = bounds.y0[i]; y <= bounds.y1[i]; y += kLanes) {
        const Pack low = fma_(lane_index() + Pack(static_cast<float>(y)), Pack(static_cast<float>(kTileSize)),
                              Pack(0.5f - in.y[i]));
        const Pack high = fmin_(low + Pack(kTileSize - 1.0f), Pack(static_cast<float>(p.height) - 0.5f - in.y[i]));
        const Interval<Pack> reach = span_of_rows(e, low, high);
        Pack first, last;
        pixel_range({reach.first + x, reach.last + x}, margin, static_cast<float>(p.width), first, last);
        int32_t from[kLanes], to[kLanes];
        const Mask some = first <= last;
        store_tiles(first, some, kTileSize, from);
        store_tiles(last, some, 0.0f, to);
        const int rows = bounds.y1[i] - y + 1 < kLanes ? bounds.y1[i] - y + 1 : kLanes;
        for (int r = 0; r < rows; ++r) {
            const int32_t row = (y + r) * tiles_x;
            for (int32_t t = from[r]; t <= to[r]; ++t) out.tiles[out.size++] = row + t;
        }
    }
}

enum class Outcome { kDone, kTooMany, kNoMemory };

Outcome bin_block(const BinParams& p, int64_t begin, int64_t end, PairBuffer& out, uint64_t* keys) {
    const int tiles_x = tiles_along(p.width);
    out.size = out.visible = 0;
    if (!out.reserve(2 * (end - begin))) return Outcome::kNoMemory;
    Inputs in;
    for (int64_t g = begin; g < end; g += kLanes) {
        const int count = end - g < kLanes ? static_cast<int>(end - g) : kLanes;
        load_inputs(p, g, count, in);
        const Shapes s = find_shapes(p, in);
        for (int i = 0; i < count; ++i) {
            const int64_t before = out.size;
            const int wide = s.bounds.x1[i] - s.bounds.x0[i] + 1, high = s.bounds.y1[i] - s.bounds.y0[i] + 1;
            if (wide > 0) {
                const int64_t most = static_cast<int64_t>(wide) * high;
                if (out.size + most > p.max_pairs + tiles_x) return Outcome::kTooMany;
                if (!out.reserve(most)) return Outcome::kNoMemory;
                // A convex shape touches every tile of a row or column that holds it whole.
                if ((wide == 1 || high == 1) && (s.bounds.inside >> i & 1u)) {
                    for (int y = s.bounds.y0[i]; y <= s.bounds.y1[i]; ++y)
                        for (int x = s.bounds.x0[i]; x <= s.bounds.x1[i]; ++x) out.tiles[out.size++] = y * tiles_x + x;
                } else {
                    emit_rows(p, in, s, i, out);
                }
            }
            if (out.size > before)
                keys[out.visible++] = static_cast<uint64_t>(depth_key(in.depth[i])) << 32 | static_cast<uint64_t>(g + i);
            p.pair_starts[g + i] = static_cast<int32_t>(out.size - before);
        }
    }
    return Outcome::kDone;
}

// Returns the number of pairs; -1 where they are more than max_pairs, -2 where memory ran out.
int64_t bin_count(const BinParams& p, BinWork& work) {
    const int64_t blocks = (p.count + kBlock - 1) / kBlock;
    work.blocks = work.block_memory.take(blocks);
    work.block_starts = work.start_memory.take(blocks);
    work.keys = work.key_memory.take(p.count);
    std::atomic<int64_t> pairs{0};
    std::atomic<int> worst{0};
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
        if (worst.load(std::memory_order_relaxed)) continue;
        const int64_t begin = block * kBlock, end = begin + kBlock < p.count ? begin + kBlock : p.count;
        const Outcome outcome = bin_block(p, begin, end, work.blocks[block], work.keys + begin);
        if (outcome != Outcome::kDone) worst.store(static_cast<int>(outcome));
        if ((pairs += work.blocks[block].size) > p.max_pairs) worst.store(static_cast<int>(Outcome::kTooMany));
    }
    if (worst.load()) return worst.load() == static_cast<int>(Outcome::kTooMany) ? -1 : -2;
    int64_t total = 0;
    work.visible = 0;
    for (int64_t block = 0; block < blocks; ++block) {
        work.block_starts[block] = total;
        total += work.blocks[block].size;
        const int64_t first = block * kBlock;
        std::memmove(work.keys + work.visible, work.keys + first,
                     static_cast<size_t>(work.blocks[block].visible) * sizeof(uint64_t));
        work.visible += work.blocks[block].visible;
    }
#pragma omp parallel for schedule(static) if (blocks > 64)
    for (int64_t block = 0; block < blocks; ++block) {
        int64_t start = work.block_starts[block];
        const int64_t end = (block + 1) * kBlock < p.count ? (block + 1) * kBlock : p.count;
        for (int64_t g = block * kBlock; g < end; ++g) {
            const int32_t pairs_here = p.pair_starts[g];
            p.pair_starts[g] = static_cast<int32_t>(start);
            p.touched[g] = pairs_here > 0;
            start += pairs_here;
        }
    }
    p.pair_starts[p.count] = static_cast<int32_t>(total);
    return total;
}

// ---- depth sort ----------------------------------------------------------------------------------------------------

constexpr int kMaxDigitBits = 11;

// Stable; returns whichever of the two arrays holds the result.  Keys are compared by their high 32 bits.
uint64_t* radix_sort(uint64_t* keys, uint64_t* other, int64_t count, Buffer<int64_t>& place_memory) {
    if (count == 0) return keys;
    uint64_t low = ~uint64_t(0), high = 0;
    for (int64_t i = 0; i < count; ++i) {
        low = keys[i] < low ? keys[i] : low;
        high = keys[i] > high ? keys[i] : high;
    }
    const uint32_t base = static_cast<uint32_t>(low >> 32), range = static_cast<uint32_t>(high >> 32) - base;
    int width = 0;
    while (width < 32 && (range >> width) != 0) ++width;
    const int passes = (width + kMaxDigitBits - 1) / kMaxDigitBits;
    if (passes == 0) return keys;
    const int bits = (width + passes - 1) / passes;
    const int64_t digits = int64_t(1) << bits;
    const int threads = count >= kParallelSortFrom ? omp_get_max_threads() : 1;
    int64_t* const places = place_memory.take(digits * threads);
#pragma omp parallel num_threads(threads)
    {
        const int team = omp_get_num_threads(), me = omp_get_thread_num();
        const int64_t begin = count * me / team, end = count * (me + 1) / team;
        int64_t* mine = places + digits * me;
        uint64_t *from = keys, *to = other;
        for (int pass = 0; pass < passes; ++pass) {
            const int shift = pass * bits;
            const auto digit = [=](uint64_t key) {
                return static_cast<int64_t>(((static_cast<uint32_t>(key >> 32) - base) >> shift) & (digits - 1));
            };
            std::memset(mine, 0, static_cast<size_t>(digits) * sizeof(int64_t));
            for (int64_t i = begin; i < end; ++i) ++mine[digit(from[i])];
#pragma omp barrier
#pragma omp single
            {
                int64_t sum = 0;
                for (int64_t d = 0; d < digits; ++d)
                    for (int t = 0; t < team; ++t) {
                        const int64_t here = places[digits * t + d];
                        places[digits * t + d] = sum;
                        sum += here;
                    }
            }
            for (int64_t i = begin; i < end; ++i) to[mine[digit(from[i])]++] = from[i];
#pragma omp barrier
            uint64_t* swapped = from;
            from = to;
            to = swapped;
        }
    }
    return passes % 2 ? other : keys;
}

// ---- counting sort -------------------------------------------------------------------------------------------------

void bin_fill(const BinParams& p, BinWork& work) {
    const int64_t tiles = static_cast<int64_t>(tiles_along(p.width)) * tiles_along(p.height);
    uint64_t* const other = work.other_memory.take(work.visible);
    const uint64_t* sorted = radix_sort(work.keys, other, work.visible, work.place_memory);
    const int64_t threads = omp_get_max_threads();
    // More chunks than threads, since chunks differ in work; each costs a counter per tile.
    const int64_t chunks = threads == 1 || work.visible < 4096 ? 1 : threads * (tiles < (1 << 16) ? 4 : 1);
    int32_t* const counters = work.counter_memory.take(chunks * tiles);
    const auto for_each_pair = [&](int64_t chunk, auto&& visit) {
        const int64_t end = work.visible * (chunk + 1) / chunks;
        for (int64_t i = work.visible * chunk / chunks; i < end; ++i) {
            const int64_t g = static_cast<int64_t>(sorted[i] & 0xffffffffu);
            const int32_t* tile = work.blocks[g / kBlock].tiles - work.block_starts[g / kBlock];
            for (int32_t pair = p.pair_starts[g]; pair < p.pair_starts[g + 1]; ++pair)
                visit(static_cast<int32_t>(g), pair, tile[pair]);
        }
    };
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        int32_t* counter = counters + chunk * tiles;
        std::memset(counter, 0, static_cast<size_t>(tiles) * sizeof(int32_t));
        for_each_pair(chunk, [=](int32_t, int32_t, int32_t tile) { ++counter[tile]; });
    }
    int32_t sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        p.offsets[tile] = sum;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int32_t here = counters[chunk * tiles + tile];
            counters[chunk * tiles + tile] = sum;
            sum += here;
        }
    }
    p.offsets[tiles] = sum;
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        int32_t* counter = counters + chunk * tiles;
        for_each_pair(chunk, [=](int32_t g, int32_t pair, int32_t tile) {
            int32_t* entry = p.entries + 2 * static_cast<int64_t>(counter[tile]++);
            entry[0] = g;
            entry[1] = pair;
        });
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
