// SPDX-License-Identifier: Apache-2.0
// A stable radix sort of pairs by 32-bit keys, a byte in each pass, each of which reads and writes everything once.
//
// Source: Adinets and Merrill, "Onesweep: a faster least significant digit radix sort for GPUs", 2022, with the
// look-back of Merrill and Garland, "Single-pass parallel prefix scan with decoupled look-back", 2016.  A block owns a
// tile of kTile pairs.  It takes its number from a counter, so that the blocks that it waits for have started before;
// publishes how often each byte occurs in it, and sums what the blocks before published.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/cuda/sort.h"

namespace recon {
namespace {

constexpr int kThreads = 256, kPerThread = 16, kTile = kThreads * kPerThread;
constexpr int kDigits = 256, kWarps = kThreads / kWarp, kPerWarp = kTile / kWarps;
constexpr uint32_t kLocal = 1u << 30, kInclusive = 2u << 30, kValue = kLocal - 1;

RECON_FN uint32_t digit_of(uint32_t key, int pass) { return (key >> (8 * pass)) & 0xffu; }

struct Histograms {
    uint32_t of[4][kDigits];
};

// Where a tile's pairs go, byte by byte; and the tile in its new order.
struct SortScratch {
    uint32_t by_warp[kWarps][kDigits];  // first counts, then the pairs of the warps before
    uint32_t local[kDigits];            // where the digit begins in the tile
    uint32_t place[kDigits];            // where the tile's first of it goes, less `local`
    uint32_t keys[kTile];
    int32_t values[kTile];
    PerWarp<uint32_t> sums;
    uint32_t tile;
};

// The number of pairs with this thread's digit in the tiles before.
RECON_FN uint32_t look_back(const SortParams& p, uint32_t tile, uint32_t own) {
    volatile uint32_t* status = p.status + threadIdx.x;
    uint32_t before = 0;
    if (tile == 0) {
        status[0] = kInclusive | own;
        return 0;
    }
    status[static_cast<int64_t>(tile) * kDigits] = kLocal | own;
    for (int64_t other = static_cast<int64_t>(tile) - 1; other >= 0;) {
        const uint32_t found = status[other * kDigits];
        if (found == 0) continue;  // not published yet
        before += found & kValue;
        if (found & kInclusive) break;
        --other;
    }
    status[static_cast<int64_t>(tile) * kDigits] = kInclusive | (before + own);
    return before;
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(sort_histogram, SortParams, 256) {
    RECON_SHARED(Histograms, histograms);
    const int64_t count = *p.count, stride = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int pass = 0; pass < p.passes; ++pass) histograms.of[pass][threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = global_thread(); i < count; i += stride) {
        const uint32_t key = p.keys_in[i];
        for (int pass = 0; pass < p.passes; ++pass) atomicAdd(&histograms.of[pass][digit_of(key, pass)], 1u);
    }
    __syncthreads();
    for (int pass = 0; pass < p.passes; ++pass) {
        const uint32_t here = histograms.of[pass][threadIdx.x];
        if (here != 0) atomicAdd(p.histograms + pass * kDigits + threadIdx.x, here);
    }
}

RECON_KERNEL(sort_pass, SortParams, 256) {
    RECON_SHARED(SortScratch, s);
    const int lane = lane_number(), warp = warp_number();
    const int64_t count = *p.count;
    if (threadIdx.x == 0) s.tile = atomicAdd(p.ticket, 1u);
    for (int w = 0; w < kWarps; ++w) s.by_warp[w][threadIdx.x] = 0;
    __syncthreads();
    const uint32_t tile = s.tile;
    const int64_t first = static_cast<int64_t>(tile) * kTile;
    if (first >= count) return;

    // Ranks among the warp's pairs of the same digit, in the order of memory.
    uint32_t keys[kPerThread], ranks[kPerThread];
    const int64_t mine = first + warp * kPerWarp + lane;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) keys[i] = mine + i * kWarp < count ? p.keys_in[mine + i * kWarp] : 0u;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
        const bool present = mine + i * kWarp < count;
        const uint32_t digit = digit_of(keys[i], p.number);
        const unsigned equal = __match_any_sync(kAllLanes, present ? digit : 0x100u);
        uint32_t& counter = s.by_warp[warp][digit];
        const uint32_t before = present ? counter : 0u;
        __syncwarp();
        ranks[i] = before + static_cast<uint32_t>(__popc(equal & lanes_below(lane)));
        if (present && (equal & lanes_below(lane)) == 0) counter = before + static_cast<uint32_t>(__popc(equal));
        __syncwarp();
    }
    __syncthreads();

    // A thread owns a digit.
    uint32_t in_tile = 0, total;
    for (int w = 0; w < kWarps; ++w) {
        const uint32_t here = s.by_warp[w][threadIdx.x];
        s.by_warp[w][threadIdx.x] = in_tile;
        in_tile += here;
    }
    const uint32_t before = look_back(p, tile, in_tile);
    const uint32_t local = block_exclusive_sum(in_tile, s.sums, total);
    const uint32_t start = block_exclusive_sum(p.histograms[p.number * kDigits + threadIdx.x], s.sums, total);
    s.local[threadIdx.x] = local;
    s.place[threadIdx.x] = start + before - local;
    __syncthreads();

    // By way of shared memory, so that neighbours are written together.
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
        if (mine + i * kWarp >= count) continue;
        const uint32_t digit = digit_of(keys[i], p.number), at = s.local[digit] + s.by_warp[warp][digit] + ranks[i];
        s.keys[at] = keys[i];
        s.values[at] = p.values_in[mine + i * kWarp];
    }
    __syncthreads();
    const int here = count - first < kTile ? static_cast<int>(count - first) : kTile;
    for (int at = static_cast<int>(threadIdx.x); at < here; at += kThreads) {
        const uint32_t key = s.keys[at], to = s.place[digit_of(key, p.number)] + static_cast<uint32_t>(at);
        p.keys_out[to] = key;
        p.values_out[to] = s.values[at];
    }
}

// One block sums the values of all blocks of another kernel.
RECON_KERNEL(scan_blocks, ScanParams, 1024) {
    RECON_SHARED(PerWarp<int64_t>, sums);
    int64_t before = 0;
    for (int64_t first = 0; first < p.count; first += 1024) {
        const int64_t i = first + threadIdx.x;
        int64_t total;
        const int64_t exclusive = block_exclusive_sum(i < p.count ? p.values[i] : int64_t(0), sums, total);
        if (i < p.count) p.values[i] = before + exclusive;
        before += total;
    }
    if (threadIdx.x != 0) return;
    *p.total = before;
    if (p.kept == nullptr) return;
    *p.kept = before <= p.limit ? before : 0;
    if (before > p.limit) *p.skip = 1;
}
