// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of the multilayer perceptron.  A block owns a tile of 64 samples, whose current layer lies in shared
// memory, numbers by samples.  A thread owns four samples and up to eight columns of a product and keeps its sums in
// registers; the matrices come in slices of 16 rows.  A product may take the place of what it was made of, because all
// threads have read that before any writes.
//
// The backward pass has a fixed number of blocks, which take tiles in turn.  A block computes the hidden layers again,
// keeps them in global memory of its own (they stay in the L2 cache) and adds the gradient of the parameters to sums of
// its own, which the next kernel adds up in the order of the blocks.  A row of the bias belongs to the tile of its
// first sample; what later tiles add goes to their `heads`, which the last kernel adds in order.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/mlp/cuda.h"
#include "recon/kernels/mlp/math.h"

namespace recon {
namespace {

constexpr int kTile = 64, kThreads = 256, kMostWidth = 128;
constexpr int kPitch = kTile + 4;  // whole vectors of four, and neighbours in other banks
constexpr int kSlice = 16;         // rows of a matrix
constexpr int kHiddenSlice = 32;   // numbers of a layer

struct TileMemory {
    float layer[kMostWidth][kPitch];
    alignas(16) float slice[kHiddenSlice * kPitch];
};
static_assert(kHiddenSlice * kPitch >= kSlice * (kMostWidth + 4));

// Four samples by J columns.
template <int J>
struct Sums {
    float of[4][J];
};

RECON_FN int column_group() { return static_cast<int>(threadIdx.x) % 16; }
RECON_FN int first_sample() { return static_cast<int>(threadIdx.x) / 16 * 4; }
// The thread's columns: vectors of four where there are enough.
template <int J>
RECON_FN int column_of(int j) {
    return J >= 4 ? j / 4 * 64 + column_group() * 4 + j % 4 : j * 16 + column_group();
}

RECON_FN int64_t offset_of(const MlpParams& p, int layer) {
    const int64_t hidden = p.hidden_width;
    return layer == 0 ? 0 : p.input_width * hidden + (layer - 1) * hidden * hidden;
}
RECON_FN int width_of(const MlpParams& p, int layer) {
    return layer == 0 ? p.input_width : layer > p.hidden_layers ? p.output_width : p.hidden_width;
}

// Rows of an array become the current layer: zeros behind its last sample and from column `width` to `padded`.
RECON_FN void load_layer(const float* rows, int64_t stride, int width, int padded, int64_t first, int64_t samples,
                         TileMemory& m) {
#pragma unroll 2
    for (int at = static_cast<int>(threadIdx.x); at < kTile * padded; at += kThreads) {
        const int sample = at / padded, column = at % padded;
        const bool exists = first + sample < samples && column < width;
        m.layer[column][sample] = exists ? rows[(first + sample) * stride + column] : 0.0f;
    }
}

// A slice of a matrix, or of its transpose, of which element [k][c] lies at k · down + c · right.
template <int J>
RECON_FN void load_slice(const float* matrix, int64_t down, int64_t right, int columns, TileMemory& m) {
#pragma unroll 2
    for (int at = static_cast<int>(threadIdx.x); at < kSlice * 16 * J; at += kThreads) {
        const int k = down == 1 ? at % kSlice : at / (16 * J), c = down == 1 ? at / kSlice : at % (16 * J);
        m.slice[k * (16 * J + 4) + c] = c < columns ? matrix[k * down + c * right] : 0.0f;
    }
}

// sums += layer · matrix, where the matrix is `rows` by `columns`.  All threads have read the layer when it returns.
template <int J>
RECON_FN void multiply(const float* matrix, int64_t down, int64_t right, int rows, int columns, TileMemory& m,
                       Sums<J>& sums) {
#pragma unroll 1
    for (int from = 0; from < rows; from += kSlice) {
        __syncthreads();
        load_slice<J>(matrix + from * down, down, right, columns, m);
        __syncthreads();
#pragma unroll 2
        for (int k = 0; k < kSlice; ++k) {
            const Four a = load_four(&m.layer[from + k][first_sample()]);
            float b[J];
            const float* row = m.slice + k * (16 * J + 4);
#pragma unroll
            for (int j = 0; j < J; j += J >= 4 ? 4 : 1) {
                if constexpr (J >= 4) {
                    const Four four = load_four(row + column_of<J>(j));
                    b[j] = four.x, b[j + 1] = four.y, b[j + 2] = four.z, b[j + 3] = four.w;
                } else {
                    b[j] = row[column_of<J>(j)];
                }
            }
#pragma unroll
            for (int j = 0; j < J; ++j) {
                sums.of[0][j] = fma_(a.x, b[j], sums.of[0][j]);
                sums.of[1][j] = fma_(a.y, b[j], sums.of[1][j]);
                sums.of[2][j] = fma_(a.z, b[j], sums.of[2][j]);
                sums.of[3][j] = fma_(a.w, b[j], sums.of[3][j]);
            }
        }
    }
    __syncthreads();
}

template <int J>
RECON_FN void clear(Sums<J>& sums) {
#pragma unroll
    for (int j = 0; j < J; ++j)
#pragma unroll
        for (int s = 0; s < 4; ++s) sums.of[s][j] = 0.0f;
}

// The layer becomes hidden layer `number`, counted from 0; `keep` gets a copy where it is not null.
template <int J>
RECON_FN void to_hidden(const MlpParams& p, int number, int64_t first, float* keep, TileMemory& m) {
    const int width = p.hidden_width;
    Sums<J> sums;
    clear(sums);
    if (number == 0 && p.row_bias != nullptr) {
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            const int64_t sample = first + first_sample() + s;
            if (sample >= p.samples) continue;
            const float* bias = p.row_bias + static_cast<int64_t>(p.row_of[sample]) * width;
#pragma unroll
            for (int j = 0; j < J; ++j)
                if (column_of<J>(j) < width) sums.of[s][j] = bias[column_of<J>(j)];
        }
    }
    multiply<J>(p.parameters + offset_of(p, number), width, 1, width_of(p, number), width, m, sums);
#pragma unroll
    for (int j = 0; j < J; ++j) {
        const int column = column_of<J>(j);
        if (column >= width) continue;
        const Four h{activate(sums.of[0][j]), activate(sums.of[1][j]), activate(sums.of[2][j]),
                     activate(sums.of[3][j])};
        store_four(&m.layer[column][first_sample()], h);
        if (keep != nullptr) store_four(keep + column * kTile + first_sample(), h);
    }
}

// Writes layer · matrix to rows of `columns` numbers.
template <int J>
RECON_FN void to_rows(const float* matrix, int64_t down, int64_t right, int rows, int columns, int64_t first,
                      int64_t samples, float* out, TileMemory& m) {
    Sums<J> sums;
    clear(sums);
    multiply<J>(matrix, down, right, rows, columns, m, sums);
#pragma unroll
    for (int s = 0; s < 4; ++s) {
        const int64_t sample = first + first_sample() + s;
        if (sample >= samples) continue;
#pragma unroll
        for (int j = 0; j < J; ++j)
            if (column_of<J>(j) < columns) out[sample * columns + column_of<J>(j)] = sums.of[s][j];
    }
}

// The layer, a gradient by the outputs of matrix `layer`, becomes that by the sums of hidden layer `layer` - 1.
template <int J>
RECON_FN void through_hidden(const MlpParams& p, int layer, const float* kept, TileMemory& m) {
    const int width = p.hidden_width, outputs = width_of(p, layer + 1);
    Sums<J> sums;
    clear(sums);
    multiply<J>(p.parameters + offset_of(p, layer), 1, outputs, outputs, width, m, sums);
#pragma unroll
    for (int j = 0; j < J; ++j) {
        const int column = column_of<J>(j);
        if (column >= width) continue;
        const Four h = load_four(kept + column * kTile + first_sample());
        store_four(&m.layer[column][first_sample()],
                   {through_activation(h.x, sums.of[0][j]), through_activation(h.y, sums.of[1][j]),
                    through_activation(h.z, sums.of[2][j]), through_activation(h.w, sums.of[3][j])});
    }
}

RECON_FN float add_products(const Four& a, const Four& b, float sum) {
    return fma_(a.w, b.w, fma_(a.z, b.z, fma_(a.y, b.y, fma_(a.x, b.x, sum))));
}

// The inputs of a matrix: kept numbers by samples, or rows of an array.
struct Source {
    const float* kept;
    const float* rows;
    int64_t stride, first, samples;
};
RECON_FN void load_hidden_slice(const Source& from, int begin, int count, TileMemory& m) {
#pragma unroll 2
    for (int at = static_cast<int>(threadIdx.x); at < count * kTile; at += kThreads) {
        if (from.kept != nullptr) {
            m.slice[at / kTile * kPitch + at % kTile] = from.kept[begin * kTile + at];
            continue;
        }
        const int k = at % count, sample = at / count;
        const bool exists = from.first + sample < from.samples;
        m.slice[k * kPitch + sample] = exists ? from.rows[(from.first + sample) * from.stride + begin + k] : 0.0f;
    }
}

// Adds inputsᵀ · layer to `to` [inputs, columns], or writes it there.
template <int J>
RECON_FN void add_parameters(const Source& from, int inputs, int columns, bool fresh, float* to, TileMemory& m) {
    const int ty = static_cast<int>(threadIdx.x) / 16;
#pragma unroll 1
    for (int begin = 0; begin < inputs; begin += kHiddenSlice) {
        const int count = inputs - begin < kHiddenSlice ? inputs - begin : kHiddenSlice;
        __syncthreads();
        load_hidden_slice(from, begin, count, m);
        __syncthreads();
        float sums[2][J];
#pragma unroll
        for (int j = 0; j < J; ++j) sums[0][j] = 0.0f, sums[1][j] = 0.0f;
#pragma unroll 2
        for (int s = 0; s < kTile; s += 4) {
            const Four a = load_four(m.slice + ty * kPitch + s);
            const Four b = load_four(m.slice + (ty + 16) * kPitch + s);
#pragma unroll
            for (int j = 0; j < J; ++j) {
                const Four d = load_four(&m.layer[column_group() + 16 * j][s]);
                sums[0][j] = add_products(a, d, sums[0][j]);
                sums[1][j] = add_products(b, d, sums[1][j]);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (ty + 16 * i >= count) continue;
            float* row = to + static_cast<int64_t>(begin + ty + 16 * i) * columns;
#pragma unroll
            for (int j = 0; j < J; ++j) {
                const int column = column_group() + 16 * j;
                if (column < columns) row[column] = fresh ? sums[i][j] : row[column] + sums[i][j];
            }
        }
    }
}

template <int N>
struct Constant {
    static constexpr int value = N;
};
// Calls `run` with the number of a thread's columns as a constant.
template <class Run>
RECON_FN void for_columns(int columns, const Run& run) {
    if (columns <= 16)
        run(Constant<1>{});
    else if (columns <= 32)
        run(Constant<2>{});
    else if (columns <= 64)
        run(Constant<4>{});
    else
        run(Constant<8>{});
}

// Turns the inputs of a tile into its last hidden layer; keeps them all where `kept` is not null.
RECON_FN void hidden_layers(const MlpParams& p, int64_t first, float* kept, TileMemory& m) {
    __syncthreads();
    load_layer(p.inputs, p.input_stride, p.input_width, p.input_width, first, p.samples, m);
#pragma unroll 1
    for (int i = 0; i < p.hidden_layers; ++i) {
        float* keep = kept == nullptr ? nullptr : kept + static_cast<int64_t>(i) * p.hidden_width * kTile;
        for_columns(p.hidden_width, [&](auto j) { to_hidden<decltype(j)::value>(p, i, first, keep, m); });
    }
}

// The samples of each row of the bias within a tile; a thread owns a column.
RECON_FN void sum_bias(const MlpLaunch& p, int64_t tile, const TileMemory& m) {
    const MlpParams& q = p.net;
    const int64_t first = tile * kTile, width = q.hidden_width;
    const int column = static_cast<int>(threadIdx.x);
    if (column >= width) return;
    int64_t row = first > 0 ? q.row_of[first - 1] : -1;
    float* to = p.heads + tile * width;
    float sum = 0.0f;
    for (int s = 0; s < kTile && first + s < q.samples; ++s) {
        const int64_t next = q.row_of[first + s];
        if (next != row) {
            to[column] = sum;
            row = next, sum = 0.0f;
            to = q.row_bias_gradient + row * width;
        }
        sum += m.layer[column][s];
    }
    to[column] = sum;
}

RECON_FN void backward_tile(const MlpLaunch& p, int64_t tile, bool fresh, TileMemory& m) {
    const MlpParams& q = p.net;
    const int64_t first = tile * kTile, layer_floats = static_cast<int64_t>(q.hidden_width) * kTile;
    float* kept = p.hidden + static_cast<int64_t>(blockIdx.x) * q.hidden_layers * layer_floats;
    float* sums = p.sums + static_cast<int64_t>(blockIdx.x) * p.parameters;
    hidden_layers(q, first, kept, m);
    __syncthreads();
    load_layer(q.gradient, q.gradient_stride, q.gradient_width, q.output_width, first, q.samples, m);
#pragma unroll 1
    for (int layer = q.hidden_layers; layer > 0; --layer) {
        const Source from{kept + (layer - 1) * layer_floats, nullptr, 0, 0, 0};
        const int outputs = width_of(q, layer + 1);
        float* to = sums + offset_of(q, layer);
        for_columns(outputs, [&](auto j) {
            add_parameters<decltype(j)::value>(from, q.hidden_width, outputs, fresh, to, m);
        });
        for_columns(q.hidden_width, [&](auto j) { through_hidden<decltype(j)::value>(q, layer, from.kept, m); });
    }
    const Source from{nullptr, q.inputs, q.input_stride, first, q.samples};
    for_columns(q.hidden_width, [&](auto j) {
        add_parameters<decltype(j)::value>(from, q.input_width, q.hidden_width, fresh, sums, m);
    });
    if (q.row_bias_gradient != nullptr) sum_bias(p, tile, m);
    if (q.input_gradient == nullptr) return;
    for_columns(q.input_width, [&](auto j) {
        to_rows<decltype(j)::value>(q.parameters, 1, q.hidden_width, q.hidden_width, q.input_width, first, q.samples,
                                    q.input_gradient, m);
    });
}

struct PartSums {
    float of[8][32];
};

}  // namespace
}  // namespace recon

using namespace recon;

// A block for each tile.
RECON_KERNEL(mlp_forward, MlpLaunch, 256) {
    RECON_SHARED(TileMemory, m);
    const MlpParams& q = p.net;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
    hidden_layers(q, first, nullptr, m);
    const float* matrix = q.parameters + offset_of(q, q.hidden_layers);
    for_columns(q.output_width, [&](auto j) {
        to_rows<decltype(j)::value>(matrix, q.output_width, 1, q.hidden_width, q.output_width, first, q.samples,
                                    q.outputs, m);
    });
}

RECON_KERNEL(mlp_backward, MlpLaunch, 256) {
    RECON_SHARED(TileMemory, m);
    for (int64_t tile = blockIdx.x; tile < p.tiles; tile += p.blocks)
        backward_tile(p, tile, tile == static_cast<int64_t>(blockIdx.x), m);
}

// A block owns 32 parameters; each of its warps sums every eighth block's.
RECON_KERNEL(mlp_sum_parameters, MlpLaunch, 256) {
    RECON_SHARED(PartSums, parts);
    const int lane = lane_number(), warp = warp_number();
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t block = warp; block < p.blocks; block += 8) sum += p.sums[block * p.parameters + i];
    parts.of[warp][lane] = sum;
    __syncthreads();
    if (warp > 0) return;
    for (int w = 1; w < 8; ++w) sum += parts.of[w][lane];
    p.net.parameter_gradient[i] = sum;
}

// A thread owns a column of a tile's head, and adds those of the tiles behind it that belong to the same row.
RECON_KERNEL(mlp_finish_bias, MlpLaunch, 256) {
    const MlpParams& q = p.net;
    const int64_t width = q.hidden_width, tile = global_thread() / width, column = global_thread() % width;
    const auto continues = [&](int64_t t) { return t > 0 && q.row_of[t * kTile] == q.row_of[t * kTile - 1]; };
    if (tile >= p.tiles || !continues(tile)) return;
    const int64_t row = q.row_of[tile * kTile];
    if (continues(tile - 1) && q.row_of[(tile - 1) * kTile] == row) return;
    float* to = q.row_bias_gradient + row * width + column;
    float sum = *to;
    for (int64_t t = tile; t < p.tiles && q.row_of[t * kTile] == row; ++t) sum += p.heads[t * width + column];
    *to = sum;
}
