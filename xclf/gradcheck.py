"""Numeric gradients by central differences, and a report that holds claimed gradients against them.

dL/dx_k = (L(x + h e_k) - L(x - h e_k)) / 2h + O(h^2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from xclf import _array_api
from xclf._array_api import Array, namespace

Index: TypeAlias = tuple[int, ...]

# Step and tolerance. The truncation error is h^2/6 times the third derivative, the rounding error
# eps/h times the value: 1e-11 and 1e-11 in float64, 4e-6 and 1e-5 in float32. The tolerances leave
# four and two digits for steep third derivatives and long sums.
_STEP = {8: 1e-5, 4: 5e-3}
_RTOL = {8: 1e-6, 4: 1e-3}


def neighbours(
    f: Callable[[Array], Any], x: Array, h: float, index: Iterable[Index]
) -> Iterator[tuple[Any, Any]]:
    """(f(x + h e_k), f(x - h e_k)) for every k of `index`.

    x is changed IN PLACE and restored after every k, also if f raises: f may read it through
    another name, as a model that holds it does. Needs a floating, writeable x. Results that are
    arrays are copied, since f may return a view of x.
    """
    if not namespace(x).isdtype(x.dtype, "real floating"):
        raise TypeError(
            f"numeric gradients need a floating dtype (x + h is rounded), got {x.dtype}"
        )
    values = np.array(_array_api.to_host(x))
    for k in index:
        value = float(values[k])
        try:
            x[k] = value + h
            above = _copied(f(x))
            x[k] = value - h
            below = _copied(f(x))
        finally:
            x[k] = value
        yield above, below


def _copied(value: Any) -> Any:
    return namespace(value).asarray(value, copy=True) if _array_api.is_array(value) else value


def every_index(x: Array) -> Iterator[Index]:
    """The index of each entry of x, the last axis fastest."""
    return iter(np.ndindex(tuple(x.shape)))


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradient` found; prints as a few readable lines and is true if it passed.

    error : the largest difference between claimed and numeric gradient, over the largest gradient
    tolerance : what that may be
    index, claimed, numeric : the entry with the largest difference, and both gradients there
    checked, size : entries looked at, and entries of x
    kinks : entries beyond the tolerance where f has a corner, and the claimed gradient lies between
            the gradients on its two sides; they do not count as errors
    h : the step
    """

    passed: bool
    error: float
    tolerance: float
    index: Index
    claimed: float
    numeric: float
    checked: int
    size: int
    kinks: int
    h: float

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        entries = (
            f"{self.checked} of {self.size} entries"
            if self.checked < self.size
            else (f"all {self.size} entries")
        )
        sign = "<=" if self.passed else ">"
        at = ", ".join(map(str, self.index))
        lines = [
            f"gradient check {'passed' if self.passed else 'FAILED'}: {entries}, step {self.h:g}",
            f"  largest error {self.error:.2e} of the largest gradient "
            f"({sign} {self.tolerance:.0e} allowed)",
            f"  at [{at}]: claimed {self.claimed:+.10g}, numeric {self.numeric:+.10g}",
        ]
        if self.kinks:
            lines.append(
                f"  {self.kinks} more on a corner of f: the claimed gradient is between both sides"
            )
        return "\n".join(lines)


def check_gradient(
    f: Callable[[Array], Any],
    x: Array,
    df: Callable[[Array], Array] | Array | None = None,
    *,
    h: float | None = None,
    rtol: float | None = None,
    max_entries: int = 1000,
    random_state: Any = 0,
) -> GradientReport:
    """Holds the gradient claimed for a scalar function against central differences.

        report = check_gradient(lambda s: cross_entropy(s, y), scores)
        report = check_gradient(lambda w: float(np.sum(w**2)), w, 2 * w)

    f : x -> a number; with df=None, x -> (number, gradient in x), as the kernels have it
    x : array of any backend; integers are made floating. It is copied, and not written to
    df : the claimed gradient at x, an array of its shape, or a function that gives it
    h : the step; 1e-5 in float64, 5e-3 in float32
    rtol : allowed difference, relative to the largest gradient; 1e-6 in float64, 1e-3 in float32.
    What
           rounding of f alone can cause, 4 eps max|f| / h, is allowed as well
    max_entries : if x has more, so many are drawn by `random_state`

    Returns a GradientReport. Raises ValueError for a gradient that has not the shape of x and for
    an f that does not give one number. NOT found: errors below the tolerance, and those on both
    sides of a corner that h steps over.
    """
    x = _floating_copy(x)
    value, claimed = _claim(f, x, df)
    size = namespace(x).finfo(x.dtype).bits // 8
    h = _STEP[size] if h is None else h
    rtol = _RTOL[size] if rtol is None else rtol
    index = _some_index(x, max_entries, random_state)

    def number(x: Array) -> float:
        return _number(f(x) if df is not None else f(x)[0])

    sides = np.array(list(neighbours(number, x, h, index)), dtype=float).reshape(-1, 2)
    eps = float(namespace(x).finfo(x.dtype).eps)
    gradients = np.array([claimed[k] for k in index], dtype=float)
    return _report(sides, value, gradients, index, h=h, rtol=rtol, eps=eps, size=claimed.size)


def _report(
    sides: np.ndarray,
    value: float,
    claimed: np.ndarray,
    index: list[Index],
    *,
    h: float,
    rtol: float,
    eps: float,
    size: int,
) -> GradientReport:
    """The verdict on `claimed`, given f above and below every entry and at the point itself."""
    numeric = (sides[:, 0] - sides[:, 1]) / (2 * h)
    gradients = np.abs([*numeric, *claimed])
    scale = float(np.max(gradients[np.isfinite(gradients)], initial=0.0))
    noise = 4 * eps * float(np.max(np.abs(sides), initial=abs(value))) / h
    # Turned round, so that NaN is wrong.
    wrong = ~(np.abs(numeric - claimed) <= rtol * scale + noise)
    above, below = (sides[:, 0] - value) / h, (value - sides[:, 1]) / h
    # On a corner the gradients of the two sides differ by more than curvature makes of a step h.
    corner = np.abs(above - below) > math.sqrt(rtol) * scale + noise
    between = (np.minimum(above, below) - noise <= claimed) & (
        claimed <= np.maximum(above, below) + noise
    )
    kink = wrong & corner & between
    difference = np.where(kink, -1.0, np.nan_to_num(np.abs(numeric - claimed), nan=np.inf))
    worst = int(np.argmax(difference)) if len(index) else None
    return GradientReport(
        passed=not np.any(wrong & ~kink),
        error=max(float(difference[worst]), 0.0) / (scale or 1.0) if worst is not None else 0.0,
        tolerance=rtol + noise / (scale or 1.0),
        index=index[worst] if worst is not None else (),
        claimed=float(claimed[worst]) if worst is not None else math.nan,
        numeric=float(numeric[worst]) if worst is not None else math.nan,
        checked=len(index),
        size=size,
        kinks=int(np.sum(kink)),
        h=h,
    )


def _floating_copy(x: Any) -> Array:
    x = x if _array_api.is_array(x) else np.asarray(x)
    xp = namespace(x)
    if _array_api.is_integer(xp, x):
        return xp.astype(x, _array_api.accumulator(xp, _array_api.device(x)))
    return xp.asarray(x, copy=True)


def _claim(f: Callable[[Array], Any], x: Array, df: Any) -> tuple[float, np.ndarray]:
    """f(x) and the gradient claimed there, on the host."""
    if df is None:
        result = f(x)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError("without df, f must return (loss, gradient)")
        value, gradient = result
    else:
        value, gradient = f(x), df(x) if callable(df) else df
    claimed = np.array(
        _array_api.to_host(gradient) if _array_api.is_array(gradient) else gradient, dtype=float
    )
    if claimed.shape != tuple(x.shape):
        raise ValueError(f"the gradient has shape {claimed.shape}, but x has {tuple(x.shape)}")
    return _number(value), claimed


def _number(value: Any) -> float:
    if getattr(value, "shape", ()) != () or isinstance(value, tuple | list):
        raise ValueError(f"f must give one number, got {type(value).__name__}")
    return float(value)


def _some_index(x: Array, max_entries: int, random_state: Any) -> list[Index]:
    if math.prod(x.shape) <= max_entries:
        return list(every_index(x))
    chosen = _array_api.generator(random_state).choice(
        math.prod(x.shape), max_entries, replace=False
    )
    return [tuple(map(int, np.unravel_index(k, tuple(x.shape)))) for k in np.sort(chosen)]
