// A loss and its gradient in one pass over the scores, which the gradient replaces: softmax cross-entropy
// or the Weston-Watkins hinge, by the formulas of xclf/kernels.
//
// Compiled at run time, once for each set of these macros:
//   XCLF_HINGE   1 for the hinge, 0 for softmax
//   XCLF_MASK    1 for labels that are a mask (C, n) of bytes, 0 for 64-bit integers (n,)
//   XCLF_REAL    float or double
//   XCLF_ROWS, XCLF_GROUPS   threads of a block: rows (x), and groups that share their classes (y)
//   XCLF_KEEP    classes that a thread holds in registers: GROUPS * KEEP >= C; or 0, any number,
//                and every phase reads and writes the scores where they are
//   XCLF_BLOCKS  blocks that a multiprocessor is to have room for
//
// Scores (K, C, n) have their rows next to each other in memory, so that neighbouring threads read
// neighbours. Thread (r, g) has classes g, g + GROUPS, g + 2 GROUPS, ... of one row. What concerns
// the whole row is gathered in shared memory and combined by group 0 in the order of the groups:
// results repeat bit for bit.

typedef XCLF_REAL Real;
typedef long long Int;

constexpr int ROWS = XCLF_ROWS, GROUPS = XCLF_GROUPS, KEEP = XCLF_KEEP;
constexpr int SLOTS = KEEP > 0 ? KEEP : 1;
constexpr int FLUSH = 32;  // terms of a float sum, before it goes on in double

#if XCLF_MASK
typedef unsigned char Label;
#else
typedef Int Label;
#endif

// A thread's own part of a sum over classes.
struct Sum {
    Real part = 0;
    double whole = 0.0;
    int terms = 0;

    __device__ __forceinline__ void add(Real term) {
        part += term;
        if (KEEP == 0 && ++terms == FLUSH) flush();
    }

    __device__ __forceinline__ double flush() {
        whole += static_cast<double>(part);
        part = 0;
        terms = 0;
        return whole;
    }
};

// The same number, of which the compiler knows nothing any more: it would keep a condition for
// every class instead, and take more registers for these than the scores need.
__device__ __forceinline__ float opaque(float value) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+f"(value));
#endif
    return value;
}

__device__ __forceinline__ double opaque(double value) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+d"(value));
#endif
    return value;
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// body(j, there, value, address) for a thread's classes j = 0, GROUPS, 2 GROUPS, ..., counted from
// its first, whose score `first` points to; step leads to the next one's. `there` says j < limit:
// registers beyond it have no class. value is a register, or memory itself.
template <class Body>
__device__ __forceinline__ void each(Real (&kept)[SLOTS], Real* first, Int step, int limit,
                                     Body body) {
    if constexpr (KEEP > 0) {
#pragma unroll
        for (int k = 0; k < KEEP; ++k, first += step)
            body(k * GROUPS, k * GROUPS < limit, kept[k], first);
    } else {
        for (int j = 0; j < limit; j += GROUPS, first += step) body(j, true, *first, first);
    }
}

// scores (K, C, n), contiguous, overwritten; strides in elements; null where there is none:
// bias (K, C), added to the scores first; weights per row, else `factor` for all of them;
// margins (K,), else `margin` for all heads (softmax reads neither); losses (K, n).
extern "C" __global__ void __launch_bounds__(ROWS * GROUPS, XCLF_BLOCKS)
xclf_loss(Real* scores, Int classes, Int rows, const Label* __restrict__ labels, Int label_class,
          Int label_row, const Real* __restrict__ bias, Int bias_head,
          const Real* __restrict__ weights, Int weight_head, Int weight_row, Real factor,
          const Real* __restrict__ margins, Real margin, Real* __restrict__ losses) {
    __shared__ Real firsts[GROUPS][ROWS];  // the row's largest score, or its true class's
    __shared__ double sums[GROUPS][ROWS];  // what the other classes add up to
    __shared__ Real shift[ROWS], rate[ROWS], pull[ROWS];
#if XCLF_HINGE
    __shared__ int counts[GROUPS][ROWS];  // how many of them are within the margin
#else
    __shared__ Real lead[ROWS];  // the true class's score less the largest
#endif
    // C and n, to be read anew in each phase: else the compiler keeps every address and every `there`
    // from one phase to the next, in registers that it does not have.
    __shared__ volatile Int c, n;

    const int r = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.y);
    const Int row = static_cast<Int>(blockIdx.x) * ROWS + r, head = blockIdx.y;
    const bool inside = row < rows;  // the last block may have fewer rows; all meet at barriers
    Real* first = scores + (head * classes + group) * rows + row;
    Int step = GROUPS * rows;
    int limit = inside ? static_cast<int>(classes) - group : 0;
    const Real none = -static_cast<Real>(__int_as_float(0x7f800000));
    Real kept[SLOTS];

    // 1: read the scores, find the true class, and what all scores of the row are compared with.
    if (KEEP > 0)
        each(kept, first, step, limit,
             [&](int, bool there, Real& v, Real* at) { v = there ? *at : none; });
    if (bias) {
        const Real* const mine = bias + head * bias_head + group;
        each(kept, first, step, limit, [&](int j, bool there, Real& v, Real*) {
            v += there ? mine[j] : 0;
        });
    }
    int own = -1;  // the true class, counted as `each` counts, if it is among the thread's
#if XCLF_MASK
    const Label* mask = labels + group * label_class + row * label_row;
    each(kept, first, step, limit, [&](int j, bool there, Real&, Real*) {
        if (there && *mask) own = j;
        mask += GROUPS * label_class;
    });
#else
    if (inside) own = static_cast<int>(labels[row * label_row]) - group;
#endif
    Real found = XCLF_HINGE ? 0 : none;
    each(kept, first, step, limit, [&](int j, bool, Real& v, Real*) {
#if XCLF_HINGE
        found = j == own ? v : found;
#else
        found = larger(found, v);  // a NaN is passed over here, and met below
#endif
    });
    firsts[group][r] = found;
    if (group == 0 && r == 0) {
        c = classes;
        n = rows;
    }
    __syncthreads();
    if (group == 0) {
        for (int g = 1; g < GROUPS; ++g) {
#if XCLF_HINGE
            found += firsts[g][r];  // zeros but for one
#else
            found = larger(found, firsts[g][r]);
#endif
        }
        shift[r] = found;
#if !XCLF_HINGE
        lead[r] = 0;
#endif
    }
    __syncthreads();

    // 2: each class's term, and their sum without the true class.
    const Real zero = shift[r];
    Sum sum;
#if XCLF_HINGE
    int count = 0;
    const Real wanted = margins ? margins[head] : margin;
#endif
    limit = inside ? static_cast<int>(c) - group : 0;
    each(kept, first, step, limit, [&](int j, bool there, Real& v, Real*) {
        const Real z = v - zero;
#if XCLF_HINGE
        const Real m = z + wanted;
        const Real violation = (j == own) | !there | (m <= 0) ? 0 : m;  // NaN for NaN
        v = opaque(static_cast<Real>(violation > 0 ? 1 : 0));
        sum.add(violation);
        count += violation > 0;
#else
        v = exp(z);  // 0 where there is no class
        sum.add(j == own ? 0 : v);
        if (there && j == own) lead[r] = z;
#endif
    });
    sums[group][r] = sum.flush();
#if XCLF_HINGE
    counts[group][r] = count;
#endif
    __syncthreads();
    if (group == 0 && inside) {
        double total = sums[0][r];
        for (int g = 1; g < GROUPS; ++g) total += sums[g][r];
        const Real others = static_cast<Real>(total);
        const Real f = weights ? weights[head * weight_head + row * weight_row] : factor;
#if XCLF_HINGE
        for (int g = 1; g < GROUPS; ++g) count += counts[g][r];
        const Real loss = others;
        rate[r] = f;
        pull[r] = -static_cast<Real>(count) * f;
#else
        // others + expm1(lead) is the sum of all less 1: exact where the true class leads.
        const Real loss = log1p(others + expm1(lead[r])) - lead[r];
        rate[r] = f / static_cast<Real>(total + static_cast<double>(exp(lead[r])));
        pull[r] = -others * rate[r];
#endif
        if (losses) losses[head * rows + row] = loss * f;
    }
    __syncthreads();

    // 3: the gradient.
    const Real scale = rate[r], own_gradient = pull[r];
    step = GROUPS * n;
    first = scores + (head * c + group) * n + row;
    limit = inside ? static_cast<int>(c) - group : 0;
    each(kept, first, step, limit, [&](int j, bool there, Real& v, Real* at) {
        if (there) *at = j == own ? own_gradient : v * scale;
    });
}
