// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of moving rows: a thread owns a word of the result.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/rearrange/cuda.h"

using namespace recon;

RECON_KERNEL(gather_rows, GatherLaunch, 256) {
    const int64_t i = global_thread();
    if (i >= p.count * p.words) return;
    const int64_t row = i / p.words;
    p.moved[i] = p.rows[p.sources[row] * p.words + (i - row * p.words)];
}
