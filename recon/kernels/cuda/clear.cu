// SPDX-License-Identifier: Apache-2.0
// What a sequence of launches needs besides kernels that compute: memory set to zero, and a few numbers of the host's.
// Being kernels like the others they are recorded and replayed as those are.
#include "recon/kernels/cuda/clear.h"
#include "recon/kernels/cuda/device.h"

using namespace recon;

// A block owns 1024 words.
RECON_KERNEL(clear_words, ClearParams, 256) {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * 1024 + threadIdx.x;
    for (int k = 0; k < 4; ++k) {
        const int64_t at = first + 256 * k;
        if (at < p.count) p.words[at] = 0u;
    }
}

RECON_KERNEL(put_numbers, PutParams, 32) {
    if (threadIdx.x < 4) p.to[threadIdx.x] = p.values[threadIdx.x];
}
