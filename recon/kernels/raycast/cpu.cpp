// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the ray caster.  The hierarchy is built by one thread with binned surface area heuristic (Wald
// 2007), so that it is the same each time.  For casting, a thread owns a block of rays and walks the tree with one
// pack of neighbouring rays at a time: a node is entered while any ray of the pack meets it.
#include <cmath>
#include <limits>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/raycast/math.h"
#include "recon/kernels/raycast/params.h"

namespace recon {
namespace {

constexpr int kBins = 16;
constexpr int kLeafTriangles = 4;
// Below this depth ranges are halved, which bounds the depth by kBalancedDepth + 31 and so the stacks.
constexpr int kBalancedDepth = 48;
constexpr int kStack = 96;
constexpr int64_t kRaysPerBlock = 2048;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Box {
    float low[3] = {kInfinity, kInfinity, kInfinity}, high[3] = {-kInfinity, -kInfinity, -kInfinity};
    void add(const Box& other) {
        for (int a = 0; a < 3; ++a) {
            low[a] = fmin_(low[a], other.low[a]);
            high[a] = fmax_(high[a], other.high[a]);
        }
    }
    float area() const {
        const float x = high[0] - low[0], y = high[1] - low[1], z = high[2] - low[2];
        return x < 0 ? 0.0f : x * y + y * z + z * x;
    }
};

Box box_of(const BvhParams& p, int32_t triangle) {
    Box box;
    for (int c = 0; c < 3; ++c) {
        const float* vertex = p.vertices + 3 * static_cast<int64_t>(p.triangles[3 * static_cast<int64_t>(triangle) + c]);
        for (int a = 0; a < 3; ++a) {
            box.low[a] = fmin_(box.low[a], vertex[a]);
            box.high[a] = fmax_(box.high[a], vertex[a]);
        }
    }
    return box;
}

float middle(const Box& box, int axis) { return 0.5f * (box.low[axis] + box.high[axis]); }

struct Split {
    int axis = -1;
    int bin = 0;
    float low = 0, scale = 0;
};

int bin_of(const Split& s, float position) {
    const int bin = static_cast<int>((position - s.low) * s.scale);
    return bin < 0 ? 0 : bin >= kBins ? kBins - 1 : bin;
}

// The cheapest of the binned splits of order[first .. first+count); axis -1 if the middles coincide.
Split best_split(const BvhParams& p, int64_t first, int64_t count) {
    Box middles;
    for (int64_t i = first; i < first + count; ++i) {
        const Box box = box_of(p, p.order[i]);
        Box point;
        for (int a = 0; a < 3; ++a) point.low[a] = point.high[a] = middle(box, a);
        middles.add(point);
    }
    Split best;
    float best_cost = kInfinity;
    for (int axis = 0; axis < 3; ++axis) {
        const float extent = middles.high[axis] - middles.low[axis];
        if (!(extent > 0)) continue;
        Split split{axis, 0, middles.low[axis], kBins / extent};
        Box boxes[kBins];
        int64_t counts[kBins] = {};
        for (int64_t i = first; i < first + count; ++i) {
            const Box box = box_of(p, p.order[i]);
            const int bin = bin_of(split, middle(box, axis));
            boxes[bin].add(box);
            ++counts[bin];
        }
        float right_cost[kBins];
        Box right;
        int64_t right_count = 0;
        for (int b = kBins - 1; b > 0; --b) {
            right.add(boxes[b]);
            right_count += counts[b];
            right_cost[b] = right.area() * static_cast<float>(right_count);
        }
        Box left;
        int64_t left_count = 0;
        for (int b = 0; b < kBins - 1; ++b) {
            left.add(boxes[b]);
            left_count += counts[b];
            const float cost = left.area() * static_cast<float>(left_count) + right_cost[b + 1];
            if (left_count > 0 && left_count < count && cost < best_cost) {
                best_cost = cost;
                best = split;
                best.bin = b;
            }
        }
    }
    return best;
}

int64_t partition(const BvhParams& p, const Split& split, int64_t first, int64_t count) {
    int64_t left = first;
    for (int64_t i = first; i < first + count; ++i) {
        if (bin_of(split, middle(box_of(p, p.order[i]), split.axis)) > split.bin) continue;
        const int32_t moved = p.order[i];
        p.order[i] = p.order[left];
        p.order[left++] = moved;
    }
    return left - first;
}

void fill_corners(const BvhParams& p) {
    for (int64_t i = 0; i < p.triangle_count; ++i) {
        const int32_t* t = p.triangles + 3 * static_cast<int64_t>(p.order[i]);
        for (int a = 0; a < 3; ++a) {
            const float corner = p.vertices[3 * static_cast<int64_t>(t[0]) + a];
            p.corners[9 * i + a] = corner;
            p.corners[9 * i + 3 + a] = p.vertices[3 * static_cast<int64_t>(t[1]) + a] - corner;
            p.corners[9 * i + 6 + a] = p.vertices[3 * static_cast<int64_t>(t[2]) + a] - corner;
        }
    }
}

void raycast_build(BvhParams& p) {
    struct Range {
        int64_t node, first, count;
        int depth;
    };
    for (int64_t i = 0; i < p.triangle_count; ++i) p.order[i] = static_cast<int32_t>(i);
    p.node_count = p.triangle_count > 0 ? 1 : 0;
    Range stack[kStack];
    int top = 0;
    float padding = 0;  // so that a ray within the plane of a box's side meets the box
    if (p.triangle_count > 0) stack[top++] = {0, 0, p.triangle_count, 0};
    while (top > 0) {
        const Range range = stack[--top];
        BvhNode& node = p.nodes[range.node];
        Box box;
        for (int64_t i = range.first; i < range.first + range.count; ++i) box.add(box_of(p, p.order[i]));
        if (range.node == 0) {
            for (int a = 0; a < 3; ++a) padding = fmax_(padding, fmax_(abs_(box.low[a]), abs_(box.high[a])));
            padding *= 4e-7f;
        }
        for (int a = 0; a < 3; ++a) {
            node.low[a] = box.low[a] - padding;
            node.high[a] = box.high[a] + padding;
        }
        if (range.count <= kLeafTriangles) {
            node.first = static_cast<int32_t>(range.first);
            node.count = static_cast<int32_t>(range.count);
            continue;
        }
        int64_t left = 0;
        if (range.depth < kBalancedDepth) {
            const Split split = best_split(p, range.first, range.count);
            if (split.axis >= 0) left = partition(p, split, range.first, range.count);
        }
        if (left == 0 || left == range.count) left = range.count / 2;
        node.first = static_cast<int32_t>(p.node_count);
        node.count = 0;
        stack[top++] = {p.node_count + 1, range.first + left, range.count - left, range.depth + 1};
        stack[top++] = {p.node_count, range.first, left, range.depth + 1};
        p.node_count += 2;
    }
    fill_corners(p);
}

Pack safe_inverse(Pack d) {
    const Pack tiny(1e-20f);
    return Pack(1.0f) / select(abs_(d) < tiny, tiny, d);
}

struct RayPack {
    Vec3<Pack> origin, direction, inverse;
    Pack nearest, farthest, u, v;
    int32_t hits[kLanes];
};

Vec3<Pack> broadcast(const float* p) { return {Pack(p[0]), Pack(p[1]), Pack(p[2])}; }

void intersect_leaf(const RaycastParams& p, const BvhNode& node, RayPack& rays) {
    for (int32_t i = node.first; i < node.first + node.count; ++i) {
        const float* c = p.corners + 9 * static_cast<int64_t>(i);
        const TriangleHit<Pack> h =
            intersect_triangle(rays.origin, rays.direction, broadcast(c), broadcast(c + 3), broadcast(c + 6),
                               rays.nearest, rays.farthest, Pack(2e-6f));
        if (!any(h.hit)) continue;
        rays.farthest = select(h.hit, h.distance, rays.farthest);
        rays.u = select(h.hit, h.u, rays.u);
        rays.v = select(h.hit, h.v, rays.v);
        const uint32_t lanes = bits(h.hit);
        for (int l = 0; l < kLanes; ++l)
            if (lanes >> l & 1u) rays.hits[l] = p.order[i];
    }
}

void walk(const RaycastParams& p, RayPack& rays, Mask live) {
    // The far child is pushed first; which one is far is told by the first live ray.
    int lead = 0;
    while (!(bits(live) >> lead & 1u)) ++lead;
    float d[3][kLanes];
    store(d[0], rays.direction.x);
    store(d[1], rays.direction.y);
    store(d[2], rays.direction.z);
    int32_t stack[kStack];
    int top = 0;
    stack[top++] = 0;
    const Pack dead(-1.0f);
    rays.farthest = select(live, rays.farthest, dead);
    while (top > 0) {
        const BvhNode& node = p.nodes[stack[--top]];
        const Mask met = intersect_box(rays.origin, rays.inverse, broadcast(node.low), broadcast(node.high),
                                       rays.nearest, rays.farthest);
        if (!any(met)) continue;
        if (node.count > 0) {
            intersect_leaf(p, node, rays);
            if (!p.any_hit) continue;
            bool done = true;
            for (int l = 0; l < kLanes; ++l) done &= rays.hits[l] >= 0 || !(bits(live) >> l & 1u);
            if (done) return;
            continue;
        }
        const BvhNode &a = p.nodes[node.first], &b = p.nodes[node.first + 1];
        float ahead = 0;
        for (int axis = 0; axis < 3; ++axis)
            ahead += ((b.low[axis] + b.high[axis]) - (a.low[axis] + a.high[axis])) * d[axis][lead];
        stack[top++] = ahead > 0 ? node.first + 1 : node.first;
        stack[top++] = ahead > 0 ? node.first : node.first + 1;
    }
}

void cast_pack(const RaycastParams& p, int64_t first, int count) {
    float lanes[6][kLanes];
    for (int l = 0; l < kLanes; ++l) {
        const int64_t ray = first + (l < count ? l : 0);
        for (int a = 0; a < 3; ++a) {
            lanes[a][l] = p.origins[3 * ray + a];
            lanes[3 + a][l] = p.directions[3 * ray + a];
        }
    }
    RayPack rays;
    rays.origin = {load(lanes[0]), load(lanes[1]), load(lanes[2])};
    rays.direction = {load(lanes[3]), load(lanes[4]), load(lanes[5])};
    rays.inverse = {safe_inverse(rays.direction.x), safe_inverse(rays.direction.y), safe_inverse(rays.direction.z)};
    rays.nearest = Pack(p.min_distance);
    rays.farthest = Pack(p.max_distance);
    rays.u = rays.v = Pack(0.0f);
    for (int l = 0; l < kLanes; ++l) rays.hits[l] = -1;
    if (p.triangle_count > 0) walk(p, rays, first_lanes(count));
    float distance[kLanes], u[kLanes], v[kLanes];
    store(distance, rays.farthest);
    store(u, rays.u);
    store(v, rays.v);
    for (int l = 0; l < count; ++l) {
        const bool hit = rays.hits[l] >= 0;
        p.distances[first + l] = hit ? distance[l] : kInfinity;
        p.hits[first + l] = rays.hits[l];
        p.barycentrics[2 * (first + l)] = u[l];
        p.barycentrics[2 * (first + l) + 1] = v[l];
    }
}

void raycast(const RaycastParams& p) {
    const int64_t blocks = (p.ray_count + kRaysPerBlock - 1) / kRaysPerBlock;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * kRaysPerBlock;
        const int64_t last = first + kRaysPerBlock < p.ray_count ? first + kRaysPerBlock : p.ray_count;
        for (int64_t ray = first; ray < last; ray += kLanes)
            cast_pack(p, ray, static_cast<int>(ray + kLanes < last ? kLanes : last - ray));
    }
}

}  // namespace

void bind_raycast(nb::module_& m) {
    auto b = nb::class_<BvhParams>(m, "BvhParams").def(nb::init<>());
    RECON_BIND_POINTER(b, BvhParams, vertices);
    RECON_BIND_POINTER(b, BvhParams, triangles);
    RECON_BIND_POINTER(b, BvhParams, nodes);
    RECON_BIND_POINTER(b, BvhParams, corners);
    RECON_BIND_POINTER(b, BvhParams, order);
    RECON_BIND_VALUE(b, BvhParams, triangle_count);
    RECON_BIND_VALUE(b, BvhParams, node_count);
    auto c = nb::class_<RaycastParams>(m, "RaycastParams").def(nb::init<>());
    RECON_BIND_POINTER(c, RaycastParams, nodes);
    RECON_BIND_POINTER(c, RaycastParams, corners);
    RECON_BIND_POINTER(c, RaycastParams, order);
    RECON_BIND_POINTER(c, RaycastParams, origins);
    RECON_BIND_POINTER(c, RaycastParams, directions);
    RECON_BIND_POINTER(c, RaycastParams, distances);
    RECON_BIND_POINTER(c, RaycastParams, hits);
    RECON_BIND_POINTER(c, RaycastParams, barycentrics);
    RECON_BIND_VALUE(c, RaycastParams, ray_count);
    RECON_BIND_VALUE(c, RaycastParams, triangle_count);
    RECON_BIND_VALUE(c, RaycastParams, min_distance);
    RECON_BIND_VALUE(c, RaycastParams, max_distance);
    RECON_BIND_VALUE(c, RaycastParams, any_hit);
    m.def("raycast_build", &raycast_build, nb::call_guard<nb::gil_scoped_release>());
    m.def("raycast", &raycast, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
