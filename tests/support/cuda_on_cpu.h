// As much of CUDA C++ as the kernels of this library use, for a C++ compiler on Linux: a kernel runs
// on host memory, block after block. The threads of a block are contexts of one processor thread;
// each runs to the next barrier, in an order drawn at random, before any goes on. What depends on
// that order gives other results with another seed.
//
// The kernel's source goes between this header and LAUNCHER(its name).

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory"), used))
#define __syncthreads() emulator::barrier(__LINE__)

using std::exp;
using std::expm1;
using std::log1p;

inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim;

extern "C" __attribute__((weak)) char __start_shared_memory[], __stop_shared_memory[];

namespace emulator {

enum Fault { none, skipped_barrier, too_much_shared_memory };
enum State { running, finished, waiting };
constexpr std::size_t stack_bytes = 32 << 10, shared_bytes = 48 << 10;

struct Thread {
    ucontext_t context;
    Index index;
    State state;
    int line;  // of the barrier where it waits
};

static ucontext_t scheduler;
static Thread* current;
static void (*body)(void**);
static void** arguments;

inline void barrier(int line) {
    Thread* const self = current;
    self->state = waiting;
    self->line = line;
    swapcontext(&self->context, &scheduler);
    asm volatile("" ::: "memory");
}

inline void start() {
    body(arguments);
    current->state = finished;
}

// All threads go on, if they are all at the same barrier.
inline bool released(std::vector<Thread>& threads) {
    for (Thread& thread : threads)
        if (thread.state != waiting || thread.line != threads[0].line) return false;
    for (Thread& thread : threads) thread.state = running;
    return true;
}

// Marsaglia's xorshift, in place of <random>, which is most of the time that a compilation takes.
struct Draw {
    unsigned state;
    unsigned below(std::size_t count) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        return state % count;
    }
};

inline void shuffle(std::vector<Thread*>& order, Draw& draw) {
    for (std::size_t left = order.size(); left > 1; --left)
        std::swap(order[left - 1], order[draw.below(left)]);
}

// All threads of one block, from barrier to barrier.
inline Fault run_block(std::vector<Thread>& threads, std::vector<char>& stacks, Draw& draw) {
    // What no thread has written yet is NaN, or -1.
    std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    std::vector<Thread*> order;
    for (Thread& thread : threads) {
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = &stacks[order.size() * stack_bytes];
        thread.context.uc_stack.ss_size = stack_bytes;
        thread.context.uc_link = &scheduler;
        makecontext(&thread.context, start, 0);
        thread.state = running;
        order.push_back(&thread);
    }
    do {
        shuffle(order, draw);
        for (Thread* thread : order) {
            if (thread->state != running) continue;
            current = thread;
            threadIdx = thread->index;
            swapcontext(&scheduler, &thread->context);
        }
    } while (released(threads));
    for (Thread& thread : threads)
        if (thread.state != finished) return skipped_barrier;
    return none;
}

template <class... Given, std::size_t... I>
void call(void (*kernel)(Given...), void** given, std::index_sequence<I...>) {
    kernel(*static_cast<Given*>(given[I])...);
}

template <class... Given>
void call(void (*kernel)(Given...), void** given) {
    call(kernel, given, std::index_sequence_for<Given...>());
}

template <class... Given>
int sizes_of(void (*)(Given...), int* sizes) {
    int i = 0;
    ((sizes[i++] = sizeof(Given)), ...);
    return i;
}

}  // namespace emulator

// argument_sizes(sizes) says how many arguments there are, and writes the bytes of each; launch(grid,
// block, arguments, seed) runs the kernel, and returns a Fault.
#define LAUNCHER(kernel)                                                                           \
    extern "C" int argument_sizes(int* sizes) { return emulator::sizes_of(kernel, sizes); }         \
    extern "C" int launch(const unsigned* grid, const unsigned* block, void** given,               \
                          unsigned seed) {                                                         \
        using namespace emulator;                                                                  \
        if (__stop_shared_memory - __start_shared_memory > static_cast<long>(shared_bytes))         \
            return too_much_shared_memory;                                                         \
        body = [](void** values) { call(kernel, values); };                                         \
        arguments = given;                                                                         \
        std::vector<Thread> threads;                                                               \
        for (unsigned y = 0; y < block[1]; ++y)                                                     \
            for (unsigned x = 0; x < block[0]; ++x) {                                               \
                threads.push_back({});                                                             \
                threads.back().index = {x, y, 0};                                                  \
            }                                                                                      \
        std::vector<char> stacks(threads.size() * stack_bytes);                                     \
        gridDim = {grid[0], grid[1], 1};                                                           \
        Draw draw{2654435769u * (2 * seed + 1)};                                                   \
        for (unsigned y = 0; y < grid[1]; ++y)                                                      \
            for (unsigned x = 0; x < grid[0]; ++x) {                                                \
                blockIdx = {x, y, 0};                                                              \
                const Fault fault = run_block(threads, stacks, draw);                               \
                if (fault != none) return fault;                                                   \
            }                                                                                      \
        return none;                                                                               \
    }
