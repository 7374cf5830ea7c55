// SPDX-License-Identifier: Apache-2.0
// Random numbers, the spheres around cells, and whether a camera sees one.
#pragma once
#include "recon/kernels/common/simd.h"
#include "recon/kernels/occupancy/levels.h"

namespace recon {

constexpr float kNeverOccupied = -1.0f;
constexpr float kOpaque = 1.0f;  // the most that a density counts

// The last steps of MurmurHash3 (Appleby): each bit depends on all.
RECON_FN uint32_t mixed(uint32_t word) {
    word = (word ^ (word >> 16)) * 0x85ebca6bu;
    word = (word ^ (word >> 13)) * 0xc2b2ae35u;
    return word ^ (word >> 16);
}
RECON_FN uint32_t random_word(uint32_t key, uint32_t number) { return mixed(mixed(number) + key); }

// Part `number` of `count` equal parts of `total` cells, and on to the next part without a division.
struct Part {
    int64_t begin, end, rest, each, left, count, number;
};
RECON_FN void find_end(Part& part) {
    part.end = part.begin + part.each;
    part.rest += part.left;
    if (part.rest >= part.count) ++part.end, part.rest -= part.count;
}
RECON_FN Part part_of(int64_t number, int64_t count, int64_t total) {
    const int64_t product = number * total;
    Part part{product / count, 0, product % count, total / count, total % count, count, number};
    find_end(part);
    return part;
}
RECON_FN void next_part(Part& part) {
    ++part.number;
    part.begin = part.end;
    find_end(part);
}
// One of the cells of a part; the random number is that of entry `number + first`.
RECON_FN int64_t rank_in(const Part& part, uint32_t key, int64_t first) {
    const uint64_t word = random_word(key, static_cast<uint32_t>(4 * (part.number + first)));
    return part.begin + static_cast<int64_t>((word * static_cast<uint64_t>(part.end - part.begin)) >> 32);
}

// What a density becomes: `old` is not below 0 (infinite: not known), `found` is not below 0.
RECON_FN float faded(float old, float decay) { return old > 1e30f ? 0.0f : old * decay; }

template <class F>
struct Sphere {
    F x, y, z, radius;
};

// A point of the unit cube in the world, less the centre and in half sizes.
template <bool kContracted, class F>
RECON_FN void from_unit(F (&u)[3]) {
    if constexpr (!kContracted) {
        for (int axis = 0; axis < 3; ++axis) u[axis] = fma_(F(2.0f), u[axis], F(-1.0f));
    } else {
        for (int axis = 0; axis < 3; ++axis) u[axis] = fma_(F(4.0f), u[axis], F(-2.0f));
        const F m = fmax_(fmax_(fmax_(abs_(u[0]), abs_(u[1])), abs_(u[2])), F(1.0f));
        const F scale = F(1.0f) / (m * (F(2.0f) - m));
        for (int axis = 0; axis < 3; ++axis) u[axis] = u[axis] * scale;
    }
}

// The sphere around a cell; those at the faces of a contracted cube end halfway to it.
template <bool kContracted, class F>
RECON_FN Sphere<F> sphere_of(F x, F y, F z, float resolution, float half_size) {
    const F size(1.0f / resolution), least(kContracted ? 0.5f / resolution : 0.0f), most = F(1.0f) - least;
    const auto corner = [&](float dx, float dy, float dz, F(&to)[3]) {
        to[0] = fmin_(fmax_((x + F(dx)) * size, least), most);
        to[1] = fmin_(fmax_((y + F(dy)) * size, least), most);
        to[2] = fmin_(fmax_((z + F(dz)) * size, least), most);
        from_unit<kContracted>(to);
    };
    F center[3], square(0.0f);
    corner(0.5f, 0.5f, 0.5f, center);
    for (int number = 0; number < 8; ++number) {
        F at[3];
        corner(static_cast<float>(number & 1), static_cast<float>(number >> 1 & 1), static_cast<float>(number >> 2), at);
        const F dx = at[0] - center[0], dy = at[1] - center[1], dz = at[2] - center[2];
        square = fmax_(square, fma_(dx, dx, fma_(dy, dy, dz * dz)));
    }
    const F scale(half_size);
    return {center[0] * scale, center[1] * scale, center[2] * scale, sqrt_(square) * scale};
}

// What a camera says of a sphere; a row of cameras_table in op.py.
template <class F>
struct Sight {
    MaskOf<F> seen, in_the_way;
};
template <class F>
RECON_FN Sight<F> sight_of(const float* camera, const Sphere<F>& sphere) {
    const auto along = [&](const float* axis) {
        return fma_(F(axis[0]), sphere.x, fma_(F(axis[1]), sphere.y, fma_(F(axis[2]), sphere.z, F(axis[3]))));
    };
    const F x = along(camera), y = along(camera + 4), z = along(camera + 8), near(camera[12]);
    F inside = fmin_(fma_(F(camera[13]), z, F(camera[14]) * x), fma_(F(camera[15]), z, F(camera[16]) * x));
    inside = fmin_(inside, fmin_(fma_(F(camera[17]), z, F(camera[18]) * y), fma_(F(camera[19]), z, F(camera[20]) * y)));
    const F farthest = z + sphere.radius;
    return {(inside >= -sphere.radius) & (farthest >= near) & (farthest > F(0.0f)),
            (inside >= sphere.radius) & (farthest < near)};
}

}  // namespace recon
