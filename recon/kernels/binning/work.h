// SPDX-License-Identifier: Apache-2.0
// The memory of binning, kept from picture to picture: it only grows.
#pragma once

#include <cstdint>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "recon/kernels/binning/lanes.h"

namespace recon {

constexpr size_t kHugePage = 1 << 21;

// Scattered access to more memory than a few megabytes waits for addresses to be looked up, unless the pages are huge.
// A wish, which the system may grant; asked for before the memory is first touched.
inline void prefer_huge_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
    if (memory != nullptr && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

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
        const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kPage - 1) / kPage * kPage;
        void* memory = nullptr;
        if (posix_memalign(&memory, bytes < kHugePage ? kPage : kHugePage, bytes) != 0) memory = nullptr;
        memory_ = static_cast<T*>(memory);
        capacity_ = memory_ != nullptr ? count : 0;
        prefer_huge_pages(memory_, static_cast<int64_t>(bytes));
        return memory_ != nullptr;
    }
    T* data() const { return memory_; }
    T& operator[](int64_t i) const { return memory_[i]; }

  private:
    static constexpr size_t kPage = 4096;

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

// What is known of one Gaussian that touches tiles.
struct Record {
    uint32_t depth_key;
    int32_t start;   // of its pairs in the block's list
    int32_t corner;  // the slot of its bounding tiles' first one, or where `cover` is 0 the number of its pairs
    uint16_t cover;  // which of 4×4 tiles from the corner on it touches, a bit each, row by row; 0: see the list
    uint16_t place;  // of the Gaussian in its block
};

// What is known of one block of Gaussians.
struct Block {
    int64_t first_pair;                    // of the picture
    int32_t chunk_starts[kMaxChunks + 1];  // within `records`
    alignas(64) Record records[kBlock];    // by chunk, then by number
};

// A Gaussian of a chunk on its way into the tiles' lists.
struct Touch {
    uint32_t gaussian, pair;
    int32_t corner;
    uint32_t cover;
};

// The lists of pairs, a block each; they keep their memory.
class PairLists {
  public:
    PairLists() = default;
    PairLists(const PairLists&) = delete;
    PairLists& operator=(const PairLists&) = delete;
    ~PairLists() {
        for (int64_t i = 0; i < count_; ++i) std::free(lists_[i].slots);
        std::free(lists_);
    }

    bool fit(int64_t count) {
        if (count <= count_) return true;
        void* grown = std::realloc(static_cast<void*>(lists_), static_cast<size_t>(count) * sizeof(PairList));
        if (grown == nullptr) return false;
        lists_ = static_cast<PairList*>(grown);
        for (; count_ < count; ++count_) lists_[count_] = PairList();
        return true;
    }
    PairList& operator[](int64_t i) const { return lists_[i]; }

  private:
    PairList* lists_ = nullptr;
    int64_t count_ = 0;
};

// What bin_count hands on to bin_fill, and the memory of both.
struct BinWork {
    Buffer<Block> blocks;
    PairLists lists;
    Buffer<int32_t> counters;  // [threads, chunks, tiles]: pairs, later in [0] the places within a tile's list
    Buffer<uint64_t> sorting;  // [threads, 2, Gaussians of the largest chunk]
    Buffer<Touch> touches;     // [threads, Gaussians of the largest chunk]

    int threads = 1;
    int chunks = 1;
    float splitters[kMaxChunks];           // the depth that chunk i + 1 starts with
    int64_t largest_chunk = 0;
    const int32_t* entries = nullptr;  // of the last picture
    int64_t pairs = 0, wished = 0;     // of this picture, and those that `entries` had huge pages wished for
};

}  // namespace recon
