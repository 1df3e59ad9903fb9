"""Numeric gradients by central differences, and a report that compares claimed gradients to them.

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

# Step and tolerance by bytes of the dtype. The truncation error is h^2/6 times the third
# derivative, the rounding error eps/h times the value: 1e-11 and 1e-11 in float64, 4e-6 and 1e-5 in
# float32. The tolerances allow four and two digits more, for steep third derivatives and long sums.
_STEP = {8: 1e-5, 4: 5e-3}
_RTOL = {8: 1e-6, 4: 1e-3}


def neighbours(
    f: Callable[[Array], Any], x: Array, h: float, indices: Iterable[Index]
) -> Iterator[tuple[Any, Any]]:
    """(f(x + h e_k), f(x - h e_k)) for every k of `indices`.

    x is changed IN PLACE and restored after every k, also if f raises: f may read it through
    another name, as a model that holds it does. Needs a floating, writeable x. Results that are
    arrays are copied, since f may return a view of x.
    """
    if not namespace(x).isdtype(x.dtype, "real floating"):
        raise TypeError(
            f"numeric gradients need a floating dtype (x + h is rounded), got {x.dtype}"
        )
    values = np.array(_array_api.to_host(x))
    for k in indices:
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
    """Result of `check_gradient`: true if it passed, and printed as a few lines.

    Attributes
    ----------
    passed : bool
        Whether no checked entry is wrong.
    error : float
        The largest difference between claimed and numeric gradient, over the largest gradient.
    tolerance : float
        The largest `error` allowed.
    index : tuple of int
        The entry with the largest difference.
    claimed, numeric : float
        Both gradients there.
    checked, size : int
        Entries checked, and entries of x.
    kinks : int
        Entries beyond the tolerance where f has a kink and the claimed gradient lies between the
        gradients on its two sides; they do not count as errors.
    h : float
        The step.
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
        entries = "all" if self.checked == self.size else f"{self.checked} of"
        lines = [
            f"gradient check {'passed' if self.passed else 'FAILED'}: {entries} {self.size} "
            f"entries, step {self.h:g}",
            f"  largest error {self.error:.2e} of the largest gradient "
            f"({'<=' if self.passed else '>'} {self.tolerance:.0e} allowed)",
            f"  at [{', '.join(map(str, self.index))}]: claimed {self.claimed:+.10g}, "
            f"numeric {self.numeric:+.10g}",
        ]
        if self.kinks:
            lines.append(
                f"  {self.kinks} more at a kink of f: the claimed gradient is between both sides"
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
    """Compare the gradient claimed for a scalar function with central differences.

        dL/dx_k = (L(x + h e_k) - L(x - h e_k)) / 2h + O(h^2)

    Parameters
    ----------
    f : callable
        x -> a number; with df=None, x -> (number, gradient in x), as the kernels have it.
    x : array
        Of any backend; integers are made floating. It is copied, and not written to.
    df : array or callable, optional
        The claimed gradient at x, an array of its shape, or a function that gives it.
    h : float, optional
        The step; 1e-5 in float64, 5e-3 in float32.
    rtol : float, optional
        Allowed difference, relative to the largest gradient; 1e-6 in float64, 1e-3 in float32. The
        effect of rounding in f, 4 eps max|f| / h, is allowed as well.
    max_entries : int
        If x has more, so many are drawn by `random_state`.
    random_state : int or Generator
        Of that draw.

    Returns
    -------
    GradientReport

    Raises
    ------
    ValueError
        If the gradient has not the shape of x, or f does not give one number.

    Notes
    -----
    NOT detected: errors below the tolerance, and those on both sides of a kink that h steps over.

    Examples
    --------
    >>> import numpy as np
    >>> from xclf import check_gradient, kernels
    >>> w = np.ones(3)
    >>> bool(check_gradient(lambda w: float(np.sum(w**2)), w, 2 * w))
    True
    >>> bool(check_gradient(lambda s: kernels.cross_entropy(s, np.array([1])), w[None, :]))
    True
    """
    x = _floating_copy(x)
    value, claimed = _claim(f, x, df)
    info = namespace(x).finfo(x.dtype)
    h = _STEP[info.bits // 8] if h is None else h
    rtol = _RTOL[info.bits // 8] if rtol is None else rtol
    indices = _sampled_indices(x, max_entries, random_state)

    def number(x: Array) -> float:
        return _number(f(x) if df is not None else f(x)[0])

    sides = np.array(list(neighbours(number, x, h, indices)), dtype=float).reshape(-1, 2)
    return _report(sides, value, claimed, indices, h=h, rtol=rtol, eps=float(info.eps))


def _report(
    sides: np.ndarray,
    value: float,
    gradient: np.ndarray,
    indices: list[Index],
    *,
    h: float,
    rtol: float,
    eps: float,
) -> GradientReport:
    """Judge the claimed `gradient` by f above and below every entry, and at the point itself."""
    claimed = np.array([gradient[k] for k in indices], dtype=float)
    numeric = (sides[:, 0] - sides[:, 1]) / (2 * h)
    sizes = np.abs([*numeric, *claimed])
    scale = float(np.max(sizes[np.isfinite(sizes)], initial=0.0))
    noise = 4 * eps * float(np.max(np.abs(sides), initial=abs(value))) / h
    wrong = ~(np.abs(numeric - claimed) <= rtol * scale + noise)  # so that NaN is wrong
    above, below = (sides[:, 0] - value) / h, (value - sides[:, 1]) / h
    # At a kink the gradients of the two sides differ by more than curvature explains in a step h.
    bent = np.abs(above - below) > math.sqrt(rtol) * scale + noise
    low, high = np.minimum(above, below) - noise, np.maximum(above, below) + noise
    kink = wrong & bent & (low <= claimed) & (claimed <= high)
    difference = np.where(kink, 0.0, np.nan_to_num(np.abs(numeric - claimed), nan=np.inf))
    # One entry more for an array without any.
    worst = int(np.argmax(np.where(kink, -1.0, difference))) if indices else 0
    return GradientReport(
        passed=not np.any(wrong & ~kink),
        error=float(np.max(difference, initial=0.0)) / (scale or 1.0),
        tolerance=rtol + noise / (scale or 1.0),
        index=[*indices, ()][worst],
        claimed=float([*claimed, math.nan][worst]),
        numeric=float([*numeric, math.nan][worst]),
        checked=len(indices),
        size=gradient.size,
        kinks=int(np.sum(kink)),
        h=h,
    )


def _floating_copy(x: Any) -> Array:
    x = x if _array_api.is_array(x) else np.asarray(x)
    xp = namespace(x)
    if xp.isdtype(x.dtype, ("bool", "integral")):
        return xp.astype(x, _array_api.accumulator(xp, _array_api.device(x)))
    return xp.asarray(x, copy=True)


def _claim(f: Callable[[Array], Any], x: Array, df: Any) -> tuple[float, np.ndarray]:
    """f(x) and the gradient claimed there, on the host."""
    if df is not None:
        value, gradient = f(x), df(x) if callable(df) else df
    else:
        result = f(x)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError("without df, f must return (loss, gradient)")
        value, gradient = result
    host = _array_api.to_host(gradient) if _array_api.is_array(gradient) else gradient
    claimed = np.array(host, dtype=float)
    if claimed.shape != tuple(x.shape):
        raise ValueError(f"the gradient has shape {claimed.shape}, but x has {tuple(x.shape)}")
    return _number(value), claimed


def _number(value: Any) -> float:
    if getattr(value, "shape", ()) != () or isinstance(value, tuple | list):
        raise ValueError(f"f must give one number, got {type(value).__name__}")
    return float(value)


def _sampled_indices(x: Array, max_entries: int, random_state: Any) -> list[Index]:
    size = math.prod(x.shape)
    if size <= max_entries:
        return list(every_index(x))
    chosen = _array_api.generator(random_state).choice(size, max_entries, replace=False)
    return [tuple(map(int, np.unravel_index(k, tuple(x.shape)))) for k in np.sort(chosen)]
