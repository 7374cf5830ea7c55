// SPDX-License-Identifier: Apache-2.0
// Putting Gaussians in order of depth, and then of number.
#pragma once

#include <algorithm>

#include "recon/kernels/binning/shapes.h"
#include "recon/kernels/binning/work.h"

namespace recon {
namespace {

// Digits are so short that one line of memory for each stays in the nearest cache.
constexpr int kDigitBits = 9;

// Stable; sorts by the high halves' difference from `base`, `Passes` digits of `bits` bits, and returns whichever of the
// two arrays holds the result.
template <int Passes>
uint64_t* sort_digits(uint64_t* keys, uint64_t* other, int64_t count, uint32_t base, int bits) {
    const uint32_t mask = (1u << bits) - 1;
    uint32_t places[Passes][1 << kDigitBits];
    for (auto& place : places) std::memset(place, 0, sizeof(uint32_t) << bits);
    for (int64_t i = 0; i < count; ++i) {
        uint32_t digits = static_cast<uint32_t>(keys[i] >> 32) - base;
        for (auto& place : places) {
            ++place[digits & mask];
            digits >>= bits;
        }
    }
    int shift = 0;
    for (auto& place : places) {
        uint32_t sum = 0;
        for (uint32_t digit = 0; digit <= mask; ++digit) {
            const uint32_t here = place[digit];
            place[digit] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < count; ++i)
            other[place[(static_cast<uint32_t>(keys[i] >> 32) - base) >> shift & mask]++] = keys[i];
        shift += bits;
        std::swap(keys, other);
    }
    return keys;
}

// Stable; sorts by the high halves and returns whichever of the two arrays holds the result.
uint64_t* sort_by_depth(uint64_t* keys, uint64_t* other, int64_t count) {
    uint64_t low = ~uint64_t(0), high = 0;
    for (int64_t i = 0; i < count; ++i) {
        low = keys[i] < low ? keys[i] : low;
        high = keys[i] > high ? keys[i] : high;
    }
    if (count == 0 || low >> 32 == high >> 32) return keys;
    const uint32_t base = static_cast<uint32_t>(low >> 32), range = static_cast<uint32_t>(high >> 32) - base;
    const int width = 32 - __builtin_clz(range), passes = (width + kDigitBits - 1) / kDigitBits;
    const int bits = (width + passes - 1) / passes;
    switch (passes) {
        case 1: return sort_digits<1>(keys, other, count, base, bits);
        case 2: return sort_digits<2>(keys, other, count, base, bits);
        case 3: return sort_digits<3>(keys, other, count, base, bits);
        default: return sort_digits<4>(keys, other, count, base, bits);
    }
}

// Depths that cut the visible Gaussians into chunks of about equal size, from a sample.  Fewer chunks where it is small.
int choose_splitters(const BinParams& p, int chunks, float (&splitters)[kMaxChunks]) {
    constexpr int kPerChunk = 16;
    float sample[kPerChunk * kMaxChunks];
    int size = 0;
    const int64_t wanted = kPerChunk * chunks, step = p.count / wanted > 0 ? p.count / wanted : 1;
    for (int64_t g = step / 2; g < p.count && size < wanted; g += step)
        if (p.visible[g] && std::abs(p.depths[g]) <= 3.4e38f) sample[size++] = p.depths[g];
    if (size < chunks) return 1;
    std::sort(sample, sample + size);
    for (int i = 1; i < chunks; ++i) splitters[i - 1] = sample[static_cast<int64_t>(size) * i / chunks];
    return chunks;
}

}  // namespace
}  // namespace recon
