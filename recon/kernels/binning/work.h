// SPDX-License-Identifier: Apache-2.0
// The memory of binning, kept from picture to picture: it only grows.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "recon/kernels/binning/lanes.h"

namespace recon {

// Uninitialised memory.  Growing loses what it held; a request that cannot be met leaves it empty.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(memory_); }

    bool fit(int64_t count) {
        if (count <= capacity_) return true;
        std::free(memory_);
        memory_ = static_cast<T*>(std::malloc(static_cast<size_t>(count) * sizeof(T)));
        capacity_ = memory_ != nullptr ? count : 0;
        return memory_ != nullptr;
    }
    T* data() const { return memory_; }
    T& operator[](int64_t i) const { return memory_[i]; }

  private:
    T* memory_ = nullptr;
    int64_t capacity_ = 0;
};

constexpr int kBlock = 512;       // Gaussians
constexpr int kMaxChunks = 64;    // of the picture's depth

// The pairs of one block of Gaussians: for each the slot chunk · tiles + tile of the counters.
struct PairList {
    int32_t* slots = nullptr;
    int64_t size = 0, capacity = 0;

    // Makes room for `more` pairs and for a pack written past them.
    bool reserve(int64_t more) {
        const int64_t wanted = size + more + kLanes;
        if (wanted <= capacity) return true;
        const int64_t room = wanted > 2 * capacity ? wanted : 2 * capacity;
        void* grown = std::realloc(slots, static_cast<size_t>(room) * sizeof(int32_t));
        if (grown == nullptr) return false;
        slots = static_cast<int32_t*>(grown);
        capacity = room;
        return true;
    }
};

// What is known of one block of Gaussians.
struct Block {
    PairList list;
    int64_t first_pair = 0;                // of the picture
    int32_t starts[kBlock + 1];            // each Gaussian's first pair, within the list
    int32_t chunk_starts[kMaxChunks + 1];  // within `keys`
    uint64_t keys[kBlock];                 // by chunk: depth key in the high, Gaussian in the low half
};

class Blocks {
  public:
    Blocks() = default;
    Blocks(const Blocks&) = delete;
    Blocks& operator=(const Blocks&) = delete;
    ~Blocks() {
        for (int64_t i = 0; i < count_; ++i) std::free(blocks_[i].list.slots);
        std::free(blocks_);
    }

    bool fit(int64_t count) {
        if (count <= count_) return true;
        void* grown = std::realloc(static_cast<void*>(blocks_), static_cast<size_t>(count) * sizeof(Block));
        if (grown == nullptr) return false;
        blocks_ = static_cast<Block*>(grown);
        for (; count_ < count; ++count_) blocks_[count_].list = PairList();
        return true;
    }
    Block& operator[](int64_t i) const { return blocks_[i]; }

  private:
    Block* blocks_ = nullptr;
    int64_t count_ = 0;
};

// What bin_count hands on to bin_fill, and the memory of both.
struct BinWork {
    Blocks blocks;
    Buffer<int32_t> counters;  // [threads, chunks, tiles]: pairs, later in [0] the places within a tile's list
    Buffer<uint64_t> sorting;  // [threads, 2, Gaussians of the largest chunk]

    int threads = 1;
    int chunks = 1;
    float splitters[kMaxChunks];           // the depth that chunk i + 1 starts with
    int64_t largest_chunk = 0;
};

}  // namespace recon
