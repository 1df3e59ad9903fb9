// The sum over rows of a linear model's loss, and its slope in weights and biases, reading each row
// once: scores x W^T, the loss's slope in them, and that slope times x, while x is in registers. Two
// products read the rows twice, and for few classes reading is what they wait for.
//
// Compiled at run time, once for each set of these macros:
//   XCLF_HINGE    1 for the Weston-Watkins hinge, 0 for softmax; by the formulas of xclf/kernels
//   XCLF_MASK     1 for labels that are a mask (C, n) of bytes, 0 for 64-bit integers (n,)
//   XCLF_DATA     what x holds, and is computed with as float: float, Half or Byte
//   XCLF_CLASSES  C, at most 32
//   XCLF_WIDTH    features next to each other that a thread has: 4, or 1
//   XCLF_RUNS     how many times WIDTH it has
//   XCLF_WARPS    of a block, which together have all features: 32 WARPS RUNS WIDTH >= D
//   XCLF_TILE     rows that are computed with at a time: 1, 2, 4 or 8
//   XCLF_BLOCKS   blocks that a multiprocessor is to have room for
//
// Thread t of a block has features (t + k THREADS) WIDTH, ..., + WIDTH - 1 for k < RUNS. It alone
// reads these of x and of W, so that their copies in shared memory need no barrier; and it adds up
// their C slopes in registers, over all tiles of its block. Only scores are everybody's: each warp
// sums its features' part by shuffles, warp r puts together those of row r, one class a lane, and
// leaves the slope in them for all. Every block writes what it has added up, and a second kernel adds
// the blocks' in their order: results repeat bit for bit.

typedef long long Int;
typedef unsigned char Byte;
struct Half {
    unsigned short bits;
};
typedef XCLF_DATA Data;

constexpr int CLASSES = XCLF_CLASSES, WIDTH = XCLF_WIDTH, RUNS = XCLF_RUNS, WARPS = XCLF_WARPS;
constexpr int TILE = XCLF_TILE, THREADS = 32 * WARPS, BUFFERS = 2;
constexpr int PADDED = (CLASSES + 3) / 4 * 4;  // slopes are read four at a time
constexpr int ROWS = (TILE + WARPS - 1) / WARPS;  // of a tile that a warp finds the slopes of
constexpr int HALF = CLASSES > 16 ? 16 : CLASSES > 8 ? 8 : CLASSES > 4 ? 4 : CLASSES > 2 ? 2 : 1;
constexpr unsigned ALL = 0xffffffffu;

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

#if XCLF_MASK
typedef Byte Label;
#else
typedef Int Label;
#endif

__device__ __forceinline__ float widened(float value) { return value; }
__device__ __forceinline__ float widened(Byte value) { return static_cast<float>(value); }
__device__ __forceinline__ float widened(Half value) {
#ifdef HALF_TO_FLOAT
    return HALF_TO_FLOAT(value.bits);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#endif
}

template <class T>
struct alignas(WIDTH * sizeof(T)) Pack {
    T at[WIDTH];
};

struct alignas(16) Four {
    float at[4];
};

// *to = *from, some time before `arrived`; zeros, and nothing is read, where there is none.
__device__ __forceinline__ void send(Pack<Data>* to, const Data* from, bool there) {
    [[maybe_unused]] constexpr int bytes = sizeof(Pack<Data>);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (bytes == 16 || bytes == 8 || bytes == 4) {
        const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
        const int some = there ? bytes : 0;
        if constexpr (bytes == 16)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from),
                         "r"(some) : "memory");
        else
            asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from),
                         "n"(bytes), "r"(some) : "memory");
        return;
    }
#endif
    Pack<Data> zeros = {};
    *to = there ? *reinterpret_cast<const Pack<Data>*>(from) : zeros;
}

__device__ __forceinline__ void sent() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All that was sent is there, but for the last `BUFFERS - 1` that were marked by `sent`.
__device__ __forceinline__ void arrived() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(BUFFERS - 1) : "memory");
#endif
}

// Sums over a warp of N values a lane, N <= 32 a power of two: lane l gets that of value
// l / (32 / N). A lane gives away one half of its values at each step, and so there are about as many
// shuffles as values.
template <int N>
__device__ __forceinline__ float sums_of_warp(float (&value)[N], int lane) {
    int step = 16;
#pragma unroll
    for (int half = N / 2; half > 0; half /= 2, step /= 2) {
        const bool upper = lane & step;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float given = upper ? value[i] : value[i + half];
            const float kept = upper ? value[i + half] : value[i];
            value[i] = kept + __shfl_xor_sync(ALL, given, step);
        }
    }
#pragma unroll
    for (; step > 0; step /= 2) value[0] += __shfl_xor_sync(ALL, value[0], step);
    return value[0];
}

// Over the lanes that have a class; what others get is of no use.
__device__ __forceinline__ float sum_of_classes(float value) {
#pragma unroll
    for (int step = HALF; step > 0; step /= 2) value += __shfl_xor_sync(ALL, value, step);
    return value;
}

// Of one row, whose score of class `lane` is `score` where `there`: the slope in it, times f. `loss`
// gets the row's, times f.
__device__ __forceinline__ float slope_of(float score, bool there, bool own, float f, float margin,
                                          float* loss) {
    const unsigned owners = __ballot_sync(ALL, own);
    const int owner = owners ? __ffs(owners) - 1 : 0;
#if XCLF_HINGE
    const float m = score - __shfl_sync(ALL, score, owner) + margin;
    const float violation = own | !there | (m <= 0.0f) ? 0.0f : m;  // NaN for NaN
    const int count = __popc(__ballot_sync(ALL, violation > 0.0f));
    *loss = sum_of_classes(violation) * f;
    return own ? -static_cast<float>(count) * f : violation > 0.0f ? f : 0.0f;
#else
    float largest = there ? score : -__int_as_float(0x7f800000);
#pragma unroll
    for (int step = HALF; step > 0; step /= 2)  // a NaN is passed over here, and met below
        largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, step));
    const float z = score - largest, e = there ? expf(z) : 0.0f;
    const float others = sum_of_classes(own ? 0.0f : e);
    const float led = __shfl_sync(ALL, z, owner), lead = owners ? led : 0.0f;
    // others + expm1(lead) is the sum of all less 1: exact where the true class leads.
    *loss = (log1pf(others + expm1f(lead)) - lead) * f;
    const float rate = f / (others + expf(lead));
    return own ? -others * rate : e * rate;
#endif
}

// x (n, D), its rows `stride` apart and each contiguous; w (C, D), contiguous; shift (D,) is taken
// off each row, bias (C,) added to scores, weights (n,) multiply losses: null where there is none.
// Strides in elements. Block b writes the slopes in W (C, D), then those in the biases (C,), to line b
// of `slopes`, and the sum of its losses to losses[b].
extern "C" __global__ void __launch_bounds__(THREADS, XCLF_BLOCKS)
xclf_one_read(const Data* __restrict__ x, Int stride, Int rows, int features,
              const float* __restrict__ w, const float* __restrict__ shift,
              const float* __restrict__ bias, const Label* __restrict__ labels, Int label_class,
              Int label_row, const float* __restrict__ weights, Int weight_row, float margin,
              float* __restrict__ slopes, double* __restrict__ losses) {
    DYNAMIC_SHARED(char, dynamic);
    Pack<float>* const mine_of_w = reinterpret_cast<Pack<float>*>(dynamic) + threadIdx.x;
    Pack<Data>* const mine_of_x =
        reinterpret_cast<Pack<Data>*>(dynamic + sizeof(Pack<float>) * CLASSES * RUNS * THREADS) +
        threadIdx.x;
    __shared__ float parts[WARPS][CLASSES * TILE];
    __shared__ Four slope[TILE][PADDED / 4];
    __shared__ float own_biases[WARPS][CLASSES];
    __shared__ double own_losses[WARPS];

    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const Int tiles = (rows + TILE - 1) / TILE, blocks = gridDim.x;
    bool mine[RUNS];  // whether there are such features
    Pack<float> from[RUNS] = {};
#pragma unroll
    for (int k = 0; k < RUNS; ++k) {
        const int feature = (thread + k * THREADS) * WIDTH;
        mine[k] = feature < features;
        if (shift && mine[k]) from[k] = *reinterpret_cast<const Pack<float>*>(shift + feature);
#pragma unroll
        for (int c = 0; c < CLASSES; ++c) {
            Pack<float> some = {};
            if (mine[k])
                some = *reinterpret_cast<const Pack<float>*>(
                    w + static_cast<Int>(c) * features + feature);
            mine_of_w[(c * RUNS + k) * THREADS] = some;
        }
    }

    const auto send_tile = [&](Int tile, int buffer) {
#pragma unroll
        for (int r = 0; r < TILE; ++r) {
            const Int row = tile * TILE + r;
            const bool inside = row < rows;
#pragma unroll
            for (int k = 0; k < RUNS; ++k) {
                const bool there = inside && mine[k];
                const Int at = there ? row * stride + (thread + k * THREADS) * WIDTH : 0;
                send(mine_of_x + ((buffer * TILE + r) * RUNS + k) * THREADS, x + at, there);
            }
        }
        sent();
    };

    const bool there = lane < CLASSES;
    const float start = there && bias ? bias[lane] : 0.0f;
    float gradient[CLASSES][RUNS][WIDTH] = {};
    float of_bias = 0.0f;  // of class `lane`, in this warp's rows
    double loss = 0.0;
#pragma unroll
    for (int buffer = 0; buffer < BUFFERS; ++buffer) send_tile(blockIdx.x + buffer * blocks, buffer);
    int buffer = 0;
    for (Int tile = blockIdx.x; tile < tiles; tile += blocks) {
        // 1: the tile's rows; their buffer is free for others then.
        float row_of_x[TILE][RUNS][WIDTH];
        arrived();
#pragma unroll
        for (int r = 0; r < TILE; ++r)
#pragma unroll
            for (int k = 0; k < RUNS; ++k) {
                const Pack<Data> some = mine_of_x[((buffer * TILE + r) * RUNS + k) * THREADS];
#pragma unroll
                for (int i = 0; i < WIDTH; ++i)
                    row_of_x[r][k][i] = widened(some.at[i]) - from[k].at[i];
            }
        send_tile(tile + BUFFERS * blocks, buffer);
        buffer = (buffer + 1) % BUFFERS;
        // What phase 3 asks of memory is on its way meanwhile.
        bool own[ROWS] = {};
        float factor[ROWS] = {};
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const Int row = tile * TILE + warp + k * WARPS;
            if (warp + k * WARPS >= TILE || row >= rows) continue;
#if XCLF_MASK
            own[k] = there && labels[lane * label_class + row * label_row];
#else
            own[k] = labels[row * label_row] == lane;
#endif
            factor[k] = weights ? weights[row * weight_row] : 1.0f;
        }

        // 2: scores, two classes at a time.
#pragma unroll
        for (int c = 0; c < CLASSES; c += 2) {
            float score[2 * TILE] = {};
#pragma unroll
            for (int j = 0; j < 2 && c + j < CLASSES; ++j)
#pragma unroll
                for (int k = 0; k < RUNS; ++k) {
                    const Pack<float> some = mine_of_w[((c + j) * RUNS + k) * THREADS];
#pragma unroll
                    for (int r = 0; r < TILE; ++r)
#pragma unroll
                        for (int i = 0; i < WIDTH; ++i)
                            score[j * TILE + r] += some.at[i] * row_of_x[r][k][i];
                }
            constexpr int lanes = 32 / (2 * TILE);
            const float sum = sums_of_warp(score, lane);
            const int place = c * TILE + lane / lanes;
            if (lane % lanes == 0 && place < CLASSES * TILE) parts[warp][place] = sum;
        }
        __syncthreads();

        // 3: the slope in them, a row at a time.
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const int r = warp + k * WARPS;
            if (r >= TILE) continue;
            float score = start, of_row;
            if (there) {
#pragma unroll
                for (int other = 0; other < WARPS; ++other) score += parts[other][lane * TILE + r];
            }
            const bool inside = tile * TILE + r < rows;
            const float found = slope_of(score, there, own[k], factor[k], margin, &of_row);
            if (lane < PADDED) slope[r][lane / 4].at[lane % 4] = there && inside ? found : 0.0f;
            if (inside) {
                of_bias += found;
                loss += static_cast<double>(of_row);
            }
        }
        __syncthreads();

        // 4: that slope times the rows.
#pragma unroll
        for (int r = 0; r < TILE; ++r)
#pragma unroll
            for (int q = 0; q < PADDED / 4; ++q) {
                const Four some = slope[r][q];
#pragma unroll
                for (int j = 0; j < 4 && 4 * q + j < CLASSES; ++j)
#pragma unroll
                    for (int k = 0; k < RUNS; ++k)
#pragma unroll
                        for (int i = 0; i < WIDTH; ++i)
                            gradient[4 * q + j][k][i] += some.at[j] * row_of_x[r][k][i];
            }
    }

    float* const line = slopes + blockIdx.x * (static_cast<Int>(CLASSES) * features + CLASSES);
#pragma unroll
    for (int c = 0; c < CLASSES; ++c)
#pragma unroll
        for (int k = 0; k < RUNS; ++k)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                if (mine[k])
                    line[static_cast<Int>(c) * features + (thread + k * THREADS) * WIDTH + i] =
                        gradient[c][k][i];
    if (lane < CLASSES) own_biases[warp][lane] = of_bias;
    if (lane == 0) own_losses[warp] = loss;
    __syncthreads();
    if (warp > 0) return;
    float sum = 0.0f;
    double total = 0.0;
    for (int other = 0; other < WARPS; ++other) {
        if (lane < CLASSES) sum += own_biases[other][lane];
        total += own_losses[other];
    }
    if (lane < CLASSES) line[static_cast<Int>(CLASSES) * features + lane] = sum;
    if (lane == 0) losses[blockIdx.x] = total;
}
