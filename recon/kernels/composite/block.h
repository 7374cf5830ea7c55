// SPDX-License-Identifier: Apache-2.0
// What the CPU schedulers of compositing share: how rays are dealt out, and what is computed of many samples at once.
#pragma once
#include <cstring>

#include "recon/kernels/common/simd.h"
#include "recon/kernels/composite/math.h"
#include "recon/kernels/composite/params.h"

namespace recon {

constexpr int kBlock = 128;              // samples that are prepared at once; a multiple of kLanes
constexpr int64_t kPieceSamples = 4096;  // about as many samples and rays a thread takes at once

typedef float Quad __attribute__((vector_size(16)));
RECON_FN Quad load_quad(const float* p) {
    Quad a;
    std::memcpy(&a, p, sizeof a);
    return a;
}
RECON_FN void store_quad(float* p, Quad a) { std::memcpy(p, &a, sizeof a); }
RECON_FN Quad first_three(Quad a) {
    typedef int32_t Bits __attribute__((vector_size(16)));
    return (Quad)((Bits)a & Bits{-1, -1, -1, 0});
}
RECON_FN float sum(Quad a) { return (a[0] + a[2]) + (a[1] + a[3]); }

// Pieces of whole rays with about equally many samples.
class Pieces {
public:
    explicit Pieces(const CompositeSamples& s) : s_(s), total_(s.offsets[s.rays] + s.rays) {}
    int64_t count() const { return (total_ + kPieceSamples - 1) / kPieceSamples; }
    // The first ray of a piece; R behind the last one.
    int64_t first(int64_t piece) const {
        if (piece * kPieceSamples >= total_) return s_.rays;
        int64_t low = 0, high = s_.rays;  // the first ray r with offsets[r] + r >= the piece's first number
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (s_.offsets[middle] + middle < piece * kPieceSamples)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }

private:
    const CompositeSamples& s_;
    int64_t total_;
};

// Optical depths, and what they absorb, of a block of samples.
class Absorption {
public:
    explicit Absorption(const CompositeSamples& s) : s_(s) {
        for (int i = 0; i < kLanes; ++i) index_[i] = static_cast<int32_t>(i * s.density_stride);
    }
    // Of the samples [first, first + count); `opacities` and `slopes` are arrays over all samples, or nullptr.
    RECON_FN void read(int64_t first, int count, float* opacities, float* slopes) {
        const Pack shift(s_.density_shift), scale(s_.length_scale);
        for (int i = 0; i < count; i += kLanes) {
            const float* raw = s_.raw_density + (first + i) * s_.density_stride;
            const int left = count - i;
            const bool whole = left >= kLanes;
            const Mask m = first_lanes(left);
            const Pack length = whole ? load(s_.lengths + first + i) : load_masked(s_.lengths + first + i, m);
            const OpticalDepth<Pack> d = optical_depth(whole ? gather(raw, index_) : read_some(raw, left),
                                                       length * scale, shift);
            const Pack a = absorbed(d.depth);
            store(depth + i, d.depth);
            store(opacity + i, a);
            if (opacities == nullptr) continue;
            if (whole) {
                store(opacities + first + i, a);
                store(slopes + first + i, d.slope);
            } else {
                store_masked(opacities + first + i, a, m);
                store_masked(slopes + first + i, d.slope, m);
            }
        }
    }

    float depth[kBlock], opacity[kBlock];

private:
    RECON_FN Pack read_some(const float* raw, int count) const {
        float some[kLanes] = {};
        for (int i = 0; i < count; ++i) some[i] = raw[index_[i]];
        return load(some);
    }

    const CompositeSamples& s_;
    int32_t index_[kLanes];
};

// Where the samples of a block stand in the distance that distortion measures.
class Spacings {
public:
    explicit Spacings(const CompositeSamples& s) : s_(s) {}
    RECON_FN void read(int64_t first, int count) {
        const Pack scale(s_.length_scale);
        // Slot 0 is the sample before the block.
        const float before = first > 0 ? within_reach(s_.distances[first - 1] * s_.length_scale) : 0.0f;
        x_[0] = before, inverse_[0] = 1.0f / (1.0f + before);
        for (int i = 0; i < count; i += kLanes) {
            const Mask m = first_lanes(count - i);
            const Pack x = within_reach(load_masked(s_.distances + first + i, m) * scale);
            const Spacing<Pack> at = spacing(x, load_masked(s_.lengths + first + i, m) * scale);
            store(x_ + 1 + i, x);
            store(inverse_ + 1 + i, at.inverse);
            store(width + i, at.width);
        }
        for (int i = 0; i < count; i += kLanes)
            store(step + i, (load(x_ + 1 + i) - load(x_ + i)) * (load(inverse_ + 1 + i) * load(inverse_ + i)));
    }

    float width[kBlock];
    float step[kBlock];  // from the sample before, whichever ray that belongs to

private:
    const CompositeSamples& s_;
    float x_[kBlock + kLanes], inverse_[kBlock + kLanes];
};

}  // namespace recon
