// As much of CUDA C++ as the kernels of this library use, for a C++ compiler on Linux: a kernel runs
// on host memory, block after block. The threads of a block are contexts of one processor thread;
// each runs to the next barrier, in an order drawn at random, before any goes on. A shuffle is a
// barrier of its warp. What depends on that order gives other results with another seed.
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
#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(emulator::dynamic)
#define __syncthreads() emulator::barrier(emulator::block, __LINE__)
#define __shfl_xor_sync(mask, value, lanes) \
    emulator::shuffle(mask, value, emulator::lane() ^ (lanes), __LINE__)
#define __shfl_sync(mask, value, lane) emulator::shuffle(mask, value, lane, __LINE__)
#define __ballot_sync(mask, holds) emulator::ballot(mask, holds, __LINE__)
#define __popc(bits) __builtin_popcount(bits)
#define __ffs(bits) __builtin_ffs(static_cast<int>(bits))

using std::exp;
using std::expm1;
using std::log1p;

inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

#define HALF_TO_FLOAT(bits) emulator::half_to_float(bits)

namespace emulator {
inline float half_to_float(unsigned short bits) {
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return static_cast<float>(value);
}
}  // namespace emulator

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim;

extern "C" char __start_shared_memory[], __stop_shared_memory[];

namespace emulator {

enum Fault { none, skipped_barrier, too_much_shared_memory };
enum State { running, finished, warp, block };  // the last two: what is waited for
constexpr std::size_t stack_bytes = 32 << 10, static_bytes = 48 << 10, shared_bytes = 227 << 10;
constexpr int lanes = 32;

struct Thread {
    ucontext_t context;
    Index index;
    int number;  // in its block
    State state;
    int line;                 // of the barrier where it waits
    unsigned long long given;  // to others of its warp
};

static ucontext_t scheduler;
static Thread *current, *all;
static void (*body)(void**);
static void** arguments;
static char* dynamic;

inline void barrier(State what, int line) {
    Thread* const self = current;
    self->state = what;
    self->line = line;
    swapcontext(&self->context, &scheduler);
    asm volatile("" ::: "memory");
}

inline int lane() { return current->number % lanes; }

// take(warp) when all of the warp have given their values, and nobody has given another yet.
template <class T, class Take>
auto exchange(unsigned mask, T value, int line, Take take) {
    Thread* const self = current;
    if (mask != 0xffffffffu) line = -line;  // a fault: others of the warp are not told to come
    self->given = 0;
    std::memcpy(&self->given, &value, sizeof value);
    barrier(warp, line);
    const auto taken = take(all + self->number / lanes * lanes);
    barrier(warp, line);
    return taken;
}

template <class T>
T shuffle(unsigned mask, T value, int from, int line) {
    return exchange(mask, value, line, [&](Thread* warp) {
        T found;
        std::memcpy(&found, &warp[from % lanes].given, sizeof found);
        return found;
    });
}

inline unsigned ballot(unsigned mask, bool holds, int line) {
    return exchange(mask, holds, line, [](Thread* warp) {
        unsigned found = 0;
        for (int other = 0; other < lanes; ++other) found |= (warp[other].given & 1u) << other;
        return found;
    });
}

inline void start() {
    body(arguments);
    current->state = finished;
}

// Threads first, ..., last - 1 go on, if they are all at the same barrier of this kind.
inline bool released(Thread* first, Thread* last, State what) {
    for (Thread* thread = first; thread < last; ++thread)
        if (thread->state != what || thread->line != first->line) return false;
    for (Thread* thread = first; thread < last; ++thread) thread->state = running;
    return true;
}

// All threads of one block, from barrier to barrier.
inline Fault run_block(std::vector<Thread>& threads, std::vector<char>& stacks,
                       std::vector<char>& shared, std::mt19937& draw) {
    // What no thread has written yet is NaN, or -1.
    std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    std::fill(shared.begin(), shared.end(), static_cast<char>(0xff));
    Thread *const first = threads.data(), *const last = first + threads.size();
    all = first;
    for (Thread* thread = first; thread < last; ++thread) {
        getcontext(&thread->context);
        thread->context.uc_stack.ss_sp = &stacks[(thread - first) * stack_bytes];
        thread->context.uc_stack.ss_size = stack_bytes;
        thread->context.uc_link = &scheduler;
        makecontext(&thread->context, start, 0);
        thread->state = running;
    }
    std::vector<Thread*> order;
    for (Thread& thread : threads) order.push_back(&thread);
    for (bool going = true; going;) {
        std::shuffle(order.begin(), order.end(), draw);
        for (Thread* thread : order) {
            if (thread->state != running) continue;
            current = thread;
            threadIdx = thread->index;
            swapcontext(&scheduler, &thread->context);
        }
        going = released(first, last, block);
        for (Thread* some = first; some < last; some += lanes)
            going |= released(some, std::min(some + lanes, last), warp);
    }
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
// block, dynamic shared memory, arguments, seed) runs the kernel, and returns a Fault.
#define LAUNCHER(kernel)                                                                           \
    extern "C" int argument_sizes(int* sizes) { return emulator::sizes_of(kernel, sizes); }         \
    extern "C" int launch(const unsigned* grid, const unsigned* block, unsigned more, void** given, \
                          unsigned seed) {                                                         \
        using namespace emulator;                                                                  \
        const std::size_t fixed = __stop_shared_memory - __start_shared_memory;                     \
        if (fixed > static_bytes || fixed + more > shared_bytes) return too_much_shared_memory;     \
        body = [](void** values) { call(kernel, values); };                                         \
        arguments = given;                                                                         \
        std::vector<Thread> threads;                                                               \
        for (unsigned y = 0; y < block[1]; ++y)                                                     \
            for (unsigned x = 0; x < block[0]; ++x) {                                               \
                threads.push_back({});                                                             \
                threads.back().index = {x, y, 0};                                                  \
                threads.back().number = static_cast<int>(threads.size()) - 1;                       \
            }                                                                                      \
        std::vector<char> stacks(threads.size() * stack_bytes), shared(more + 16);                  \
        dynamic = &shared[15] - (reinterpret_cast<std::size_t>(&shared[15]) & 15);                  \
        gridDim = {grid[0], grid[1], 1};                                                           \
        std::mt19937 draw(seed);                                                                   \
        for (unsigned y = 0; y < grid[1]; ++y)                                                      \
            for (unsigned x = 0; x < grid[0]; ++x) {                                                \
                blockIdx = {x, y, 0};                                                              \
                const Fault fault = run_block(threads, stacks, shared, draw);                       \
                if (fault != none) return fault;                                                   \
            }                                                                                      \
        return none;                                                                               \
    }
