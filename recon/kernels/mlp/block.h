// SPDX-License-Identifier: Apache-2.0
// The layers of a block of samples, all of which stay in a thread's cache.
#pragma once
#include <cstring>

#include "recon/kernels/common/transpose.h"
#include "recon/kernels/mlp/math.h"
#include "recon/kernels/mlp/params.h"
#include "recon/kernels/mlp/tile.h"

namespace recon {
namespace {

constexpr int kMostLayers = 8;
constexpr int64_t kForwardBlock = 24;   // samples; with all weights these stay in the L1 cache
constexpr int64_t kBackwardBlock = 96;  // long enough that the sums over the samples are seldom put away
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

// What a thread computes in: the inputs of a block that is not full, its hidden layers, two layers of gradients and the
// outputs.
int64_t block_floats(const Net& net, int64_t block) { return (net.layers + 4) * block * net.most_width(); }

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

// Where the bias of each of `padded` samples lies; those behind the last one have zeros.
inline void find_biases(const MlpParams& p, int64_t first, int64_t count, int64_t padded, const float** biases) {
    static const float zeros[kMostWidth] = {};
    for (int64_t i = 0; i < padded; ++i)
        biases[i] = i < count ? p.row_bias + p.row_of[first + i] * int64_t{p.hidden_width} : zeros;
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

// Up to `capacity` samples, and a thread's memory for them.  `matrices` is what `prepare` left.
class Block {
public:
    // Prepares the matrices: as they are, and transposed where the backward pass needs that.
    static void prepare(const MlpParams& p, const Net& net, bool backward, float* matrices, float*) {
        if (!backward) return;
        for (int i = 0; i < net.layers; ++i)
            transpose_matrix(p.parameters + net.offset[i], net.width[i], net.width[i + 1], matrices + net.offset[i]);
    }

    Block(const MlpParams& p, const Net& net, const float* matrices, float* scratch, int64_t capacity)
        : p_(p), net_(net), transposed_(matrices), scratch_(scratch), capacity_(capacity) {}

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

    // The gradient by the first layer's sums, after adding those of the parameters to `sums`.
    const float* backward(float* sums) {
        hidden_layers();
        Rows gradient = whole_rows_of(p_.gradient, p_.gradient_stride, p_.gradient_width, 2);
        for (int layer = net_.layers - 1; layer > 0; --layer) {
            add_parameters(layer, hidden(layer), gradient, sums);
            float* to = spare(layer % 2);
            const ThroughActivation ends{{to, p_.hidden_width}, hidden(layer).numbers};
            multiply(gradient, transposed_ + net_.offset[layer], p_.hidden_width, padded_, ends);
            gradient = {to, p_.hidden_width, p_.hidden_width};
        }
        add_parameters(0, inputs(), gradient, sums);
        if (p_.input_gradient) finish_inputs(gradient);
        return gradient.numbers;
    }

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
            find_biases(p_, first_, count_, padded_, bias_);
            ToBiasedHidden ends{first, bias_};
            multiply(inputs_, p_.parameters, width, padded_, ends);
        } else {
            multiply(inputs_, p_.parameters, width, padded_, first);
        }
        for (int layer = 1; layer < net_.layers - 1; ++layer)
            multiply(hidden(layer), p_.parameters + net_.offset[layer], width, padded_,
                     ToHidden{part(layer + 1), width});
    }
    void add_parameters(int layer, const Rows& from, const Rows& gradient, float* sums) const {
        float* to = sums + net_.offset[layer];
        if (is_summed_transposed(p_, net_, layer))
            add_outer(gradient, from, padded_, to);
        else
            add_outer(from, gradient, padded_, to);
    }
    void finish_inputs(const Rows& gradient) const {
        const int64_t width = p_.input_width;
        float* to = padded_ == count_ ? p_.input_gradient + first_ * width : spare(3);
        multiply(gradient, transposed_, width, padded_, ToRows{to, width});
        if (padded_ != count_)
            std::memcpy(p_.input_gradient + first_ * width, to, sizeof(float) * static_cast<size_t>(count_ * width));
    }

    const MlpParams& p_;
    const Net& net_;
    const float* transposed_;
    float* scratch_;
    int64_t capacity_, first_ = 0, count_ = 0, padded_ = 0;
    Rows inputs_{};
    const float* bias_[kBackwardBlock];
};

}  // namespace
}  // namespace recon
