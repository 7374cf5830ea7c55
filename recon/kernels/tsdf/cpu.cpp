// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of sparse TSDF fusion.  Allocation: a thread owns rows of the depth map and inserts the blocks that
// its rays' truncation bands cross into one open-addressing table (compare and swap); which keys end up there does
// not depend on the order, and the caller sorts them.  Integration: a thread owns a block and runs SIMD over its
// voxels, so that no sum depends on the number of threads.
#include <cmath>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/tsdf/math.h"
#include "recon/kernels/tsdf/params.h"

namespace recon {
namespace {

// ---- allocation ----------------------------------------------------------------------------------------------------

constexpr int64_t kKeyOffset = 1 << 20;  // coordinates in [-2^20, 2^20) fit 21 bits each; op.py packs alike

int64_t pack_key(const int32_t* b) {
    return ((b[0] + kKeyOffset) << 42) | ((b[1] + kKeyOffset) << 21) | (b[2] + kKeyOffset);
}

// Inserts a key; false when the table may take no more.
bool insert(const TsdfAllocateParams& p, int64_t key) {
    uint64_t hash = static_cast<uint64_t>(key) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
    for (uint64_t i = hash;; ++i) {
        int64_t* cell = p.table + (i & static_cast<uint64_t>(p.capacity - 1));
        int64_t found = __atomic_load_n(cell, __ATOMIC_RELAXED);
        if (found == key) return true;
        if (found != -1) continue;
        if (__atomic_load_n(p.count, __ATOMIC_RELAXED) >= p.max_count) return false;
        if (__atomic_compare_exchange_n(cell, &found, key, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            __atomic_fetch_add(p.count, 1, __ATOMIC_RELAXED);
            return true;
        }
        if (found == key) return true;
    }
}

// Inserts every block that the segment from `a` to `b` (in blocks) crosses: Amanatides and Woo 1987.
bool insert_segment(const TsdfAllocateParams& p, const double* a, const double* b, int64_t& last_key) {
    double lo = 0.0, hi = 1.0;
    for (int k = 0; k < 3; ++k) {
        const double low = p.first_block[k], high = p.last_block[k] + 1.0, d = b[k] - a[k];
        if (std::fabs(d) < 1e-12) {
            if (a[k] < low || a[k] >= high) return true;
            continue;
        }
        const double t0 = (low - a[k]) / d, t1 = (high - a[k]) / d;
        lo = std::fmax(lo, std::fmin(t0, t1));
        hi = std::fmin(hi, std::fmax(t0, t1));
    }
    if (!(lo <= hi)) return true;
    int32_t block[3], step[3];
    double next[3], delta[3];
    for (int k = 0; k < 3; ++k) {
        const double d = b[k] - a[k], start = a[k] + lo * d;
        const int32_t cell = static_cast<int32_t>(std::floor(start));
        block[k] = cell < p.first_block[k] ? p.first_block[k] : cell > p.last_block[k] ? p.last_block[k] : cell;
        step[k] = d > 0 ? 1 : -1;
        delta[k] = std::fabs(d) < 1e-12 ? 1e30 : 1.0 / std::fabs(d);
        next[k] = std::fabs(d) < 1e-12 ? 1e30 : lo + (d > 0 ? block[k] + 1 - start : start - block[k]) * delta[k];
    }
    for (;;) {
        const int64_t key = pack_key(block);
        if (key != last_key && !insert(p, key)) return false;
        last_key = key;
        const int k = next[0] < next[1] ? (next[0] < next[2] ? 0 : 2) : (next[1] < next[2] ? 1 : 2);
        if (next[k] > hi) return true;
        block[k] += step[k];
        if (block[k] < p.first_block[k] || block[k] > p.last_block[k]) return true;
        next[k] += delta[k];
    }
}

bool allocate_row(const TsdfAllocateParams& p, int32_t row) {
    const TsdfView& view = p.view;
    const double* g = p.grid_from_cam;
    int64_t last_key = -1;
    for (int32_t column = 0; column < view.width; ++column) {
        const int64_t pixel = static_cast<int64_t>(row) * view.width + column;
        const float inverse = view.inverse_depth[pixel];
        if (!(inverse > 0.0f) || !(view.confidence[pixel] > 0.0f)) continue;
        const double x = (column + 0.5 - view.cx) / view.fx, y = (row + 0.5 - view.cy) / view.fy;
        const double depth = 1.0 / inverse;
        const double half = p.truncation / fmax_(view.slant[pixel], kMinSlant);
        if (!std::isfinite(depth) || !std::isfinite(half)) continue;
        const double near = std::fmax(depth - half, 0.0), far = depth + half;
        double a[3], b[3];
        for (int k = 0; k < 3; ++k) {
            const double along = g[4 * k] * x + g[4 * k + 1] * y + g[4 * k + 2];
            a[k] = (along * near + g[4 * k + 3]) / kBlockSide;
            b[k] = (along * far + g[4 * k + 3]) / kBlockSide;
        }
        if (!insert_segment(p, a, b, last_key)) return false;
    }
    return true;
}

// Returns false when the table was full and some blocks are missing.
bool tsdf_allocate(const TsdfAllocateParams& p) {
    bool complete = true;
#pragma omp parallel for schedule(dynamic, 8) reduction(&& : complete)
    for (int32_t row = 0; row < p.view.height; ++row) complete = allocate_row(p, row) && complete;
    return complete;
}

// ---- integration ---------------------------------------------------------------------------------------------------

// Local voxel coordinates of a block in storage order, x fastest.
struct LocalCoordinates {
    float x[kBlockVoxels], y[kBlockVoxels], z[kBlockVoxels];
    LocalCoordinates() {
        for (int i = 0; i < kBlockVoxels; ++i) {
            x[i] = static_cast<float>(i % kBlockSide);
            y[i] = static_cast<float>(i / kBlockSide % kBlockSide);
            z[i] = static_cast<float>(i / (kBlockSide * kBlockSide));
        }
    }
};

struct BlockFrame {
    float corner[3];                 // the block's first voxel in the camera
    float axis_x[3], axis_y[3], axis_z[3];  // one voxel along each lattice axis
    bool visible;
};

BlockFrame place_block(const TsdfView& view, const int32_t* block) {
    const double* m = view.cam_from_grid;
    BlockFrame f;
    double center[3], radius = 0;
    for (int k = 0; k < 3; ++k) {
        const double* row = m + 4 * k;
        const double corner = kBlockSide * (row[0] * block[0] + row[1] * block[1] + row[2] * block[2]) + row[3];
        f.corner[k] = static_cast<float>(corner);
        f.axis_x[k] = static_cast<float>(row[0]);
        f.axis_y[k] = static_cast<float>(row[1]);
        f.axis_z[k] = static_cast<float>(row[2]);
        center[k] = corner + 0.5 * (kBlockSide - 1) * (row[0] + row[1] + row[2]);
        radius += row[0] * row[0] + row[1] * row[1] + row[2] * row[2];
    }
    radius = 0.5 * (kBlockSide - 1) * std::sqrt(radius);  // the rows are the axes' components: Σ = 3 voxel²
    const double x = center[0], y = center[1], z = center[2];
    const double left = view.cx, right = view.width - view.cx, top = view.cy, bottom = view.height - view.cy;
    f.visible = z > -radius && view.fx * x + left * z > -radius * std::hypot(view.fx, left) &&
                right * z - view.fx * x > -radius * std::hypot(view.fx, right) &&
                view.fy * y + top * z > -radius * std::hypot(view.fy, top) &&
                bottom * z - view.fy * y > -radius * std::hypot(view.fy, bottom);
    return f;
}

struct Taps {
    int32_t nearest[kLanes], a[kLanes], b[kLanes], c[kLanes], d[kLanes];
    float s[kLanes], t[kLanes];
};

// Pixel indices around (u, v), which lie inside the picture.
void find_taps(const TsdfView& view, Pack u, Pack v, Taps& taps) {
    float us[kLanes], vs[kLanes];
    store(us, u);
    store(vs, v);
    const int32_t width = view.width, height = view.height;
    for (int i = 0; i < kLanes; ++i) {
        const float x = us[i] - 0.5f > 0.0f ? us[i] - 0.5f : 0.0f, y = vs[i] - 0.5f > 0.0f ? vs[i] - 0.5f : 0.0f;
        const int32_t x0 = static_cast<int32_t>(x), y0 = static_cast<int32_t>(y);
        const int32_t x1 = x0 + 1 < width ? x0 + 1 : x0, y1 = y0 + 1 < height ? y0 + 1 : y0;
        taps.s[i] = x - static_cast<float>(x0);
        taps.t[i] = y - static_cast<float>(y0);
        taps.a[i] = y0 * width + x0;
        taps.b[i] = y0 * width + x1;
        taps.c[i] = y1 * width + x0;
        taps.d[i] = y1 * width + x1;
        taps.nearest[i] = static_cast<int32_t>(vs[i]) * width + static_cast<int32_t>(us[i]);
    }
}

void add_color(const TsdfIntegrateParams& p, const Taps& taps, Pack weight, float* color) {
    const int64_t plane = static_cast<int64_t>(p.view.width) * p.view.height;
    for (int k = 0; k < 3; ++k) {
        float* sum = color + k * kBlockVoxels;
        store(sum, fma_(weight, gather(p.view.color + k * plane, taps.nearest), load(sum)));
    }
    float* sum = color + 3 * kBlockVoxels;
    store(sum, load(sum) + weight);
}

void integrate_block(const TsdfIntegrateParams& p, const LocalCoordinates& local, int64_t block) {
    const TsdfView& view = p.view;
    const BlockFrame f = place_block(view, p.blocks + 3 * block);
    if (!f.visible) return;
    const Pack fx(view.fx), fy(view.fy), cx(view.cx), cy(view.cy), zero(0.0f), one(1.0f);
    const Pack width(static_cast<float>(view.width)), height(static_cast<float>(view.height));
    const Pack inverse_truncation(1.0f / p.truncation), jump(p.jump);
    float* distance_sum = p.distance_sum + block * kBlockVoxels;
    float* weight_sum = p.weight_sum + block * kBlockVoxels;
    for (int i = 0; i < kBlockVoxels; i += kLanes) {
        const Pack lx = load(local.x + i), ly = load(local.y + i), lz = load(local.z + i);
        Pack q[3];
        for (int k = 0; k < 3; ++k)
            q[k] = fma_(lx, Pack(f.axis_x[k]), fma_(ly, Pack(f.axis_y[k]), fma_(lz, Pack(f.axis_z[k]),
                                                                               Pack(f.corner[k]))));
        const Mask in_front = q[2] > zero;
        const auto pixel = project_voxel(q[0], q[1], select(in_front, q[2], one), fx, fy, cx, cy);
        const Mask inside = in_front & (pixel.u >= zero) & (pixel.u < width) & (pixel.v >= zero) & (pixel.v < height);
        if (!any(inside)) continue;
        Taps taps;
        find_taps(view, select(inside, pixel.u, zero), select(inside, pixel.v, zero), taps);
        const float* inverse = view.inverse_depth;
        const Pack inverse_depth = interpolate_inverse_depth(
            gather(inverse, taps.a), gather(inverse, taps.b), gather(inverse, taps.c), gather(inverse, taps.d),
            load(taps.s), load(taps.t), gather(inverse, taps.nearest), jump);
        const auto seen = observe_voxel(pixel.z, inverse_depth, gather(view.slant, taps.nearest),
                                        gather(view.confidence, taps.nearest), inverse_truncation);
        const Pack weight = select(inside, seen.weight, zero);
        if (!any(weight > zero)) continue;
        // A lane without weight may hold an infinite distance, which times 0 would be NaN.
        const Pack distance = select(weight > zero, seen.distance, zero);
        store(distance_sum + i, fma_(weight, distance, load(distance_sum + i)));
        store(weight_sum + i, load(weight_sum + i) + weight);
        const Pack near_weight = select(distance < one, weight, zero);
        if (view.color != nullptr && any(near_weight > zero))
            add_color(p, taps, near_weight, p.color_sum + block * 4 * kBlockVoxels + i);
    }
}

void tsdf_integrate(const TsdfIntegrateParams& p) {
    static const LocalCoordinates local;
#pragma omp parallel for schedule(dynamic, 64)
    for (int64_t block = 0; block < p.block_count; ++block) integrate_block(p, local, block);
}

void set_block_range(TsdfAllocateParams& p, int32_t x0, int32_t y0, int32_t z0, int32_t x1, int32_t y1, int32_t z1) {
    const int32_t range[6] = {x0, y0, z0, x1, y1, z1};
    for (int k = 0; k < 3; ++k) {
        p.first_block[k] = range[k];
        p.last_block[k] = range[k + 3];
    }
}

}  // namespace

void bind_tsdf(nb::module_& m) {
    auto v = nb::class_<TsdfView>(m, "TsdfView").def(nb::init<>());
    RECON_BIND_POINTER(v, TsdfView, cam_from_grid);
    RECON_BIND_POINTER(v, TsdfView, inverse_depth);
    RECON_BIND_POINTER(v, TsdfView, slant);
    RECON_BIND_POINTER(v, TsdfView, confidence);
    RECON_BIND_POINTER(v, TsdfView, color);
    RECON_BIND_VALUE(v, TsdfView, width);
    RECON_BIND_VALUE(v, TsdfView, height);
    RECON_BIND_VALUE(v, TsdfView, fx);
    RECON_BIND_VALUE(v, TsdfView, fy);
    RECON_BIND_VALUE(v, TsdfView, cx);
    RECON_BIND_VALUE(v, TsdfView, cy);
    auto a = nb::class_<TsdfAllocateParams>(m, "TsdfAllocateParams").def(nb::init<>());
    RECON_BIND_VALUE(a, TsdfAllocateParams, view);
    RECON_BIND_POINTER(a, TsdfAllocateParams, grid_from_cam);
    RECON_BIND_POINTER(a, TsdfAllocateParams, table);
    RECON_BIND_VALUE(a, TsdfAllocateParams, capacity);
    RECON_BIND_POINTER(a, TsdfAllocateParams, count);
    RECON_BIND_VALUE(a, TsdfAllocateParams, max_count);
    RECON_BIND_VALUE(a, TsdfAllocateParams, truncation);
    a.def("set_block_range", &set_block_range);
    auto i = nb::class_<TsdfIntegrateParams>(m, "TsdfIntegrateParams").def(nb::init<>());
    RECON_BIND_VALUE(i, TsdfIntegrateParams, view);
    RECON_BIND_POINTER(i, TsdfIntegrateParams, blocks);
    RECON_BIND_VALUE(i, TsdfIntegrateParams, block_count);
    RECON_BIND_POINTER(i, TsdfIntegrateParams, distance_sum);
    RECON_BIND_POINTER(i, TsdfIntegrateParams, weight_sum);
    RECON_BIND_POINTER(i, TsdfIntegrateParams, color_sum);
    RECON_BIND_VALUE(i, TsdfIntegrateParams, truncation);
    RECON_BIND_VALUE(i, TsdfIntegrateParams, jump);
    m.def("tsdf_allocate", &tsdf_allocate, nb::call_guard<nb::gil_scoped_release>());
    m.def("tsdf_integrate", &tsdf_integrate, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
