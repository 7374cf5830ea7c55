// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of marching cubes.  A block owns a block of 8×8×8 lattice points, a thread every 256th of them: the
// three edges that start at a point and the cell in its positive octant.  The first kernel marks the crossed edges and
// counts; the second writes each vertex once and the triangles in the order of their cells.  Mirrors cpu.cpp.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/marching_cubes/math.h"
#include "recon/kernels/marching_cubes/params.h"

namespace recon {
namespace {

constexpr int kSide = 8, kVoxels = 512, kMeshThreads = 256;
constexpr int kWords = 48;      // of 32 bits: three axes of 512 edges
constexpr int kWidth = kSide + 3;  // lattice points -1 .. 9

// A block's distances with a margin: NaN where unobserved.
struct Field {
    float value[kWidth * kWidth * kWidth];
    RECON_FN float at(int x, int y, int z) const { return value[((z + 1) * kWidth + y + 1) * kWidth + x + 1]; }
};

RECON_FN int side_of(int i) { return i < 0 ? 0 : i >= kSide ? 2 : 1; }
RECON_FN int32_t neighbor_at(const MarchingCubesParams& p, int64_t block, int x, int y, int z) {
    return p.neighbors[block * 27 + side_of(z) * 9 + side_of(y) * 3 + side_of(x)];
}
RECON_FN int local_index(int x, int y, int z) {
    return ((z & (kSide - 1)) * kSide + (y & (kSide - 1))) * kSide + (x & (kSide - 1));
}
RECON_FN bool known(float f) { return f == f; }
RECON_FN bool crossed(float a, float b) { return known(a) && known(b) && (a < 0.0f) != (b < 0.0f); }

RECON_FN void load_field(const MarchingCubesParams& p, int64_t block, Field& field) {
    for (int at = static_cast<int>(threadIdx.x); at < kWidth * kWidth * kWidth; at += kMeshThreads) {
        const int x = at % kWidth - 1, y = at / kWidth % kWidth - 1, z = at / (kWidth * kWidth) - 1;
        const int32_t owner = neighbor_at(p, block, x, y, z);
        float value = __uint_as_float(0x7fffffffu);
        if (owner >= 0) {
            const int64_t i = static_cast<int64_t>(owner) * kVoxels + local_index(x, y, z);
            const float weight = p.weight_sum[i];
            if (weight >= p.min_weight && weight > 0.0f) value = p.distance_sum[i] / weight;
        }
        field.value[at] = value;
    }
}

// The cell's case, or -1 when a corner is unobserved.
RECON_FN int cell_case(const Field& field, int x, int y, int z) {
    int result = 0;
    bool whole = true;
    for (int c = 0; c < 8; ++c) {
        const float f = field.at(x + (c & 1), y + (c >> 1 & 1), z + (c >> 2));
        whole = whole && known(f);
        result |= (f < 0.0f ? 1 : 0) << c;
    }
    return whole ? result : -1;
}
RECON_FN int triangles_of(const MarchingCubesParams& p, int which) {
    return which > 0 ? p.table[which * p.table_stride] : 0;
}

// ---- second pass ---------------------------------------------------------------------------------------------------

// Of this block and its neighbours in the positive octant: the marks, and the first vertex of each 32 edges.
struct Ranks {
    uint32_t marks[8][kWords];
    int32_t first[8][kWords];
};
struct MeshScratch {
    Field field;
    Ranks ranks;
    PerWarp<int> sums;
};

RECON_FN void load_ranks(const MarchingCubesParams& p, int64_t block, Ranks& ranks) {
    for (int at = static_cast<int>(threadIdx.x); at < 8 * kWords; at += kMeshThreads) {
        const int c = at / kWords;
        const int32_t owner = neighbor_at(p, block, (c & 1) * kSide, (c >> 1 & 1) * kSide, (c >> 2) * kSide);
        const uint32_t* marks = reinterpret_cast<const uint32_t*>(p.crossings);
        ranks.marks[c][at % kWords] = owner < 0 ? 0u : marks[static_cast<int64_t>(owner) * kWords + at % kWords];
    }
    __syncthreads();
    if (threadIdx.x < 8) {
        const int c = static_cast<int>(threadIdx.x);
        const int32_t owner = neighbor_at(p, block, (c & 1) * kSide, (c >> 1 & 1) * kSide, (c >> 2) * kSide);
        int32_t next = owner < 0 ? 0 : static_cast<int32_t>(p.vertex_offsets[owner]);
        for (int w = 0; w < kWords; ++w) {
            ranks.first[c][w] = next;
            next += __popc(ranks.marks[c][w]);
        }
    }
}

RECON_FN int32_t vertex_at(const Ranks& ranks, int corner, int bit) {
    const uint32_t below = ranks.marks[corner][bit / 32] & lanes_below(bit % 32);
    return ranks.first[corner][bit / 32] + __popc(below);
}

// The vertex on edge `edge` of the cell at (x, y, z); table.py numbers the edges.
RECON_FN int32_t vertex_on(const Ranks& ranks, int x, int y, int z, int edge) {
    const int axis = edge / 4, rest = edge % 4;
    x += axis == 0 ? 0 : rest & 1;
    y += axis == 1 ? 0 : axis == 0 ? rest & 1 : rest >> 1;
    z += axis == 2 ? 0 : rest >> 1;
    const int corner = (x == kSide ? 1 : 0) | (y == kSide ? 2 : 0) | (z == kSide ? 4 : 0);
    return vertex_at(ranks, corner, axis * kVoxels + local_index(x, y, z));
}

struct Slopes {
    float x, y, z;
};
RECON_FN float slope_along(float before, float here, float after) {
    return slope(before, here, after, known(before), known(after));
}
RECON_FN Slopes slopes_at(const Field& f, int x, int y, int z) {
    const float here = f.at(x, y, z);
    return {slope_along(f.at(x - 1, y, z), here, f.at(x + 1, y, z)),
            slope_along(f.at(x, y - 1, z), here, f.at(x, y + 1, z)),
            slope_along(f.at(x, y, z - 1), here, f.at(x, y, z + 1))};
}

struct Color {
    float of[3], share;
};
RECON_FN void add_color(const MarchingCubesParams& p, int64_t block, int x, int y, int z, float share, Color& sum) {
    const float* c = p.color_sum + static_cast<int64_t>(neighbor_at(p, block, x, y, z)) * 4 * kVoxels +
                     local_index(x, y, z);
    const float weight = c[3 * kVoxels];
    if (!(weight > 0.0f)) return;
    for (int k = 0; k < 3; ++k) sum.of[k] += share * c[k * kVoxels] / weight;
    sum.share += share;
}

RECON_FN void write_vertex(const MarchingCubesParams& p, const Field& field, int64_t block, int axis, int voxel,
                           int64_t vertex) {
    const int x = voxel % kSide, y = voxel / kSide % kSide, z = voxel / (kSide * kSide);
    const int x1 = x + (axis == 0 ? 1 : 0), y1 = y + (axis == 1 ? 1 : 0), z1 = z + (axis == 2 ? 1 : 0);
    const float t = crossing(field.at(x, y, z), field.at(x1, y1, z1));
    const Slopes g0 = slopes_at(field, x, y, z), g1 = slopes_at(field, x1, y1, z1);
    const float n[] = {g0.x + t * (g1.x - g0.x), g0.y + t * (g1.y - g0.y), g0.z + t * (g1.z - g0.z)};
    const float length = n[0] * n[0] + n[1] * n[1] + n[2] * n[2];
    const float inverse = length > 0.0f ? 1.0f / sqrt_(length) : 0.0f;
    const int from[] = {x, y, z};
    for (int k = 0; k < 3; ++k) {
        const double moved = k == axis ? static_cast<double>(t) : 0.0;
        p.vertices[3 * vertex + k] = static_cast<double>(p.blocks[3 * block + k]) * kSide + from[k] + moved;
        p.normals[3 * vertex + k] = n[k] * inverse;
    }
    if (p.color_sum == nullptr) return;
    Color sum{{0.0f, 0.0f, 0.0f}, 0.0f};
    add_color(p, block, x, y, z, 1.0f - t, sum);
    add_color(p, block, x1, y1, z1, t, sum);
    for (int k = 0; k < 3; ++k) p.colors[3 * vertex + k] = sum.share > 0.0f ? sum.of[k] / sum.share : 0.0f;
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(marching_cubes_count, MarchingCubesParams, 256) {
    RECON_SHARED(Field, field);
    RECON_SHARED(PerWarp<int>, sums);
    const int64_t block = blockIdx.x;
    load_field(p, block, field);
    __syncthreads();
    uint32_t* marks = reinterpret_cast<uint32_t*>(p.crossings) + block * kWords;
    int vertices = 0, triangles = 0, total;
    for (int i = static_cast<int>(threadIdx.x); i < kVoxels; i += kMeshThreads) {
        const int x = i % kSide, y = i / kSide % kSide, z = i / (kSide * kSide);
        const float here = field.at(x, y, z);
        const float ahead[] = {field.at(x + 1, y, z), field.at(x, y + 1, z), field.at(x, y, z + 1)};
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) {
            const unsigned word = __ballot_sync(kAllLanes, crossed(here, ahead[axis]));
            if (lane_number() == 0) {
                marks[(axis * kVoxels + i) / 32] = word;
                vertices += __popc(word);
            }
        }
        triangles += triangles_of(p, cell_case(field, x, y, z));
    }
    block_exclusive_sum(vertices, sums, total);
    if (threadIdx.x == 0) p.vertex_counts[block] = total;
    block_exclusive_sum(triangles, sums, total);
    if (threadIdx.x == 0) p.triangle_counts[block] = total;
}

RECON_KERNEL(marching_cubes_write, MarchingCubesParams, 256) {
    RECON_SHARED(MeshScratch, s);
    const int64_t block = blockIdx.x;
    if (p.vertex_counts[block] == 0 && p.triangle_counts[block] == 0) return;
    load_field(p, block, s.field);
    load_ranks(p, block, s.ranks);
    __syncthreads();
    int64_t before = p.triangle_offsets[block];
    for (int i = static_cast<int>(threadIdx.x); i < kVoxels; i += kMeshThreads) {
        const int x = i % kSide, y = i / kSide % kSide, z = i / (kSide * kSide);
        for (int axis = 0; axis < 3; ++axis) {
            const int bit = axis * kVoxels + i;
            if (((s.ranks.marks[0][bit / 32] >> (bit % 32)) & 1u) != 0)
                write_vertex(p, s.field, block, axis, i, vertex_at(s.ranks, 0, bit));
        }
        const int which = cell_case(s.field, x, y, z), count = triangles_of(p, which);
        int total;
        const int64_t first = before + block_exclusive_sum(count, s.sums, total);
        before += total;
        for (int k = 0; k < 3 * count; ++k)
            p.faces[3 * first + k] = vertex_on(s.ranks, x, y, z, p.table[which * p.table_stride + 1 + k]);
    }
}
