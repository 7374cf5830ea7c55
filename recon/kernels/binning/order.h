// SPDX-License-Identifier: Apache-2.0
// Putting Gaussians in order of depth, and then of number.
#pragma once

#include <algorithm>

#include "recon/kernels/binning/shapes.h"
#include "recon/kernels/binning/work.h"

namespace recon {
namespace {

constexpr int kMaxDigitBits = 11, kMaxPasses = 4;

struct Digits {
    int passes, bits;
};

// The cheapest way through keys of `width` bits: a pass costs its keys and, half as much each, its digits.
Digits choose_digits(int width, int64_t count) {
    Digits best{kMaxPasses, 8};
    int64_t least = INT64_MAX;
    for (int passes = 1; passes <= kMaxPasses; ++passes) {
        const int bits = (width + passes - 1) / passes;
        const int64_t cost = passes * (2 * count + (int64_t(1) << bits));
        if (bits <= kMaxDigitBits && cost < least) {
            least = cost;
            best = {passes, bits};
        }
    }
    return best;
}

// Stable; sorts by the high halves and returns whichever of the two arrays holds the result.
uint64_t* radix_sort(uint64_t* keys, uint64_t* other, int64_t count) {
    uint64_t low = ~uint64_t(0), high = 0;
    for (int64_t i = 0; i < count; ++i) {
        low = keys[i] < low ? keys[i] : low;
        high = keys[i] > high ? keys[i] : high;
    }
    if (count == 0 || low >> 32 == high >> 32) return keys;
    const uint32_t base = static_cast<uint32_t>(low >> 32), range = static_cast<uint32_t>(high >> 32) - base;
    const auto [passes, bits] = choose_digits(32 - __builtin_clz(range), count);
    const uint32_t mask = (1u << bits) - 1;
    static_assert(kMaxPasses == 4);
    uint32_t places[kMaxPasses][1 << kMaxDigitBits];
    for (int pass = 0; pass < passes; ++pass) std::memset(places[pass], 0, sizeof(uint32_t) << bits);
    for (int64_t i = 0; i < count; ++i) {
        uint32_t key = static_cast<uint32_t>(keys[i] >> 32) - base;
        for (int pass = 0; pass < passes; ++pass, key >>= bits) ++places[pass][key & mask];
    }
    for (int pass = 0; pass < passes; ++pass) {
        uint32_t* place = places[pass];
        uint32_t sum = 0;
        for (uint32_t digit = 0; digit <= mask; ++digit) {
            const uint32_t here = place[digit];
            place[digit] = sum;
            sum += here;
        }
        const int shift = pass * bits;
        for (int64_t i = 0; i < count; ++i)
            other[place[(static_cast<uint32_t>(keys[i] >> 32) - base) >> shift & mask]++] = keys[i];
        std::swap(keys, other);
    }
    return keys;
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
