// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of moving rows: a thread owns a word, of the result where rows are gathered,
// and of what was there where they are multiplied.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/rearrange/cuda.h"

using namespace recon;

RECON_KERNEL(gather_rows, GatherLaunch, 256) {
    const int64_t i = global_thread();
    if (i >= p.count * p.words) return;
    const int64_t row = i / p.words;
    p.moved[i] = p.rows[p.sources[row] * p.words + (i - row * p.words)];
}

RECON_KERNEL(multiply_rows, MultiplyLaunch, 256) {
    const int64_t i = global_thread();
    if (i >= p.count * p.words) return;
    const int64_t row = i / p.words, column = i - row * p.words;
    const int copies = p.copies[row];
    const uint32_t word = p.rows[i];
    for (int copy = 0; copy < copies; ++copy) p.moved[(p.starts[row] + copy) * p.words + column] = word;
}
