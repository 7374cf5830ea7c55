// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of fusing depth maps.  Allocation: a thread owns a pixel and puts the blocks that its ray crosses into
// a table that all share; the caller sorts them.  Integration: a block owns a block of 8×8×8 voxels, a thread two of
// them.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/tsdf/cuda.h"
#include "recon/kernels/tsdf/math.h"
#include "recon/kernels/tsdf/params.h"

namespace recon {
namespace {

// ---- allocation ----------------------------------------------------------------------------------------------------

using Word = unsigned long long;
constexpr Word kNoKey = ~Word(0);

// Mirrors cpu.cpp.
RECON_FN int64_t pack_key(const int32_t (&b)[3]) {
    constexpr int64_t offset = 1 << 20;
    return ((b[0] + offset) << 42) | ((b[1] + offset) << 21) | (b[2] + offset);
}

// Inserts a key; false when the table may take no more.  A place is reserved before it is taken, so that never more
// than `max_count` are and a probe always ends.
RECON_FN bool insert(const TsdfAllocateParams& p, int64_t key) {
    Word* table = reinterpret_cast<Word*>(p.table);
    Word* count = reinterpret_cast<Word*>(p.count);
    const Word wanted = static_cast<Word>(key), last = static_cast<Word>(p.capacity - 1);
    Word at = wanted * 0x9e3779b97f4a7c15ull;
    at ^= at >> 29;
    for (;; ++at) {
        Word* cell = table + (at & last);
        const Word found = *static_cast<volatile Word*>(cell);
        if (found == wanted) return true;
        if (found != kNoKey) continue;
        if (atomicAdd(count, Word(1)) >= static_cast<Word>(p.max_count)) {
            atomicAdd(count, ~Word(0));
            return false;
        }
        const Word before = atomicCAS(cell, kNoKey, wanted);
        if (before == kNoKey) return true;
        atomicAdd(count, ~Word(0));
        if (before == wanted) return true;
    }
}

// The part of a segment, as shares of it, that lies within the blocks that may exist; false for none.
RECON_FN bool clip_segment(const TsdfAllocateParams& p, const double (&a)[3], const double (&b)[3], double& lo,
                           double& hi) {
    lo = 0.0, hi = 1.0;
    for (int k = 0; k < 3; ++k) {
        const double low = p.first_block[k], high = p.last_block[k] + 1.0, d = b[k] - a[k];
        if (abs_(d) < 1e-12) {
            if (a[k] < low || a[k] >= high) return false;
            continue;
        }
        const double t0 = (low - a[k]) / d, t1 = (high - a[k]) / d;
        lo = fmax_(lo, fmin_(t0, t1));
        hi = fmin_(hi, fmax_(t0, t1));
    }
    return lo <= hi;
}

// Inserts every block that the segment from `a` to `b` (in blocks) crosses: Amanatides and Woo 1987.
RECON_FN bool insert_segment(const TsdfAllocateParams& p, const double (&a)[3], const double (&b)[3]) {
    double lo, hi;
    if (!clip_segment(p, a, b, lo, hi)) return true;
    int32_t block[3], step[3];
    double next[3], delta[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        const double d = b[k] - a[k], start = a[k] + lo * d;
        const int32_t cell = static_cast<int32_t>(::floor(start));
        block[k] = cell < p.first_block[k] ? p.first_block[k] : cell > p.last_block[k] ? p.last_block[k] : cell;
        step[k] = d > 0 ? 1 : -1;
        delta[k] = abs_(d) < 1e-12 ? 1e30 : 1.0 / abs_(d);
        next[k] = abs_(d) < 1e-12 ? 1e30 : lo + (d > 0 ? block[k] + 1 - start : start - block[k]) * delta[k];
    }
    for (;;) {
        if (!insert(p, pack_key(block))) return false;
        const int along = next[0] < next[1] ? (next[0] < next[2] ? 0 : 2) : (next[1] < next[2] ? 1 : 2);
        bool ends = false;
#pragma unroll
        for (int k = 0; k < 3; ++k) {  // no index that only the run knows: the arrays stay in registers
            if (k != along) continue;
            ends = next[k] > hi;
            block[k] += step[k];
            ends = ends || block[k] < p.first_block[k] || block[k] > p.last_block[k];
            next[k] += delta[k];
        }
        if (ends) return true;
    }
}

RECON_FN bool allocate_pixel(const TsdfAllocateParams& p, int64_t pixel) {
    const TsdfView& view = p.view;
    const float inverse = view.inverse_depth[pixel];
    if (!(inverse > 0.0f) || !(view.confidence[pixel] > 0.0f)) return true;
    const double column = static_cast<double>(pixel % view.width), row = static_cast<double>(pixel / view.width);
    const double x = (column + 0.5 - view.cx) / view.fx, y = (row + 0.5 - view.cy) / view.fy;
    const double depth = 1.0 / inverse, half = p.truncation / fmax_(view.slant[pixel], kMinSlant);
    if (!(abs_(depth) <= 1e300) || !(abs_(half) <= 1e300)) return true;
    const double near = fmax_(depth - half, 0.0), far = depth + half;
    double a[3], b[3];
    for (int k = 0; k < 3; ++k) {
        const double* g = p.grid_from_cam + 4 * k;
        const double along = g[0] * x + g[1] * y + g[2];
        a[k] = (along * near + g[3]) / kBlockSide;
        b[k] = (along * far + g[3]) / kBlockSide;
    }
    return insert_segment(p, a, b);
}

// ---- integration ---------------------------------------------------------------------------------------------------

// The voxel in the camera's frame.  Corners are placed in double: the lattice may be far from its origin.
RECON_FN void place_voxel(const TsdfView& view, const int32_t* block, int voxel, float (&q)[3]) {
    const double x = kBlockSide * static_cast<double>(block[0]), y = kBlockSide * static_cast<double>(block[1]);
    const double z = kBlockSide * static_cast<double>(block[2]);
    const float lx = static_cast<float>(voxel % kBlockSide), ly = static_cast<float>(voxel / kBlockSide % kBlockSide);
    const float lz = static_cast<float>(voxel / (kBlockSide * kBlockSide));
    for (int k = 0; k < 3; ++k) {
        const double* row = view.cam_from_grid + 4 * k;
        const float corner = static_cast<float>(row[0] * x + row[1] * y + row[2] * z + row[3]);
        q[k] = fma_(lx, static_cast<float>(row[0]),
                    fma_(ly, static_cast<float>(row[1]), fma_(lz, static_cast<float>(row[2]), corner)));
    }
}

RECON_FN float inverse_depth_at(const TsdfIntegrateParams& p, float u, float v, int32_t nearest) {
    const int32_t width = p.view.width, height = p.view.height;
    const float x = fmax_(u - 0.5f, 0.0f), y = fmax_(v - 0.5f, 0.0f);
    const int32_t x0 = static_cast<int32_t>(x), y0 = static_cast<int32_t>(y);
    const int32_t x1 = x0 + 1 < width ? x0 + 1 : x0, y1 = y0 + 1 < height ? y0 + 1 : y0;
    const float* map = p.view.inverse_depth;
    return interpolate_inverse_depth(map[y0 * width + x0], map[y0 * width + x1], map[y1 * width + x0],
                                     map[y1 * width + x1], x - static_cast<float>(x0), y - static_cast<float>(y0),
                                     map[nearest], p.jump);
}

RECON_FN void integrate_voxel(const TsdfIntegrateParams& p, int64_t block, int voxel) {
    const TsdfView& view = p.view;
    float q[3];
    place_voxel(view, p.blocks + 3 * block, voxel, q);
    if (!(q[2] > 0.0f)) return;
    const ProjectedVoxel<float> pixel = project_voxel(q[0], q[1], q[2], view.fx, view.fy, view.cx, view.cy);
    const bool inside = pixel.u >= 0.0f && pixel.u < static_cast<float>(view.width) && pixel.v >= 0.0f &&
                        pixel.v < static_cast<float>(view.height);
    if (!inside) return;
    const int32_t nearest = static_cast<int32_t>(pixel.v) * view.width + static_cast<int32_t>(pixel.u);
    const Observation<float> seen = observe_voxel(pixel.z, inverse_depth_at(p, pixel.u, pixel.v, nearest),
                                                  view.slant[nearest], view.confidence[nearest], 1.0f / p.truncation);
    if (!(seen.weight > 0.0f)) return;
    const int64_t at = block * kBlockVoxels + voxel;
    p.distance_sum[at] = fma_(seen.weight, seen.distance, p.distance_sum[at]);
    p.weight_sum[at] += seen.weight;
    if (view.color == nullptr || !(seen.distance < 1.0f)) return;
    const int64_t plane = static_cast<int64_t>(view.width) * view.height;
    float* color = p.color_sum + block * 4 * kBlockVoxels + voxel;
    for (int k = 0; k < 3; ++k)
        color[k * kBlockVoxels] = fma_(seen.weight, view.color[k * plane + nearest], color[k * kBlockVoxels]);
    color[3 * kBlockVoxels] += seen.weight;
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(tsdf_integrate, TsdfIntegrateParams, 256) {
    for (int voxel = static_cast<int>(threadIdx.x); voxel < kBlockVoxels; voxel += 256)
        integrate_voxel(p, static_cast<int64_t>(blockIdx.x), voxel);
}

RECON_KERNEL(tsdf_allocate, TsdfAllocateLaunch, 128) {
    const int64_t pixel = global_thread();
    if (pixel >= static_cast<int64_t>(p.allocate.view.width) * p.allocate.view.height) return;
    if (!allocate_pixel(p.allocate, pixel)) *p.full = 1;
}

// A thread owns a cell of a smaller table.
RECON_KERNEL(tsdf_refill, TsdfAllocateLaunch, 128) {
    const int64_t at = global_thread();
    if (at >= p.old_capacity || p.old_keys[at] < 0) return;
    if (!insert(p.allocate, p.old_keys[at])) *p.full = 1;
}
