// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of updating an occupancy grid: a thread owns what was found, then a cell, then a block of cells of each
// level; a warp writes a word of bits.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/occupancy/math.h"
#include "recon/kernels/occupancy/params.h"

namespace recon {
namespace {

constexpr uint32_t kFound = 0x80000000u;

RECON_FN int64_t cells_of(int32_t resolution) { return static_cast<int64_t>(resolution) * resolution * resolution; }

// Writes a bit of each lane as a word, if the first of them is there.
RECON_FN void write_word(uint32_t* words, int64_t i, int64_t count, bool on) {
    const uint32_t word = __ballot_sync(kAllLanes, on);
    if (lane_number() == 0 && i < count) words[i / 32] = word;
}

// Sums of a block's warps.
struct Sums {
    double sums[8];
    int counts[8];
};

}  // namespace
}  // namespace recon

using namespace recon;

// The greatest that was found of each cell, as its bits below a bit that says so.  As whole numbers the bits of numbers
// that are not negative order as they do.
RECON_KERNEL(occupancy_merge, OccupancyUpdateParams, 256) {
    const int64_t i = global_thread();
    if (i >= p.count || !(p.found[i] >= 0.0f)) return;
    const uint32_t value = __float_as_uint(fmin_(p.found[i], kOpaque)) & ~kFound;
    atomicMax(p.touched + p.cells[i], kFound | value);
}

// New densities, and a block's sum of those that are known.
RECON_KERNEL(occupancy_fade, OccupancyUpdateParams, 256) {
    RECON_SHARED(Sums, shared);
    const int64_t i = global_thread(), cells = cells_of(p.resolution);
    float density = -1.0f;
    if (i < cells) {
        density = p.densities[i];
        const uint32_t found = p.touched[i];
        if (found != 0 && density >= 0.0f) {
            density = fmax_(faded(density, p.decay), __uint_as_float(found & ~kFound));
            p.densities[i] = density;
        }
    }
    const bool known = density >= 0.0f && density < 1e30f;
    const double sum = warp_sum(known ? static_cast<double>(density) : 0.0);
    const int count = warp_sum(known ? 1 : 0);
    if (lane_number() == 0) shared.sums[warp_number()] = sum, shared.counts[warp_number()] = count;
    __syncthreads();
    if (threadIdx.x != 0) return;
    double total = 0;
    int64_t all = 0;
    for (int warp = 0; warp < 8; ++warp) total += shared.sums[warp], all += shared.counts[warp];
    p.sums[blockIdx.x] = total;
    p.counts[blockIdx.x] = all;
}

RECON_KERNEL(occupancy_bits, OccupancyUpdateParams, 256) {
    const int64_t i = global_thread(), cells = cells_of(p.resolution);
    write_word(p.bits, i, cells, i < cells && p.densities[i] > *p.limit);
}

// The blocks of a level: of the cells, or of the blocks of the level below.
RECON_KERNEL(occupancy_join, OccupancyUpdateParams, 256) {
    const int64_t i = global_thread(), side = p.resolution >> p.level, below = 2 * side;
    if (i >= side * side * side) return;
    const int64_t x = i % side, y = i / side % side, z = i / (side * side);
    bool any = false;
    for (int corner = 0; corner < 8; ++corner) {
        const int64_t at = ((2 * z + (corner >> 2)) * below + 2 * y + (corner >> 1 & 1)) * below + 2 * x + (corner & 1);
        any = any || (p.level == 1 ? ((p.bits[at / 32] >> (at % 32)) & 1u) != 0 : p.other_flags[at] != 0);
    }
    p.flags[i] = any ? 1 : 0;
}

RECON_KERNEL(occupancy_spread, OccupancyUpdateParams, 256) {
    const int64_t i = global_thread(), side = p.resolution >> p.level, count = side * side * side;
    bool any = false;
    if (i < count) {
        const int64_t x = i % side, y = i / side % side, z = i / (side * side);
        for (int64_t w = z > 0 ? z - 1 : 0; w <= z + 1 && w < side; ++w)
            for (int64_t v = y > 0 ? y - 1 : 0; v <= y + 1 && v < side; ++v)
                for (int64_t u = x > 0 ? x - 1 : 0; u <= x + 1 && u < side; ++u)
                    any = any || p.flags[(w * side + v) * side + u] != 0;
    }
    write_word(p.bits + level_begin(p.resolution, p.level), i, count, any);
}
