// As much of CUDA C++ as the kernels of this library use, for a C++ compiler on Linux: a kernel runs
// on host memory, block after block. The threads of a block are contexts of one processor thread;
// each runs to the next barrier, in an order drawn at random, before any goes on. What depends on
// that order gives other results with another seed.
//
// The kernel's source goes between this header and LAUNCHER(its name).

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
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
static Index threadIdx, blockIdx;

extern "C" char __start_shared_memory[], __stop_shared_memory[];

namespace emulator {

enum Fault { none, skipped_barrier, too_much_shared_memory };
constexpr int running = 0, finished = -1;  // else: the line of the barrier where a thread waits
constexpr std::size_t stack_bytes = 32 << 10, shared_bytes = 48 << 10;

struct Thread {
    ucontext_t context;
    Index index;
    int state;
};

static ucontext_t scheduler;
static Thread* current;
static void (*body)(void**);
static void** arguments;

inline void barrier(int line) {
    current->state = line;
    Thread* const self = current;
    swapcontext(&self->context, &scheduler);
    asm volatile("" ::: "memory");
}

inline void start() {
    body(arguments);
    current->state = finished;
}

// All threads of one block, from barrier to barrier.
inline Fault run_block(std::vector<Thread>& threads, std::vector<char>& stacks, std::mt19937& draw) {
    // What no thread has written yet is NaN, or -1.
    std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    for (std::size_t i = 0; i < threads.size(); ++i) {
        Thread& thread = threads[i];
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = &stacks[i * stack_bytes];
        thread.context.uc_stack.ss_size = stack_bytes;
        thread.context.uc_link = &scheduler;
        makecontext(&thread.context, start, 0);
        thread.state = running;
    }
    std::vector<Thread*> order;
    for (Thread& thread : threads) order.push_back(&thread);
    do {
        std::shuffle(order.begin(), order.end(), draw);
        for (Thread* thread : order) {
            current = thread;
            threadIdx = thread->index;
            swapcontext(&scheduler, &thread->context);
            if (thread->state != order[0]->state) return skipped_barrier;
        }
    } while (order[0]->state != finished);
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
    extern "C" int launch(const unsigned* grid, const unsigned* block, void** given,                \
                          unsigned seed) {                                                         \
        using namespace emulator;                                                                  \
        if (__stop_shared_memory - __start_shared_memory > static_cast<long>(shared_bytes))         \
            return too_much_shared_memory;                                                         \
        body = [](void** values) { call(kernel, values); };                                         \
        arguments = given;                                                                         \
        std::vector<Thread> threads;                                                               \
        for (unsigned y = 0; y < block[1]; ++y)                                                     \
            for (unsigned x = 0; x < block[0]; ++x) threads.push_back({{}, {x, y, 0}, running});    \
        std::vector<char> stacks(threads.size() * stack_bytes);                                     \
        std::mt19937 draw(seed);                                                                   \
        for (unsigned y = 0; y < grid[1]; ++y)                                                      \
            for (unsigned x = 0; x < grid[0]; ++x) {                                                \
                blockIdx = {x, y, 0};                                                              \
                const Fault fault = run_block(threads, stacks, draw);                               \
                if (fault != none) return fault;                                                   \
            }                                                                                      \
        return none;                                                                               \
    }
