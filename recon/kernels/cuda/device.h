// SPDX-License-Identifier: Apache-2.0
// What the CUDA sources share: how a kernel is declared, sums over a warp and a block, and the scalar twins of the
// functions that the math headers use.
//
// A kernel takes one struct by value and is declared by RECON_KERNEL(name, Struct, threads per block); the Python side
// reads the declarations and the structs from these very files.  Blocks have one dimension.  The sources are compiled
// by NVRTC for a GPU, and by a C++ compiler with the tests' emulation of blocks and warps (RECON_EMULATED), for which
// shared memory is declared by RECON_SHARED.  Collectives of a warp are always called by all of its 32 lanes.
#pragma once

#if defined(RECON_EMULATED)
#include "emulation.h"
#else
#define RECON_KERNEL(name, Params, threads) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p)
#define RECON_SHARED(Type, name) __shared__ Type name
#endif

#include "recon/kernels/common/simd.h"

namespace recon {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

RECON_FN int lane_number() { return static_cast<int>(threadIdx.x) % kWarp; }
RECON_FN int warp_number() { return static_cast<int>(threadIdx.x) / kWarp; }
RECON_FN int64_t global_thread() {
    return static_cast<int64_t>(blockIdx.x) * static_cast<int64_t>(blockDim.x) + static_cast<int64_t>(threadIdx.x);
}
RECON_FN unsigned lanes_below(int lane) { return (1u << lane) - 1u; }

struct alignas(16) Four {
    float x, y, z, w;
};
RECON_FN Four load_four(const float* p) { return *reinterpret_cast<const Four*>(p); }
RECON_FN void store_four(float* p, Four a) { *reinterpret_cast<Four*>(p) = a; }

// 2^a, about two units in the last place off; 0 far below.
RECON_FN float exp2_(float a) {
#if defined(RECON_EMULATED)
    return a < -126.0f ? 0.0f : ::exp2f(a);
#else
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
    return r;
#endif
}
// c - a b where the mask is on, elsewhere 0.
RECON_FN float fnma_or_zero(bool m, float a, float b, float c) { return m ? c - a * b : 0.0f; }

template <class T>
RECON_FN T warp_inclusive_sum(T value) {
    const int lane = lane_number();
    for (int step = 1; step < kWarp; step *= 2) {
        const T other = __shfl_up_sync(kAllLanes, value, step);
        if (lane >= step) value += other;
    }
    return value;
}
template <class T>
RECON_FN T warp_sum(T value) {
    for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
    return value;
}

// One number for each warp of a block.
template <class T>
struct PerWarp {
    T of[kWarp];
};

// The sum over the threads before this one; `total` becomes that over the block.  All threads of a block of whole
// warps call it together.
template <class T>
RECON_FN T block_exclusive_sum(T value, PerWarp<T>& shared, T& total) {
    const int warps = static_cast<int>(blockDim.x) / kWarp, lane = lane_number(), warp = warp_number();
    const T inclusive = warp_inclusive_sum(value);
    __syncthreads();  // whoever still reads what was here before
    if (lane == kWarp - 1) shared.of[warp] = inclusive;
    __syncthreads();
    if (warp == 0) {
        const T sum = warp_inclusive_sum(lane < warps ? shared.of[lane] : T(0));
        if (lane < warps) shared.of[lane] = sum;
    }
    __syncthreads();
    total = shared.of[warps - 1];
    return inclusive - value + (warp > 0 ? shared.of[warp - 1] : T(0));
}

// What the kernels of a step tell each other and the host.
enum Counter { kVisibleCount, kPairCount, kKeptPairs, kSkip, kCounters = 8 };

}  // namespace recon
