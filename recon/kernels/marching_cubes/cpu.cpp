// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of marching cubes.  A thread owns a block; a lattice point owns the three edges that start at it and
// the cell in its positive octant.  The first pass marks the crossed edges and counts; the second writes each vertex
// once, at the place that its block's offset and its rank among the block's marks give, and cells look the places up.
#include <cmath>
#include <limits>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/marching_cubes/math.h"
#include "recon/kernels/marching_cubes/params.h"

namespace recon {
namespace {

constexpr int kSide = 8, kVoxels = 512, kWords = 24;
constexpr int kReach = 1;                      // lattice points known before the block's first
constexpr int kWidth = kSide + 2 * kReach + 1;  // -1 .. 9

// A block's distances with a margin: NaN where unobserved.
struct Field {
    float value[kWidth][kWidth][kWidth];  // [z][y][x]
    float at(int x, int y, int z) const { return value[z + kReach][y + kReach][x + kReach]; }
};

int side_of(int i) { return i < 0 ? 0 : i >= kSide ? 2 : 1; }

int32_t neighbor_at(const MarchingCubesParams& p, int64_t block, int x, int y, int z) {
    return p.neighbors[block * 27 + side_of(z) * 9 + side_of(y) * 3 + side_of(x)];
}

int local_index(int x, int y, int z) {
    return ((z & (kSide - 1)) * kSide + (y & (kSide - 1))) * kSide + (x & (kSide - 1));
}

void load_field(const MarchingCubesParams& p, int64_t block, int low, int high, Field& field) {
    const float unknown = std::numeric_limits<float>::quiet_NaN();
    for (int z = low; z <= high; ++z)
        for (int y = low; y <= high; ++y)
            for (int x = low; x <= high; ++x) {
                const int32_t owner = neighbor_at(p, block, x, y, z);
                float value = unknown;
                if (owner >= 0) {
                    const int64_t i = static_cast<int64_t>(owner) * kVoxels + local_index(x, y, z);
                    const float weight = p.weight_sum[i];
                    if (weight >= p.min_weight && weight > 0.0f) value = p.distance_sum[i] / weight;
                }
                field.value[z + kReach][y + kReach][x + kReach] = value;
            }
}

bool known(float f) { return f == f; }

bool crossed(float a, float b) { return known(a) && known(b) && (a < 0.0f) != (b < 0.0f); }

// The cell's case, or -1 when a corner is unobserved.
int cell_case(const Field& field, int x, int y, int z) {
    int result = 0;
    for (int c = 0; c < 8; ++c) {
        const float f = field.at(x + (c & 1), y + (c >> 1 & 1), z + (c >> 2));
        if (!known(f)) return -1;
        result |= (f < 0.0f) << c;
    }
    return result;
}

void count_block(const MarchingCubesParams& p, int64_t block) {
    Field field;
    load_field(p, block, 0, kSide, field);
    uint64_t* marks = p.crossings + block * kWords;
    for (int w = 0; w < kWords; ++w) marks[w] = 0;
    int64_t vertices = 0, triangles = 0;
    for (int i = 0; i < kVoxels; ++i) {
        const int x = i % kSide, y = i / kSide % kSide, z = i / (kSide * kSide);
        const float here = field.at(x, y, z);
        const float ahead[3] = {field.at(x + 1, y, z), field.at(x, y + 1, z), field.at(x, y, z + 1)};
        for (int axis = 0; axis < 3; ++axis) {
            if (!crossed(here, ahead[axis])) continue;
            const int bit = axis * kVoxels + i;
            marks[bit / 64] |= 1ull << (bit % 64);
            ++vertices;
        }
        const int which = cell_case(field, x, y, z);
        if (which > 0) triangles += p.table[which * p.table_stride];
    }
    p.vertex_counts[block] = vertices;
    p.triangle_counts[block] = triangles;
}

// ---- second pass ---------------------------------------------------------------------------------------------------

void gradient(const Field& field, int x, int y, int z, float* g) {
    const float here = field.at(x, y, z);
    const float before[3] = {field.at(x - 1, y, z), field.at(x, y - 1, z), field.at(x, y, z - 1)};
    const float after[3] = {field.at(x + 1, y, z), field.at(x, y + 1, z), field.at(x, y, z + 1)};
    for (int k = 0; k < 3; ++k) g[k] = slope(before[k], here, after[k], known(before[k]), known(after[k]));
}

void write_color(const MarchingCubesParams& p, int64_t block, const int* from, const int* to, float t, float* out) {
    float sums[3] = {0, 0, 0}, total = 0;
    const int* ends[2] = {from, to};
    for (int e = 0; e < 2; ++e) {
        const int32_t owner = neighbor_at(p, block, ends[e][0], ends[e][1], ends[e][2]);
        const float* c = p.color_sum + static_cast<int64_t>(owner) * 4 * kVoxels +
                         local_index(ends[e][0], ends[e][1], ends[e][2]);
        const float weight = c[3 * kVoxels];
        if (!(weight > 0.0f)) continue;
        const float share = e == 0 ? 1.0f - t : t;
        for (int k = 0; k < 3; ++k) sums[k] += share * c[k * kVoxels] / weight;
        total += share;
    }
    for (int k = 0; k < 3; ++k) out[k] = total > 0.0f ? sums[k] / total : 0.0f;
}

void write_vertex(const MarchingCubesParams& p, const Field& field, int64_t block, int bit, int64_t vertex) {
    const int axis = bit / kVoxels, i = bit % kVoxels;
    const int from[3] = {i % kSide, i / kSide % kSide, i / (kSide * kSide)};
    int to[3] = {from[0], from[1], from[2]};
    ++to[axis];
    const float t = crossing(field.at(from[0], from[1], from[2]), field.at(to[0], to[1], to[2]));
    float g0[3], g1[3], n[3], length = 0;
    gradient(field, from[0], from[1], from[2], g0);
    gradient(field, to[0], to[1], to[2], g1);
    for (int k = 0; k < 3; ++k) {
        n[k] = g0[k] + t * (g1[k] - g0[k]);
        length += n[k] * n[k];
        p.vertices[3 * vertex + k] = static_cast<double>(p.blocks[3 * block + k]) * kSide + from[k] + (k == axis ? t : 0);
    }
    const float inverse = length > 0.0f ? 1.0f / std::sqrt(length) : 0.0f;
    for (int k = 0; k < 3; ++k) p.normals[3 * vertex + k] = n[k] * inverse;
    if (p.color_sum != nullptr) write_color(p, block, from, to, t, p.colors + 3 * vertex);
}

// First vertex number of each 64 edges of a block.
struct Ranks {
    int64_t first[kWords];
    const uint64_t* marks;
};

void load_ranks(const MarchingCubesParams& p, int32_t block, Ranks& ranks) {
    ranks.marks = p.crossings + static_cast<int64_t>(block) * kWords;
    int64_t next = p.vertex_offsets[block];
    for (int w = 0; w < kWords; ++w) {
        ranks.first[w] = next;
        next += __builtin_popcountll(ranks.marks[w]);
    }
}

// The vertex on edge `edge` of the cell at (x, y, z); table.py numbers the edges.
int64_t vertex_on(const Ranks* ranks, int x, int y, int z, int edge) {
    const int axis = edge / 4, rest = edge % 4;
    const int start[3] = {axis == 0 ? 0 : rest & 1, axis == 1 ? 0 : axis == 0 ? rest & 1 : rest >> 1,
                          axis == 2 ? 0 : rest >> 1};
    x += start[0];
    y += start[1];
    z += start[2];
    const Ranks& r = ranks[(x == kSide) | (y == kSide) << 1 | (z == kSide) << 2];
    const int bit = axis * kVoxels + local_index(x, y, z);
    const uint64_t below = r.marks[bit / 64] & ((1ull << (bit % 64)) - 1);
    return r.first[bit / 64] + __builtin_popcountll(below);
}

void write_faces(const MarchingCubesParams& p, const Field& field, int64_t block) {
    Ranks ranks[8];
    for (int c = 0; c < 8; ++c) {
        const int32_t owner =
            neighbor_at(p, block, (c & 1) * kSide, (c >> 1 & 1) * kSide, (c >> 2) * kSide);
        if (owner >= 0) load_ranks(p, owner, ranks[c]);
    }
    int32_t* face = p.faces + 3 * p.triangle_offsets[block];
    for (int i = 0; i < kVoxels; ++i) {
        const int x = i % kSide, y = i / kSide % kSide, z = i / (kSide * kSide);
        const int which = cell_case(field, x, y, z);
        if (which < 0) continue;
        const int8_t* row = p.table + which * p.table_stride;
        for (int k = 0; k < 3 * row[0]; ++k) *face++ = static_cast<int32_t>(vertex_on(ranks, x, y, z, row[1 + k]));
    }
}

void mesh_block(const MarchingCubesParams& p, int64_t block) {
    if (p.vertex_counts[block] == 0 && p.triangle_counts[block] == 0) return;
    Field field;
    load_field(p, block, -kReach, kSide + kReach, field);
    int64_t vertex = p.vertex_offsets[block];
    const uint64_t* marks = p.crossings + block * kWords;
    for (int bit = 0; bit < 3 * kVoxels; ++bit)
        if (marks[bit / 64] >> (bit % 64) & 1) write_vertex(p, field, block, bit, vertex++);
    if (p.triangle_counts[block] > 0) write_faces(p, field, block);
}

void marching_cubes_count(const MarchingCubesParams& p) {
#pragma omp parallel for schedule(dynamic, 64)
    for (int64_t block = 0; block < p.block_count; ++block) count_block(p, block);
}

void marching_cubes_write(const MarchingCubesParams& p) {
#pragma omp parallel for schedule(dynamic, 64)
    for (int64_t block = 0; block < p.block_count; ++block) mesh_block(p, block);
}

}  // namespace

void bind_marching_cubes(nb::module_& m) {
    auto c = nb::class_<MarchingCubesParams>(m, "MarchingCubesParams").def(nb::init<>());
    RECON_BIND_POINTER(c, MarchingCubesParams, blocks);
    RECON_BIND_POINTER(c, MarchingCubesParams, neighbors);
    RECON_BIND_POINTER(c, MarchingCubesParams, distance_sum);
    RECON_BIND_POINTER(c, MarchingCubesParams, weight_sum);
    RECON_BIND_POINTER(c, MarchingCubesParams, color_sum);
    RECON_BIND_POINTER(c, MarchingCubesParams, table);
    RECON_BIND_VALUE(c, MarchingCubesParams, block_count);
    RECON_BIND_VALUE(c, MarchingCubesParams, table_stride);
    RECON_BIND_VALUE(c, MarchingCubesParams, min_weight);
    RECON_BIND_POINTER(c, MarchingCubesParams, crossings);
    RECON_BIND_POINTER(c, MarchingCubesParams, vertex_counts);
    RECON_BIND_POINTER(c, MarchingCubesParams, triangle_counts);
    RECON_BIND_POINTER(c, MarchingCubesParams, vertex_offsets);
    RECON_BIND_POINTER(c, MarchingCubesParams, triangle_offsets);
    RECON_BIND_POINTER(c, MarchingCubesParams, vertices);
    RECON_BIND_POINTER(c, MarchingCubesParams, normals);
    RECON_BIND_POINTER(c, MarchingCubesParams, colors);
    RECON_BIND_POINTER(c, MarchingCubesParams, faces);
    m.def("marching_cubes_count", &marching_cubes_count, nb::call_guard<nb::gil_scoped_release>());
    m.def("marching_cubes_write", &marching_cubes_write, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
