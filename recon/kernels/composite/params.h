// SPDX-License-Identifier: Apache-2.0
// Volume compositing of R rays whose S samples lie one ray after another; see op.py for the meaning.
#pragma once
#include <cstdint>

namespace recon {

// The samples and how their raw numbers become optical depths.
struct CompositeSamples {
    const float* raw_density = nullptr;  // [S] numbers, density_stride apart
    const float* distances = nullptr;    // [S]
    const float* lengths = nullptr;      // [S]
    const int32_t* offsets = nullptr;    // [R + 1]
    int64_t density_stride = 0;
    int64_t rays = 0;           // R
    float density_shift = 0;    // added to raw densities
    float length_scale = 0;     // multiplies lengths and distances
};

// Forward, into results of its own or on top of a state.
struct CompositeParams {
    CompositeSamples samples;
    const float* raw_color = nullptr;  // [S, color_stride]; the first `channels` columns
    int64_t color_stride = 0;
    int64_t channels = 0;              // D
    float* values = nullptr;           // [S, D + 1]: colour and distance, written
    // Of rays; written, or with `rows` continued.
    float* color = nullptr;            // [R, D] or [state, D]
    float* alpha = nullptr;            // [R]
    float* depth = nullptr;            // [R]
    float* median_distance = nullptr;  // [R]
    float* distortion = nullptr;       // [R]; not with `rows`
    // Of samples, for the backward pass; written, all or (with `rows`) none.
    float* weights = nullptr;   // [S]
    float* behind = nullptr;    // [S] transmittance behind the sample
    float* opacity = nullptr;   // [S] 1 - exp(-optical depth)
    float* slope = nullptr;     // [S] derivative of the optical depth to the raw density
    float* crowding = nullptr;  // [S] sum over earlier samples j of w_j (s - s_j), s as for the distortion
    // Accumulation in portions.
    const int32_t* rows = nullptr;    // [R] each ray's row of the state; nullptr writes rows 0 to R - 1 anew
    const float* ends = nullptr;      // [R] where marching stopped; infinite where the ray left the space
    uint8_t* alive = nullptr;         // [R] whether the ray goes on, written
    float min_transmittance = 0;      // of rays that go on
};

struct CompositeBackwardParams {
    CompositeSamples samples;
    int64_t channels = 0;            // D
    int64_t color_stride = 0;        // V
    float near_scale = 0;            // gradients of nearer samples are damped; 0 damps none
    // What the forward pass wrote.
    const float* values = nullptr;   // [S, D + 1]
    const float* weights = nullptr;  // [S]
    const float* behind = nullptr;   // [S]
    const float* opacity = nullptr;  // [S]
    const float* slope = nullptr;    // [S]
    const float* crowding = nullptr; // [S]
    // Gradients to the results.
    const float* by_color = nullptr;       // [R, D]
    const float* by_alpha = nullptr;       // [R]
    const float* by_depth = nullptr;       // [R], nullptr is zero
    const float* by_distortion = nullptr;  // [R], nullptr is zero
    // Gradients to the raw numbers.
    float* by_raw_color = nullptr;    // [S, V], written
    float* by_raw_density = nullptr;  // [S] numbers, by_density_stride apart; added to
    int64_t by_density_stride = 0;
};

// Truncation: first the samples that each ray keeps, then their rows moved together.
struct TruncateParams {
    CompositeSamples samples;
    const float* transmittance = nullptr;  // [R] in front of each ray's first sample; nullptr is 1
    float min_transmittance = 0;
    int32_t* kept_offsets = nullptr;       // [R + 1], written
};

struct CompactParams {
    const int32_t* offsets = nullptr;       // [R + 1]
    const int32_t* kept_offsets = nullptr;  // [R + 1]
    int64_t rays = 0;
    int64_t arrays = 0;
    const uint32_t* from[16] = {};     // [S, words] each
    uint32_t* to[16] = {};                 // [kept, words] each, written
    int64_t words[16] = {};
};

}  // namespace recon
