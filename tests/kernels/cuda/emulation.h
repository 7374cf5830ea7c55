// SPDX-License-Identifier: Apache-2.0
// Blocks and warps on a CPU: each thread of a block is a fiber, the fibers of a block take turns, and blocks run one
// after another in the order of their numbers.  Slow and exact.
//
// A collective of a warp or a barrier of a block lets a fiber wait until all that take part have come; where none can
// go on, the launch fails instead of hanging.  Shared memory starts as NaN (all bits set) in each block.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

constexpr int kMostThreads = 1024;
constexpr size_t kStack = 128 * 1024;
constexpr size_t kSharedBytes = 256 * 1024;

#if defined(__x86_64__)
// Saves what a call must preserve and takes up the other stack.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch, .-emulation_switch
)");
#endif

struct Warp {
    uint64_t slots[2][32];
    int arrived = 0;
    unsigned generation = 0;
};

struct Fiber {
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    bool done = false;
    size_t shared_used = 0;
};

struct Machine {
    Index thread, block, block_size, grid_size;
    int current = 0, threads = 0, live = 0, arrived = 0;
    unsigned generation = 0;
    bool any = false, any_result = false, moved = false;
    std::vector<Warp> warps;
    std::vector<Fiber> fibers;
    std::vector<char> stacks, shared;
    void (*body)(const void*) = nullptr;
    const void* params = nullptr;
#if defined(__x86_64__)
    void* home = nullptr;
#else
    ucontext_t home;
#endif
};
inline Machine machine;

inline void leave() {
    Machine& m = machine;
#if defined(__x86_64__)
    emulation_switch(&m.fibers[m.current].stack_pointer, m.home);
#else
    swapcontext(&m.fibers[m.current].context, &m.home);
#endif
}

inline void fiber_main() {
    machine.body(machine.params);
    machine.fibers[machine.current].done = true;
    machine.moved = true;
    --machine.live;
    for (;;) leave();
}

inline void enter(int thread) {
    Machine& m = machine;
    m.current = thread;
    m.thread.x = static_cast<unsigned>(thread);
#if defined(__x86_64__)
    emulation_switch(&m.home, m.fibers[thread].stack_pointer);
#else
    swapcontext(&m.home, &m.fibers[thread].context);
#endif
}

inline void prepare(int thread) {
    Machine& m = machine;
    Fiber& fiber = m.fibers[thread];
    fiber.done = false;
    fiber.shared_used = 0;
    char* stack = m.stacks.data() + kStack * static_cast<size_t>(thread);
#if defined(__x86_64__)
    auto** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + kStack) & ~uintptr_t(63));
    *--top = nullptr;  // so that the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#endif
}

// Runs a kernel over a grid; 0 if all threads ended, 1 if they waited for each other in vain.
inline int run(void (*body)(const void*), int64_t blocks, int threads, const void* params) {
    Machine& m = machine;
    m.body = body, m.params = params, m.threads = threads;
    m.block_size = {static_cast<unsigned>(threads), 1, 1};
    m.grid_size = {static_cast<unsigned>(blocks), 1, 1};
    m.fibers.resize(kMostThreads);
    m.stacks.resize(kStack * kMostThreads);
    m.shared.resize(kSharedBytes + 64);
    for (int64_t block = 0; block < blocks; ++block) {
        m.block = {static_cast<unsigned>(block), 0, 0};
        m.live = threads, m.arrived = 0, m.generation = 0, m.any = false;
        m.warps.assign(static_cast<size_t>((threads + 31) / 32), Warp{});
        std::memset(m.shared.data(), 0xff, m.shared.size());
        for (int thread = 0; thread < threads; ++thread) prepare(thread);
        while (m.live > 0) {
            m.moved = false;
            for (int thread = 0; thread < threads; ++thread)
                if (!m.fibers[thread].done) enter(thread);
            if (!m.moved) return 1;
        }
    }
    return 0;
}

template <class T>
T& shared_object() {
    Machine& m = machine;
    size_t& used = m.fibers[m.current].shared_used;
    auto base = reinterpret_cast<uintptr_t>(m.shared.data());
    base = (base + 63) & ~uintptr_t(63);
    T* object = reinterpret_cast<T*>(base + used);
    used += (sizeof(T) + 15) / 16 * 16;
    if (used > 48 * 1024) std::fprintf(stderr, "more than 48 KiB of shared memory\n"), std::abort();
    return *object;
}

// Waits for all lanes of the warp; what each of them brings is then in the returned slots until the next but one call.
inline const uint64_t* meet(uint64_t value) {
    Machine& m = machine;
    Warp& warp = m.warps[static_cast<size_t>(m.current / 32)];
    const unsigned generation = warp.generation;
    uint64_t* slots = warp.slots[generation & 1];
    slots[m.current % 32] = value;
    m.moved = true;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        ++warp.generation;
    } else {
        while (warp.generation == generation) leave();
    }
    return slots;
}

template <class T>
uint64_t packed(T value) {
    static_assert(sizeof(T) <= 8, "one word");
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    return word;
}
template <class T>
T unpacked(uint64_t word) {
    T value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

inline bool barrier(bool value) {
    Machine& m = machine;
    const unsigned generation = m.generation;
    m.any = m.any || value;
    m.moved = true;
    ++m.arrived;
    while (m.generation == generation) {
        if (m.arrived >= m.live) {  // threads that have ended do not come
            m.arrived = 0;
            m.any_result = m.any;
            m.any = false;
            ++m.generation;
            m.moved = true;
        } else {
            leave();
        }
    }
    return m.any_result;
}

}  // namespace emulation

#define threadIdx emulation::machine.thread
#define blockIdx emulation::machine.block
#define blockDim emulation::machine.block_size
#define gridDim emulation::machine.grid_size

#define RECON_KERNEL(name, Params, threads)                                             \
    static void name##_body(const Params& p);                                           \
    extern "C" int name(int64_t blocks, const void* params) {                           \
        return emulation::run([](const void* q) { name##_body(*static_cast<const Params*>(q)); }, blocks, threads, \
                              params);                                                  \
    }                                                                                   \
    extern "C" int64_t name##_bytes() { return sizeof(Params); }                        \
    static void name##_body(const Params& p)
#define RECON_SHARED(Type, name) auto& name = emulation::shared_object<Type>()

inline void __syncthreads() { emulation::barrier(false); }
inline void __syncwarp() { emulation::meet(0); }
inline void __threadfence() {}
inline unsigned __ballot_sync(unsigned, bool value) {
    const uint64_t* slots = emulation::meet(value);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= (slots[lane] ? 1u : 0u) << lane;
    return bits;
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return emulation::unpacked<T>(emulation::meet(emulation::packed(value))[lane & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    const int lane = emulation::machine.current % 32;
    return emulation::unpacked<T>(emulation::meet(emulation::packed(value))[lane ^ mask]);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int step) {
    const int lane = emulation::machine.current % 32;
    return emulation::unpacked<T>(emulation::meet(emulation::packed(value))[lane >= step ? lane - step : lane]);
}
inline unsigned __match_any_sync(unsigned, unsigned value) {
    const uint64_t* slots = emulation::meet(value);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= (slots[lane] == value ? 1u : 0u) << lane;
    return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
template <class T, class U>
T atomicAdd(T* where, U value) {
    const T old = *where;
    *where = static_cast<T>(old + value);
    return old;
}
template <class T, class U>
T atomicMax(T* where, U value) {
    const T old = *where;
    if (old < static_cast<T>(value)) *where = static_cast<T>(value);
    return old;
}
template <class T>
T atomicCAS(T* where, T expected, T value) {
    const T old = *where;
    if (old == expected) *where = value;
    return old;
}
inline int __float_as_int(float value) { return emulation::unpacked<int>(emulation::packed(value)); }
inline unsigned __float_as_uint(float value) { return emulation::unpacked<unsigned>(emulation::packed(value)); }
inline float __uint_as_float(unsigned value) { return emulation::unpacked<float>(value); }
#define __forceinline__ inline
#define __device__
