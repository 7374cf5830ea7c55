// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the multilayer perceptron.  A thread takes a chunk of samples after another and goes through it in
// blocks, whose layers all stay in its cache.  The backward pass computes the hidden layers of a block again: reading
// them from memory would take longer.
//
// Which samples a chunk and a block have depends on the number of samples alone.  Each chunk sums its own gradient of
// the parameters, and those are added up in the order of the chunks; so is the gradient of a row of the bias whose
// samples lie in several chunks.  The results do not depend on the number of threads.
#include <omp.h>

#include <cstring>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/mlp/bfloat16.h"
#include "recon/kernels/mlp/block.h"
#include "recon/kernels/mlp/params.h"

namespace recon {
namespace {

constexpr int64_t kForwardChunk = 1008;  // samples
constexpr int64_t kLeastChunk = 4 * kBackwardBlock;
constexpr int64_t kMostChunks = 64;

int64_t chunk_samples(int64_t samples) {
    const int64_t blocks = (samples + kBackwardBlock * kMostChunks - 1) / (kBackwardBlock * kMostChunks);
    const int64_t chunk = blocks * kBackwardBlock;
    return chunk > kLeastChunk ? chunk : kLeastChunk;
}
int64_t chunk_count(int64_t samples) { return (samples + chunk_samples(samples) - 1) / chunk_samples(samples); }

int64_t mlp_scratch_floats(const MlpParams& p) {
    const Net net(p);
    const int64_t blocks = omp_get_max_threads() * block_floats(net, kBackwardBlock);
    return blocks + net.parameters() + chunk_count(p.samples) * (net.parameters() + p.hidden_width);
}

template <class Block>
void forward(const MlpParams& p) {
    const Net net(p);
    float* blocks = p.scratch + net.parameters();
    Block::prepare(p, net, false, p.scratch, nullptr);
    const int64_t chunks = (p.samples + kForwardChunk - 1) / kForwardChunk;
#pragma omp parallel
    {
        Block block(p, net, p.scratch, blocks + omp_get_thread_num() * block_floats(net, kForwardBlock), kForwardBlock);
#pragma omp for schedule(dynamic)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t end = (chunk + 1) * kForwardChunk, last = end < p.samples ? end : p.samples;
            for (int64_t first = chunk * kForwardChunk; first < last; first += kForwardBlock) {
                block.start(first, first + kForwardBlock < last ? first + kForwardBlock : last);
                block.forward(p.outputs);
            }
        }
    }
}

// The gradient of the row bias from the samples of one chunk.  A row belongs to the chunk of its first sample, which
// clears it, and the rows without samples before it; what a later chunk adds goes to that chunk's `head`.
class BiasGradient {
public:
    BiasGradient(const MlpParams& p, int64_t first, float* head) : p_(p), head_(head) {
        if (!p_.row_bias) return;
        row_ = first > 0 ? p_.row_of[first - 1] : -1;
        to_ = head;
        clear(head, 1);
    }

    void add(const float* gradient, int64_t first, int64_t count) {
        if (!p_.row_bias) return;
        const int64_t width = p_.hidden_width;
        for (int64_t i = 0; i < count;) {
            const int32_t row = p_.row_of[first + i];
            int64_t end = i + 1;
            while (end < count && p_.row_of[first + end] == row) ++end;
            if (row != row_) turn_to(row);
            for (int64_t column = 0; column < width; column += kLanes) {
                Pack sum = load(to_ + column);
                for (int64_t k = i; k < end; ++k) sum = sum + load(gradient + k * width + column);
                store(to_ + column, sum);
            }
            i = end;
        }
    }

    void turn_to(int64_t row) {
        to_ = p_.row_bias_gradient + row * p_.hidden_width;
        clear(p_.row_bias_gradient + (row_ + 1) * p_.hidden_width, row - row_);
        row_ = row;
    }

private:
    void clear(float* rows, int64_t count) const {
        std::memset(rows, 0, sizeof(float) * static_cast<size_t>(count * p_.hidden_width));
    }

    const MlpParams& p_;
    float *head_, *to_ = nullptr;
    int64_t row_ = -1;
};

// Adds what the chunks hold for rows that began in an earlier one, and clears the rows behind the last sample's.
void finish_bias(const MlpParams& p, const float* heads) {
    const int64_t chunk = chunk_samples(p.samples), width = p.hidden_width;
    for (int64_t first = chunk, i = 1; first < p.samples; first += chunk, ++i) {
        const int64_t row = p.row_of[first];
        if (row != p.row_of[first - 1]) continue;
        float* to = p.row_bias_gradient + row * width;
        for (int64_t k = 0; k < width; ++k) to[k] += heads[i * width + k];
    }
    const int64_t behind = p.samples > 0 ? p.row_of[p.samples - 1] + 1 : 0;
    const int64_t rest = (p.rows - behind) * width;
    std::memset(p.row_bias_gradient + behind * width, 0, sizeof(float) * static_cast<size_t>(rest));
}

template <class Block>
void backward(const MlpParams& p) {
    const Net net(p);
    const int64_t parameters = net.parameters(), chunk_size = chunk_samples(p.samples), chunks = chunk_count(p.samples);
    float* totals = p.scratch;
    float* sums = p.scratch + parameters;
    float* heads = sums + chunks * parameters;
    float* blocks = heads + chunks * p.hidden_width;
    if (chunks > 0) Block::prepare(p, net, true, p.scratch, sums);
#pragma omp parallel
    {
        float* own_scratch = blocks + omp_get_thread_num() * block_floats(net, kBackwardBlock);
        Block block(p, net, p.scratch, own_scratch, kBackwardBlock);
#pragma omp for schedule(dynamic)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            float* own = sums + chunk * parameters;
            std::memset(own, 0, sizeof(float) * static_cast<size_t>(parameters));
            const int64_t end = (chunk + 1) * chunk_size, last = end < p.samples ? end : p.samples;
            BiasGradient bias(p, chunk * chunk_size, heads + chunk * p.hidden_width);
            for (int64_t first = chunk * chunk_size; first < last; first += kBackwardBlock) {
                const int64_t stop = first + kBackwardBlock < last ? first + kBackwardBlock : last;
                block.start(first, stop);
                bias.add(block.backward(own), first, stop - first);
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < parameters; i += kLanes) {
            Pack sum(0.0f);
            for (int64_t chunk = 0; chunk < chunks; ++chunk) sum = sum + load(sums + chunk * parameters + i);
            store(totals + i, sum);
        }
    }
    if (p.row_bias) finish_bias(p, heads);
    for (int i = 0; i < net.layers; ++i) {
        const int64_t count = net.width[i] * net.width[i + 1];
        float* to = p.parameter_gradient + net.offset[i];
        if (is_summed_transposed(p, net, i))
            transpose_matrix(totals + net.offset[i], net.width[i + 1], net.width[i], to);
        else
            std::memcpy(to, totals + net.offset[i], sizeof(float) * static_cast<size_t>(count));
    }
}

void mlp_forward(const MlpParams& p) {
#if RECON_BFLOAT16
    if (p.bfloat16) return forward<RoundedBlock>(p);
#endif
    forward<Block>(p);
}
void mlp_backward(const MlpParams& p) {
#if RECON_BFLOAT16
    if (p.bfloat16) return backward<RoundedBlock>(p);
#endif
    backward<Block>(p);
}

}  // namespace

void bind_mlp(nb::module_& m) {
    auto c = nb::class_<MlpParams>(m, "MlpParams").def(nb::init<>());
    RECON_BIND_POINTER(c, MlpParams, inputs);
    RECON_BIND_POINTER(c, MlpParams, parameters);
    RECON_BIND_POINTER(c, MlpParams, row_bias);
    RECON_BIND_POINTER(c, MlpParams, row_of);
    RECON_BIND_POINTER(c, MlpParams, outputs);
    RECON_BIND_POINTER(c, MlpParams, gradient);
    RECON_BIND_POINTER(c, MlpParams, input_gradient);
    RECON_BIND_POINTER(c, MlpParams, parameter_gradient);
    RECON_BIND_POINTER(c, MlpParams, row_bias_gradient);
    RECON_BIND_POINTER(c, MlpParams, scratch);
    RECON_BIND_VALUE(c, MlpParams, samples);
    RECON_BIND_VALUE(c, MlpParams, rows);
    RECON_BIND_VALUE(c, MlpParams, input_stride);
    RECON_BIND_VALUE(c, MlpParams, gradient_stride);
    RECON_BIND_VALUE(c, MlpParams, gradient_width);
    RECON_BIND_VALUE(c, MlpParams, input_width);
    RECON_BIND_VALUE(c, MlpParams, output_width);
    RECON_BIND_VALUE(c, MlpParams, hidden_width);
    RECON_BIND_VALUE(c, MlpParams, hidden_layers);
    RECON_BIND_VALUE(c, MlpParams, bfloat16);
    m.def("mlp_has_bfloat16", &has_bfloat16);
    m.def("mlp_bfloat16_is_faster", &bfloat16_is_faster);
    m.def("mlp_scratch_floats", &mlp_scratch_floats);
    m.def("mlp_forward", &mlp_forward, nb::call_guard<nb::gil_scoped_release>());
    m.def("mlp_backward", &mlp_backward, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
