// A loss and its gradient in one pass over the scores, which the gradient replaces: softmax
// cross-entropy, the Weston-Watkins hinge or its square, by the formulas of xclf/kernels.
//
// Compiled at run time, once for each set of these macros:
//   XCLF_LOSS    0 softmax, 1 hinge, 2 squared hinge
//   XCLF_MASK    1 for labels that are a mask (C, n) of bytes, 0 for 64-bit integers (n,)
//   XCLF_REAL    float or double
//   XCLF_ROWS, XCLF_GROUPS   threads of a block: rows (x), and groups that share their classes (y)
//   XCLF_KEEP    classes that a thread holds in registers: GROUPS * KEEP >= C
//   XCLF_BLOCKS  blocks that should fit on a multiprocessor
//
// Scores (K, C, n) have their rows next to each other in memory, so that neighbouring threads read
// neighbours. Thread (r, g) has classes g, g + GROUPS, g + 2 GROUPS, ... of one row. Sums over a
// whole row are gathered in shared memory and combined by group 0 in the order of the groups:
// results repeat bit for bit.

typedef XCLF_REAL Real;
typedef long long Int;
#if XCLF_MASK
typedef unsigned char Label;
#else
typedef Int Label;
#endif

constexpr bool SOFTMAX = XCLF_LOSS == 0, SQUARED = XCLF_LOSS == 2;
constexpr int ROWS = XCLF_ROWS, GROUPS = XCLF_GROUPS, KEEP = XCLF_KEEP;

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// The gradient of a hinge in the score of another class, by its violation.
#if XCLF_LOSS == 2
typedef Real Push;
__device__ __forceinline__ Push pushed_by(Real violation) { return 2 * violation; }
#else
typedef int Push;  // a count: exact, and with it no tile spills registers
__device__ __forceinline__ Push pushed_by(Real violation) { return violation > 0; }
#endif

// body(j, there, value) for a thread's classes j = 0, GROUPS, 2 GROUPS, ..., counted from its first;
// `there` says j < limit: registers beyond it have no class.
template <class Body>
__device__ __forceinline__ void each(Real (&kept)[KEEP], int limit, Body body) {
#pragma unroll
    for (int k = 0; k < KEEP; ++k) body(k * GROUPS, k * GROUPS < limit, kept[k]);
}

// scores (K, C, n), contiguous, overwritten; strides in elements; null for what is absent:
// bias (K, C), added to the scores first; weights per row, else `factor` for all of them;
// margins (K,), else `margin` for all heads (softmax reads neither); losses (K, n).
extern "C" __global__ void __launch_bounds__(ROWS * GROUPS, XCLF_BLOCKS)
xclf_loss(Real* scores, Int classes, Int rows, const Label* __restrict__ labels, Int label_class,
          Int label_row, const Real* __restrict__ bias, Int bias_head,
          const Real* __restrict__ weights, Int weight_head, Int weight_row, Real factor,
          const Real* __restrict__ margins, Real margin, Real* __restrict__ losses) {
    __shared__ Real firsts[GROUPS][ROWS];    // the row's largest score, or its true class's
    __shared__ double sums[GROUPS][ROWS];    // of the other classes' terms
    __shared__ Push pushes[GROUPS][ROWS];    // of their gradients; hinges only
    __shared__ Real shift[ROWS], rate[ROWS], pull[ROWS];
    __shared__ Real lead[ROWS];  // the true class's score less the largest; softmax only
    // C and n, read anew in each phase: else the compiler keeps every address and every `there` from
    // one phase to the next, in registers that it does not have.
    __shared__ volatile Int c, n;

    const int r = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.y);
    const Int row = static_cast<Int>(blockIdx.x) * ROWS + r, head = blockIdx.y;
    const bool inside = row < rows;  // the last block may have fewer rows; all meet at barriers
    int limit = inside ? static_cast<int>(classes) - group : 0;
    const Real none = -static_cast<Real>(__int_as_float(0x7f800000));
    Real kept[KEEP];

    // 1: read the scores, find the true class, and the score that the row's others are compared with.
    const Real* at = scores + (head * classes + group) * rows + row;
    each(kept, limit, [&](int, bool there, Real& v) {
        v = there ? *at : none;
        at += GROUPS * rows;
    });
    if (bias) {
        const Real* const mine = bias + head * bias_head + group;
        each(kept, limit, [&](int j, bool there, Real& v) { v += there ? mine[j] : 0; });
    }
    int own = -1;  // the true class, counted as `each` counts, if it is among the thread's
#if XCLF_MASK
    const Label* mask = labels + group * label_class + row * label_row;
    each(kept, limit, [&](int j, bool there, Real&) {
        if (there && *mask) own = j;
        mask += GROUPS * label_class;
    });
#else
    if (inside) own = static_cast<int>(labels[row * label_row]) - group;
#endif
    Real found = SOFTMAX ? none : 0;
    each(kept, limit, [&](int j, bool, Real& v) {
        if (SOFTMAX)
            found = larger(found, v);  // a NaN is passed over here, and met below
        else
            found = j == own ? v : found;
    });
    firsts[group][r] = found;
    if (group == 0 && r == 0) {
        c = classes;
        n = rows;
    }
    __syncthreads();
    if (group == 0) {
        for (int g = 1; g < GROUPS; ++g)
            found = SOFTMAX ? larger(found, firsts[g][r]) : found + firsts[g][r];
        shift[r] = found;
        lead[r] = 0;
    }
    __syncthreads();

    // 2: each class's term and gradient, and their sums without the true class.
    const Real zero = shift[r], wanted = margins ? margins[head] : margin;
    Real sum = 0;
    Push push = 0;
    limit = inside ? static_cast<int>(c) - group : 0;
    each(kept, limit, [&](int j, bool there, Real& v) {
        const Real z = v - zero;
        if (SOFTMAX) {
            v = exp(z);  // 0 where there is no class
            sum += j == own ? 0 : v;
            if (there && j == own) lead[r] = z;
        } else {
            const Real m = z + wanted;
            v = (j == own) | !there | (m <= 0) ? 0 : m;  // the violation; NaN for NaN
            sum += SQUARED ? v * v : v;
            push += pushed_by(v);
        }
    });
    sums[group][r] = sum;
    if (!SOFTMAX) pushes[group][r] = push;
    __syncthreads();
    if (group == 0 && inside) {
        double total = sums[0][r];
        for (int g = 1; g < GROUPS; ++g) total += sums[g][r];
        const Real others = static_cast<Real>(total);
        const Real f = weights ? weights[head * weight_head + row * weight_row] : factor;
        Real loss = others;
        if (SOFTMAX) {
            // others + expm1(lead) is the sum of all less 1: exact where the true class leads.
            loss = log1p(others + expm1(lead[r])) - lead[r];
            rate[r] = f / static_cast<Real>(total + static_cast<double>(exp(lead[r])));
            pull[r] = -others * rate[r];
        } else {
            double pushed = 0;
            for (int g = 0; g < GROUPS; ++g) pushed += pushes[g][r];
            rate[r] = f;
            pull[r] = -static_cast<Real>(pushed) * f;
        }
        if (losses) losses[head * rows + row] = loss * f;
    }
    __syncthreads();

    // 3: the gradient.
    const Real scale = rate[r], own_gradient = pull[r];
    const Int step = GROUPS * n;
    Real* to = scores + (head * c + group) * n + row;
    limit = inside ? static_cast<int>(c) - group : 0;
    each(kept, limit, [&](int j, bool there, Real& v) {
        if (there) *to = j == own ? own_gradient : (SOFTMAX ? v : pushed_by(v)) * scale;
        to += step;
    });
}
