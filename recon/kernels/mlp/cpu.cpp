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
#include "recon/kernels/common/transpose.h"
#include "recon/kernels/mlp/math.h"
#include "recon/kernels/mlp/params.h"
#include "recon/kernels/mlp/tile.h"

namespace recon {
namespace {

constexpr int kMostLayers = 8;
constexpr int64_t kForwardBlock = 24;   // samples; with all weights these stay in the L1 cache
constexpr int64_t kBackwardBlock = 96;  // long enough that the sums over the samples are seldom put away
constexpr int64_t kForwardChunk = 1008;
constexpr int64_t kLeastChunk = 4 * kBackwardBlock;
constexpr int64_t kMostChunks = 64;
constexpr int64_t kMostWidth = 128;

// The matrices, one after another.
struct Net {
    int layers;  // matrices
    int64_t width[kMostLayers + 2], offset[kMostLayers + 2];

    explicit Net(const MlpParams& p) : layers(p.hidden_layers + 1) {
        offset[0] = 0;
        for (int i = 0; i <= layers; ++i) width[i] = p.hidden_width;
        width[0] = p.input_width, width[layers] = p.output_width;
        for (int i = 0; i < layers; ++i) offset[i + 1] = offset[i] + width[i] * width[i + 1];
    }
    int64_t parameters() const { return offset[layers]; }
    int64_t most_width() const {
        const int64_t ends = width[0] > width[layers] ? width[0] : width[layers];
        return ends > width[1] ? ends : width[1];
    }
};

// Whether the gradient of a matrix is summed transposed: where that fills longer tiles, or where it has any number of
// columns.
bool is_summed_transposed(const MlpParams& p, const Net& net, int layer) {
    const int64_t width = net.width[layer + 1];
    const bool is_partly = layer == net.layers - 1 && p.gradient_width < width;
    return is_partly || (width < kMostPacks * kLanes && net.width[layer] > width);
}

int64_t chunk_samples(int64_t samples) {
    const int64_t blocks = (samples + kBackwardBlock * kMostChunks - 1) / (kBackwardBlock * kMostChunks);
    const int64_t chunk = blocks * kBackwardBlock;
    return chunk > kLeastChunk ? chunk : kLeastChunk;
}
int64_t chunk_count(int64_t samples) { return (samples + chunk_samples(samples) - 1) / chunk_samples(samples); }

// What a thread computes in: the inputs of a block that is not full, its hidden layers, two layers of gradients and the
// outputs.
int64_t block_floats(const Net& net, int64_t block) { return (net.layers + 4) * block * net.most_width(); }

int64_t mlp_scratch_floats(const MlpParams& p) {
    const Net net(p);
    const int64_t blocks = omp_get_max_threads() * block_floats(net, kBackwardBlock);
    return blocks + net.parameters() + chunk_count(p.samples) * (net.parameters() + p.hidden_width);
}

// The ends of products, see `multiply`.
struct ToHidden {
    float* to;
    int64_t width;
    RECON_FN Pack start(int64_t, int64_t) const { return Pack(0.0f); }
    RECON_FN void finish(int64_t row, int64_t column, Pack sum) const {
        store(to + row * width + column, activate(sum));
    }
};
struct ToBiasedHidden : ToHidden {
    const float* const* bias;
    RECON_FN Pack start(int64_t row, int64_t column) const { return load(bias[row] + column); }
};
struct ToRows {
    float* to;
    int64_t width;
    RECON_FN Pack start(int64_t, int64_t) const { return Pack(0.0f); }
    RECON_FN void finish(int64_t row, int64_t column, Pack sum) const { store(to + row * width + column, sum); }
};
struct ThroughActivation : ToRows {
    const float* hidden;
    RECON_FN void finish(int64_t row, int64_t column, Pack sum) const {
        const int64_t at = row * width + column;
        store(to + at, through_activation(load(hidden + at), sum));
    }
};

// Up to `capacity` samples and a thread's memory for them.
class Block {
public:
    Block(const MlpParams& p, const Net& net, float* scratch, int64_t capacity)
        : p_(p), net_(net), scratch_(scratch), capacity_(capacity) {}

    void start(int64_t first, int64_t last) {
        first_ = first;
        count_ = last - first;
        // Tiles have 12 or 8 rows: those beyond the last sample are zeros.
        padded_ = (count_ + 23) / 24 * 24;
    }

    void forward(float* outputs) {
        hidden_layers();
        const int last = net_.layers - 1;
        const int64_t width = p_.output_width;
        float* to = padded_ == count_ ? outputs + first_ * width : spare(2);
        multiply(hidden(last), p_.parameters + net_.offset[last], width, padded_, ToRows{to, width});
        if (padded_ != count_)
            std::memcpy(outputs + first_ * width, to, sizeof(float) * static_cast<size_t>(count_ * width));
    }

    // The gradient by the first layer's sums, after adding those of the parameters to `sums`; `transposed` holds the
    // transposed matrices.
    const float* backward(const float* transposed, float* sums) {
        hidden_layers();
        Rows gradient = whole_rows_of(p_.gradient, p_.gradient_stride, p_.gradient_width, 2);
        for (int layer = net_.layers - 1; layer > 0; --layer) {
            add_parameters(layer, hidden(layer), gradient, sums);
            float* to = spare(layer % 2);
            const ThroughActivation ends{{to, p_.hidden_width}, hidden(layer).numbers};
            multiply(gradient, transposed + net_.offset[layer], p_.hidden_width, padded_, ends);
            gradient = {to, p_.hidden_width, p_.hidden_width};
        }
        add_parameters(0, inputs(), gradient, sums);
        if (p_.input_gradient) finish_inputs(gradient, transposed);
        return gradient.numbers;
    }

    int64_t first() const { return first_; }
    int64_t count() const { return count_; }

private:
    float* part(int number) const { return scratch_ + number * capacity_ * net_.most_width(); }
    float* spare(int number) const { return part(net_.layers + number); }
    // The inputs to matrix `layer`.
    Rows hidden(int layer) const { return {part(layer), p_.hidden_width, p_.hidden_width}; }
    Rows inputs() const { return inputs_; }

    // The block's rows of an array, or a copy in spare memory with zeros below.
    Rows whole_rows_of(const float* array, int64_t stride, int64_t width, int number) const {
        const float* rows = array + first_ * stride;
        if (padded_ == count_) return {rows, stride, width};
        return {padded_copy(rows, stride, width, spare(number)), width, width};
    }
    const float* padded_copy(const float* rows, int64_t stride, int64_t width, float* to) const {
        for (int64_t i = 0; i < count_; ++i)
            std::memcpy(to + i * width, rows + i * stride, sizeof(float) * static_cast<size_t>(width));
        std::memset(to + count_ * width, 0, sizeof(float) * static_cast<size_t>((padded_ - count_) * width));
        return to;
    }

    void hidden_layers() {
        inputs_ = whole_rows_of(p_.inputs, p_.input_stride, p_.input_width, 3);
        const int64_t width = p_.hidden_width;
        const ToHidden first{part(1), width};
        if (p_.row_bias) {
            find_biases();
            ToBiasedHidden ends{first, bias_};
            multiply(inputs_, p_.parameters, width, padded_, ends);
        } else {
            multiply(inputs_, p_.parameters, width, padded_, first);
        }
        for (int layer = 1; layer < net_.layers - 1; ++layer)
            multiply(hidden(layer), p_.parameters + net_.offset[layer], width, padded_, ToHidden{part(layer + 1), width});
    }
    void find_biases() {
        static const float zeros[kMostWidth] = {};
        for (int64_t i = 0; i < padded_; ++i)
            bias_[i] = i < count_ ? p_.row_bias + p_.row_of[first_ + i] * int64_t{p_.hidden_width} : zeros;
    }
    void add_parameters(int layer, const Rows& from, const Rows& gradient, float* sums) const {
        float* to = sums + net_.offset[layer];
        if (is_summed_transposed(p_, net_, layer))
            add_outer(gradient, from, padded_, to);
        else
            add_outer(from, gradient, padded_, to);
    }
    void finish_inputs(const Rows& gradient, const float* transposed) const {
        const int64_t width = p_.input_width;
        float* to = padded_ == count_ ? p_.input_gradient + first_ * width : spare(3);
        multiply(gradient, transposed, width, padded_, ToRows{to, width});
        if (padded_ != count_)
            std::memcpy(p_.input_gradient + first_ * width, to, sizeof(float) * static_cast<size_t>(count_ * width));
    }

    const MlpParams& p_;
    const Net& net_;
    float* scratch_;
    int64_t capacity_, first_ = 0, count_ = 0, padded_ = 0;
    Rows inputs_{};
    const float* bias_[kBackwardBlock];
};

void mlp_forward(const MlpParams& p) {
    const Net net(p);
    const int64_t chunks = (p.samples + kForwardChunk - 1) / kForwardChunk;
#pragma omp parallel
    {
        Block block(p, net, p.scratch + omp_get_thread_num() * block_floats(net, kForwardBlock), kForwardBlock);
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
    std::memset(p.row_bias_gradient + behind * width, 0, sizeof(float) * static_cast<size_t>((p.rows - behind) * width));
}

// [rows, columns] becomes [columns, rows]; both multiples of 16.
void transpose_matrix(const float* from, int64_t rows, int64_t columns, float* to) {
    for (int64_t i = 0; i < rows; i += kLanes)
        for (int64_t j = 0; j < columns; j += kLanes) {
            Pack square[kLanes];
            for (int k = 0; k < kLanes; ++k) square[k] = load(from + (i + k) * columns + j);
            transpose(square);
            for (int k = 0; k < kLanes; ++k) store(to + (j + k) * rows + i, square[k]);
        }
}

void mlp_backward(const MlpParams& p) {
    const Net net(p);
    const int64_t parameters = net.parameters(), chunk_size = chunk_samples(p.samples), chunks = chunk_count(p.samples);
    float* transposed = p.scratch;
    float* sums = transposed + parameters;
    float* heads = sums + chunks * parameters;
    float* blocks = heads + chunks * p.hidden_width;
    for (int i = 0; i < net.layers; ++i)
        transpose_matrix(p.parameters + net.offset[i], net.width[i], net.width[i + 1], transposed + net.offset[i]);
#pragma omp parallel
    {
        Block block(p, net, blocks + omp_get_thread_num() * block_floats(net, kBackwardBlock), kBackwardBlock);
#pragma omp for schedule(dynamic)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            float* own = sums + chunk * parameters;
            std::memset(own, 0, sizeof(float) * static_cast<size_t>(parameters));
            const int64_t end = (chunk + 1) * chunk_size, last = end < p.samples ? end : p.samples;
            BiasGradient bias(p, chunk * chunk_size, heads + chunk * p.hidden_width);
            for (int64_t first = chunk * chunk_size; first < last; first += kBackwardBlock) {
                block.start(first, first + kBackwardBlock < last ? first + kBackwardBlock : last);
                bias.add(block.backward(transposed, own), first, block.count());
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < parameters; i += kLanes) {
            Pack sum(0.0f);
            for (int64_t chunk = 0; chunk < chunks; ++chunk) sum = sum + load(sums + chunk * parameters + i);
            store(transposed + i, sum);
        }
    }
    if (p.row_bias) finish_bias(p, heads);
    for (int i = 0; i < net.layers; ++i) {
        const int64_t count = net.width[i] * net.width[i + 1];
        float* to = p.parameter_gradient + net.offset[i];
        if (is_summed_transposed(p, net, i))
            transpose_matrix(transposed + net.offset[i], net.width[i + 1], net.width[i], to);
        else
            std::memcpy(to, transposed + net.offset[i], sizeof(float) * static_cast<size_t>(count));
    }
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
    m.def("mlp_scratch_floats", &mlp_scratch_floats);
    m.def("mlp_forward", &mlp_forward, nb::call_guard<nb::gil_scoped_release>());
    m.def("mlp_backward", &mlp_backward, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
