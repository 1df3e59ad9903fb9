"""Oracles, bounds and assertions that the tests share.

An oracle is the formula from the docstring written as plain loops over Python floats, that is, in
float64, with exactly rounded sums (`math.fsum`). It takes the very inputs that the kernel took,
float32 ones included, so that the only difference is the kernel's own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

from xclf.kernels import cross_entropy, hinge, squared_hinge

# --- bounds ----------------------------------------------------------------------------------

# Gradients, relative to the largest entry. Each is a few roundings (exp, sum, quotient, factor) of
# numbers no larger than that entry: 1e-13 is 900 units of rounding in float64, and 1e-6 is 17 in
# float32, where sums of many classes run in float64.
GRADIENT_BOUND = {"float64": 1e-13, "float32": 1e-6}


def unit(dtype: Any) -> float:
    """u, the largest relative error of one rounding: 2^-53 or 2^-24."""
    return float(np.finfo(dtype).eps) / 2


def gamma(k: float, dtype: Any) -> float:
    """gamma_k = k u / (1 - k u): bounds the product of k factors (1 + delta), |delta| <= u.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, Lemma 3.1.
    """
    return k * unit(dtype) / (1 - k * unit(dtype))


def product_bound(a: np.ndarray, b: np.ndarray, dtype: Any, extra: int = 0) -> np.ndarray:
    """Componentwise bound of a computed `a @ b` against a float64 one: gamma_K |a| |b| for each.

    Higham, section 3.5: it holds for any order of summation, hence for any BLAS. `extra` counts
    the roundings that follow (1 for adding a bias).
    """
    a64, b64 = np.abs(a).astype(np.float64), np.abs(b).astype(np.float64)
    k = a.shape[-1] + extra
    return (gamma(k, dtype) + gamma(k, np.float64)) * (a64 @ b64)


def sum_bound(values: np.ndarray, dtype: Any, axis: int, extra: int = 0) -> np.ndarray:
    """The same for a sum along `axis`: gamma_{n-1} sum |v| for each (Higham, section 4.2)."""
    k = values.shape[axis] - 1 + extra
    total = np.sum(np.abs(values).astype(np.float64), axis=axis)
    return (gamma(k, dtype) + gamma(k, np.float64)) * total


def loss_bound(dtype: Any, n_classes: int, spread: float, rows: int = 1) -> float:
    """Relative bound of a cross-entropy, however small the loss.

    A difference d of scores is rounded once, to d (1 + delta); exp turns that into a relative
    error |d| u, which `spread`, the largest |d|, bounds. The sum over classes adds u for each term
    (past 64 float32 classes it runs in float64), the mean over rows one for each row in float64,
    and exp, expm1, log1p, factor and the last casts a few each: 16 in all. All terms are positive,
    so relative errors never grow by cancellation.
    """
    wide = np.dtype(dtype) == np.float64
    return gamma(spread + (n_classes + rows if wide else min(n_classes, 64)) + 16, dtype)


def hinge_bound(losses: Any, gradients: np.ndarray, dtype: Any, margin: float = 1.0) -> float:
    """Relative bound of a hinge loss, given an oracle's rows.

    m = d + margin is two roundings: u |d| + u |m|, and |d| <= m + margin. Over the n positive
    margins of a row (minus its gradient at the true class) that is u (2 L + n margin); the sums add
    gamma L as in `loss_bound`.
    """
    losses = np.asarray(losses)
    wide = np.dtype(dtype) == np.float64
    terms = gradients.shape[1] + len(gradients) if wide else min(gradients.shape[1], 64)
    active = -np.min(gradients, axis=1) * margin
    ratio = np.max(active[losses > 0] / losses[losses > 0], initial=0.0)
    return gamma(terms + 16 + ratio, dtype)


def squared_hinge_bound(
    losses: Any, gradients: np.ndarray, dtype: Any, margin: float = 1.0
) -> float:
    """The same for its square: of m^2 twice the relative error of m, so that the sum over a row's
    positive margins is off by u (4 L + 2 margin sum m), minus its gradient at the true class being
    2 sum m; and the squares are rounded."""
    losses = np.asarray(losses)
    wide = np.dtype(dtype) == np.float64
    terms = gradients.shape[1] + len(gradients) if wide else min(gradients.shape[1], 64)
    pull = -np.min(gradients, axis=1) * margin
    ratio = np.max(pull[losses > 0] / losses[losses > 0], initial=0.0)
    return gamma(terms + 20 + ratio, dtype)


# --- inputs ----------------------------------------------------------------------------------


def parity_data(
    n_rows: int, n_classes: int, dtype: Any, margin: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, labels), scores of a few units and at least 1e-2 away from every hinge kink.

    At a kink one rounding flips a whole gradient entry; 1e-2 is far more than any rounding of these
    scores. Both the first and the last class occur as labels if there are two rows or more.
    """
    rng = np.random.default_rng([seed, n_rows, n_classes])
    scores = 3.0 * rng.normal(size=(n_rows, n_classes))
    labels = rng.integers(n_classes, size=n_rows)
    labels[0], labels[-1] = n_classes - 1, 0
    m = scores - scores[np.arange(n_rows), labels][:, None] + margin
    near = (np.abs(m) < 1e-2) & (np.arange(n_classes) != labels[:, None])
    return (scores + 0.05 * near).astype(dtype), labels


def dyadic(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Multiples of 1/8 in [-4, 4]: float32 sums and products of a few are exact."""
    return (rng.integers(-32, 33, size=shape) / 8).astype(dtype)


# --- oracles ---------------------------------------------------------------------------------


def hinge_rows(scores: Any, labels: Any, margin: float = 1.0) -> tuple[list[float], np.ndarray]:
    """Weston-Watkins: sum_{j != y} max(0, s_j - s_y + margin) per row, and each row's gradient."""
    scores = np.asarray(scores, dtype=np.float64)
    losses, gradients = [], np.zeros(scores.shape)
    for i, (row, y) in enumerate(zip(scores.tolist(), np.asarray(labels).tolist(), strict=True)):
        terms = []
        for j, s in enumerate(row):
            if j != y and s - row[y] + margin > 0:
                terms.append(s - row[y] + margin)
                gradients[i, j] += 1.0
                gradients[i, y] -= 1.0
        losses.append(math.fsum(terms))
    return losses, gradients


def squared_hinge_rows(
    scores: Any, labels: Any, margin: float = 1.0
) -> tuple[list[float], np.ndarray]:
    """sum_{j != y} max(0, s_j - s_y + margin)^2 per row, and each row's gradient."""
    scores = np.asarray(scores, dtype=np.float64)
    losses, gradients = [], np.zeros(scores.shape)
    for i, (row, y) in enumerate(zip(scores.tolist(), np.asarray(labels).tolist(), strict=True)):
        m = {j: max(s - row[y] + margin, 0.0) for j, s in enumerate(row) if j != y}
        losses.append(math.fsum(v * v for v in m.values()))
        for j, v in m.items():
            gradients[i, j] = 2 * v
        gradients[i, y] = -2 * math.fsum(m.values())
    return losses, gradients


def softmax_rows(scores: Any) -> np.ndarray:
    """exp(s_j) / sum_k exp(s_k). Shifted by the largest score, which changes nothing else."""
    out = []
    for row in np.asarray(scores, dtype=np.float64).tolist():
        largest = max(row)
        e = [math.exp(s - largest) for s in row]
        total = math.fsum(e)
        out.append([value / total for value in e])
    return np.array(out)


def cross_entropy_rows(scores: Any, labels: Any) -> tuple[list[float], np.ndarray]:
    """log(sum_j exp(s_j)) - s_y per row, and p - [j = y].

    For scores within about +-30 of each other; `exact_cross_entropy` is for the others.
    """
    gradients = softmax_rows(scores)
    losses = []
    scores = np.asarray(scores, dtype=np.float64)
    for i, (row, y) in enumerate(zip(scores.tolist(), np.asarray(labels).tolist(), strict=True)):
        others = math.fsum(math.exp(s - row[y]) for j, s in enumerate(row) if j != y)
        losses.append(math.log1p(others))  # the same number: divide the sum by exp(s_y)
        gradients[i, y] -= 1.0
    return losses, gradients


#: By the name of a loss its kernel, and its oracle of scores, labels and a margin, if it has one.
ORACLES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "hinge": (hinge, hinge_rows),
    "squared_hinge": (squared_hinge, squared_hinge_rows),
    "softmax": (
        cross_entropy,
        lambda scores, labels, margin=1.0: cross_entropy_rows(scores, labels),
    ),
}
KERNELS = [kernel for kernel, _ in ORACLES.values()]
ROWS = dict(ORACLES.values())


def exact_cross_entropy(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same from the formula itself, with so many digits (600) that nothing cancels."""
    scores = np.asarray(scores, dtype=np.float64)
    losses, gradients = np.zeros(len(scores)), np.zeros(scores.shape)
    with mpmath.workdps(600):
        for i, y in enumerate(np.asarray(labels).tolist()):
            e = [mpmath.exp(mpmath.mpf(s)) for s in scores[i].tolist()]
            total = mpmath.fsum(e)
            losses[i] = float(mpmath.log(total) - mpmath.mpf(scores[i, y]))
            for j, value in enumerate(e):
                gradients[i, j] = float(value / total - (1 if j == y else 0))
    return losses, gradients


def proximal_value(m: float, anchor: float, smoothing: float, a: float) -> float:
    """a m - smoothing/2 (a - a0)^2, which phi maximises over a in [0, 1]."""
    return a * m - smoothing / 2 * (a - anchor) ** 2


def proximal_rows(
    scores: Any, labels: Any, anchor: Any, smoothing: float, margin: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(losses, gradients, slack, a) per row; a is the unconstrained maximiser, cut to [0, 1]."""
    scores, anchor = np.asarray(scores, dtype=np.float64), np.asarray(anchor, dtype=np.float64)
    losses, slack = np.zeros(len(scores)), np.zeros(len(scores))
    gradients, multipliers = np.zeros(scores.shape), np.zeros(scores.shape)
    for i, y in enumerate(np.asarray(labels).tolist()):
        for j in range(scores.shape[1]):
            if j == y:
                continue
            m = scores[i, j] - scores[i, y] + margin
            a = min(max(anchor[i, j] + m / smoothing, 0.0), 1.0)
            losses[i] += proximal_value(m, anchor[i, j], smoothing, a)
            slack[i] += max(m, 0.0) - a * m
            gradients[i, j] += a
            gradients[i, y] -= a
            multipliers[i, j] = a
    return losses, gradients, slack, multipliers


def reduce(
    losses: Any, gradients: np.ndarray, reduction: str = "mean", weights: Any = None
) -> tuple[Any, np.ndarray]:
    """Rows' losses and gradients, weighted and reduced: sum_i w_i L_i, over sum(w) for a mean."""
    w = np.ones(len(gradients)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = math.fsum(w.tolist()) if reduction == "mean" else 1.0
    weighted = [wi / total * loss for wi, loss in zip(w.tolist(), losses, strict=True)]
    gradients = gradients * (w / total)[:, None]
    return (np.array(weighted) if reduction == "none" else math.fsum(weighted)), gradients


def affine_rows(x: Any, w: Any, b: Any = None) -> np.ndarray:
    """out[i, m] = sum_d x[i, d] w[d, m] + b[m]."""
    x, w = np.asarray(x, dtype=np.float64), np.asarray(w, dtype=np.float64)
    out = np.zeros((x.shape[0], w.shape[1]))
    for i in range(x.shape[0]):
        for d in range(x.shape[1]):
            out[i] += x[i, d] * w[d]
    return out if b is None else out + np.asarray(b, dtype=np.float64)


def l2_value(w: Any, strength: float) -> float:
    """strength * sum(w^2)."""
    return strength * math.fsum(v * v for v in np.asarray(w, dtype=np.float64).ravel().tolist())


def numerical_gradient(
    f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-5
) -> np.ndarray:
    """Central differences (f(x + h) - f(x - h)) / 2h in float64, entry by entry."""
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        up, down = x.astype(np.float64), x.astype(np.float64)
        up[index] += h
        down[index] -= h
        gradient[index] = (f(up) - f(down)) / (2 * h)
    return gradient


# --- steps -----------------------------------------------------------------------------------


def run_epoch(
    objective: Any, rows: Any, plan: Any, theta: Any, state: Any, order: np.ndarray, epoch: int
) -> tuple[Any, Any]:
    """(theta, state) after an epoch of a minibatch plan by the formulas."""
    from xclf.training import plain_steps

    batches = list(plan.batches(rows.numbers(order), epoch))
    return plain_steps(objective, plan.rule, rows, theta, state, batches)


# --- assertions ------------------------------------------------------------------------------


def assert_close_max_norm(got: Any, want: Any, bound: float, what: str = "gradient") -> None:
    """max |got - want| <= bound * max |want|: for gradients, small entries absolute."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    error = np.max(np.abs(got - want), initial=0.0)
    largest = np.max(np.abs(want), initial=0.0)
    # `not <=` and not `>`: a NaN must fail.
    if not error <= bound * largest:
        raise AssertionError(f"{what}: off by {error:.3g}, largest entry {largest:.3g} * {bound:g}")


def assert_within(got: Any, want: Any, bound: Any, what: str = "value") -> None:
    """|got - want| <= bound, entry by entry."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    excess = np.abs(got - want) - bound
    if not np.all(excess <= 0):
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        raise AssertionError(f"{what}: {got[worst]!r} for {want[worst]!r} at {worst}")


def assert_relative(got: Any, want: Any, bound: Any, what: str = "loss", dtype: Any = None) -> None:
    """|got - want| <= bound |want|, entry by entry; and one smallest normal number, if `dtype`.

    Below the smallest normal number rounding is absolute, and a GPU may flush to zero.
    """
    tiny = 0.0 if dtype is None else float(np.finfo(dtype).tiny)
    want = np.asarray(want, dtype=np.float64)
    assert_within(got, want, np.asarray(bound) * np.abs(want) + tiny, what)


def assert_same_kind(result: Any, like: Any) -> None:
    """The result has the dtype, namespace and device of `like`."""
    from xclf import _array_api

    assert _array_api.namespace(result) is _array_api.namespace(like), (
        f"{type(result)}, not {type(like)}"
    )
    assert _array_api.device(result) == _array_api.device(like), (
        f"device {_array_api.device(result)}"
    )
    assert result.dtype == like.dtype, f"dtype {result.dtype}, expected {like.dtype}"


def assert_loss_parity(
    backend: Any,
    kernel: Callable[..., tuple[Any, Any]],
    inputs: tuple[np.ndarray, ...],
    expected: tuple[Any, np.ndarray],
    bound: float,
    **options: Any,
) -> None:
    """One loss kernel on one backend against (loss, gradient) of an oracle, and its contract.

    inputs are (scores, labels) in NumPy. The loss is held to `bound` relative, the gradient to
    GRADIENT_BOUND; both keep dtype, namespace and device of scores, and no input is written.
    """
    arrays = [backend.asarray(value) for value in inputs]
    loss, dscores = kernel(*arrays, **options)
    dtype = inputs[0].dtype
    assert_relative(backend.to_host(loss), expected[0], bound, "loss", dtype)
    assert_close_max_norm(backend.to_host(dscores), expected[1], GRADIENT_BOUND[dtype.name])
    for result in (loss, dscores):
        assert_same_kind(result, arrays[0])
    for array, value in zip(arrays, inputs, strict=True):
        np.testing.assert_array_equal(backend.to_host(array), value, "an input was written to")
