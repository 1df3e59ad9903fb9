"""L-BFGS in the namespace of its arrays, for one head or K heads at once.

All vectors stay where the parameters live. Per evaluation of the objective one small array goes to
the host: four numbers per head, those that steer the line searches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from xclf._xp import Array, from_host, namespace, to_host
from xclf.optim.wolfe import Accepted, Trial, wolfe_search

ValueAndGrad: TypeAlias = Callable[[Array], tuple[Array, ...]]
Precondition: TypeAlias = Callable[[Array], Array]


class Iterate(NamedTuple):
    """K heads after one evaluation of the objective; host arrays hold one number per head.

    theta      (K, P) parameters, in their namespace
    grad       (K, P) gradient there
    value      (K,) objective there
    grad_norm  (K,) max-norm of the gradient
    decrement  (K,) g^T H g / 2 at the iterate before: the quasi-Newton model's estimate of how far
               that one's objective stood above the optimum; inf before the first step
    moved      (K,) whether the head took a step; the others' line searches go on
    stalled    (K,) whether the line search failed even along the preconditioned gradient: rounding
               leaves nothing to gain, and the head stays where it is
    extra      (E, K) whatever else `value_and_grad` gave there
    """

    theta: Array
    grad: Array
    value: np.ndarray
    grad_norm: np.ndarray
    decrement: np.ndarray
    moved: np.ndarray
    stalled: np.ndarray
    extra: np.ndarray


class _Pair(NamedTuple):
    """s and y (K, P), rho = 1 / (s . y) (K, 1); rho = 0 switches the pair off for a head."""

    s: Array
    y: Array
    rho: Array


class Memory:
    """The last `size` curvature pairs of a run, and the scale (K, 1) of its first direction."""

    def __init__(self, size: int) -> None:
        self.pairs: deque[_Pair] = deque(maxlen=size)
        self.scale: Array | None = None


@dataclass
class _Head:
    """The host side of one head: where its line search stands."""

    value: float
    search: Generator[float, Trial, Accepted] | None = None
    step: float = 1.0
    failures: int = 0


def lbfgs(
    value_and_grad: ValueAndGrad,
    theta: Array,
    *,
    memory: Memory | None = None,
    precondition: Precondition | None = None,
    noise: float = 0.0,
) -> Iterator[Iterate]:
    """Minimise K objectives at once by L-BFGS with a Wolfe line search; yields iterates.

    value_and_grad : theta (K, P) -> (values (K,), gradients (K, P), ...); heads are independent;
        further arrays (K,) travel to the host with the rest and come back as `extra`
    theta : (K, P) start, not written to
    memory : where curvature pairs are kept, 20 of them by default; one that another run has filled
        for a similar objective makes a good start
    precondition : v (K, P) -> (K, P), an approximate inverse Hessian, symmetric positive definite;
                   may change between iterates. It is scaled by s.y / y.Py (Barzilai & Borwein).
    noise : relative rounding error of a value, see `wolfe_search`

    The first iterate is the start itself; each further one costs one evaluation. The caller decides
    when to stop. Heads search on their own: one that rejects a step tries another in the next
    evaluation while the rest move on. Source: Nocedal & Wright (2006), algorithms 7.4 and 3.5;
    Liu & Nocedal (1989).
    """
    run = _Run(value_and_grad, theta, memory or Memory(20), precondition, noise)
    while True:
        yield run.iterate()
        run.advance()


class _Run:
    def __init__(
        self,
        value_and_grad: ValueAndGrad,
        theta: Array,
        memory: Memory,
        precondition: Precondition | None,
        noise: float,
    ) -> None:
        self.xp = namespace(theta)
        self.value_and_grad = value_and_grad
        self.precondition = precondition
        self.noise = noise
        self.theta = theta
        value, self.grad, *more = value_and_grad(theta)
        start = self._host(value, self.xp.max(self.xp.abs(self.grad), axis=-1), *more)
        self.heads = [_Head(float(v)) for v in start[0]]
        self.grad_norm, self.extra = start[1], start[2:]
        none = np.zeros(len(self.heads), dtype=bool)
        self.decrement = np.full(len(self.heads), np.inf)
        self.moved, self.stalled = none, none.copy()
        self.memory = memory
        if memory.scale is None:
            # Before any curvature is known a step of length 1 / |g| is as good a guess as any.
            length = np.ones_like(self.grad_norm)
            if precondition is None:
                length = 1.0 / np.maximum(self.grad_norm, 1.0)
            memory.scale = self._column(length)
        self.direction: Array | None = None

    def iterate(self) -> Iterate:
        value = np.asarray([head.value for head in self.heads])
        return Iterate(
            theta=self.theta,
            grad=self.grad,
            value=value,
            grad_norm=self.grad_norm,
            decrement=self.decrement,
            moved=self.moved,
            stalled=self.stalled,
            extra=self.extra,
        )

    def advance(self) -> None:
        """One evaluation: try every head's step, and turn those whose search has ended."""
        if self.direction is None:
            self.direction = self._turn()
        steps = np.asarray(
            [0.0 if s else h.step for h, s in zip(self.heads, self.stalled, strict=True)]
        )
        change = self._column(steps) * self.direction
        trial = self.theta + change
        value, grad, *more = self.value_and_grad(trial)
        xp = self.xp
        told = self._host(
            value,
            xp.sum(grad * self.direction, axis=-1),
            xp.sum(self.grad * self.direction, axis=-1),
            xp.max(xp.abs(grad), axis=-1),
            *more,
        )
        self.moved, failed = self._judge(told)
        if self.moved.any():
            self._remember(change, grad, steps * (told[1] - told[2]))
            self.theta = self._pick(self.moved, trial, self.theta)
            self.grad = self._pick(self.moved, grad, self.grad)
            self.grad_norm = np.where(self.moved, told[3], self.grad_norm)
            self.decrement = np.where(self.moved, -0.5 * told[2], self.decrement)
            self.extra = np.where(self.moved, told[4:], self.extra)
        if failed.any():
            self._forget(failed)
        if self.moved.any() or failed.any():
            self.direction = self._pick(self.moved | failed, self._turn(), self.direction)

    def _judge(self, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Send every search what its step gave; returns (moved, failed) per head."""
        moved = np.zeros(len(self.heads), dtype=bool)
        failed = moved.copy()
        for k, head in enumerate(self.heads):
            if self.stalled[k]:
                continue
            value, slope, slope0 = told[:3, k].tolist()
            ended = _advance(head, Trial(value, slope), slope0, self.noise * abs(head.value))
            if ended is None:
                continue
            head.search, head.step = None, 1.0
            if ended.ok:
                moved[k], head.value, head.failures = True, value, 0
            else:
                failed[k] = True
                head.failures += 1
        self.stalled = self.stalled | np.asarray([head.failures > 1 for head in self.heads])
        return moved, failed

    def _remember(self, change: Array, grad: Array, curvature: np.ndarray) -> None:
        """Keep the pair of this step; heads that did not move, or met no curvature, sit it out."""
        good = self.moved & (curvature > 0.0)
        if not good.any():
            return
        xp = self.xp
        y = grad - self.grad
        if not good.all():
            # The trial of a head that sits out may have been infinite, and 0 * inf is NaN.
            y = self._pick(good, y, xp.zeros_like(y))
        rho = np.zeros_like(curvature)
        np.divide(1.0, curvature, out=rho, where=good)
        self.memory.pairs.append(_Pair(change, y, self._column(rho)))
        size = xp.sum(y * self._preconditioned(y), axis=-1, keepdims=True)
        size = self._pick(good, size, xp.ones_like(size))
        scale = self._column(np.where(good, curvature, 1.0)) / size
        self.memory.scale = self._pick(good, scale, self.memory.scale)

    def _forget(self, failed: np.ndarray) -> None:
        keep = self._column(np.where(failed, 0.0, 1.0))
        pairs = self.memory.pairs
        for place, pair in enumerate(pairs):
            pairs[place] = pair._replace(rho=pair.rho * keep)

    def _turn(self) -> Array:
        """-H g by the two-loop recursion; Nocedal & Wright (2006), algorithm 7.4."""
        xp = self.xp
        q = self.grad
        shares = []
        for pair in reversed(self.memory.pairs):
            share = pair.rho * xp.sum(pair.s * q, axis=-1, keepdims=True)
            q = q - share * pair.y
            shares.append(share)
        r = self.memory.scale * self._preconditioned(q)
        for pair, share in zip(self.memory.pairs, reversed(shares), strict=True):
            back = pair.rho * xp.sum(pair.y * r, axis=-1, keepdims=True)
            r = r + (share - back) * pair.s
        return -r

    def _preconditioned(self, v: Array) -> Array:
        return v if self.precondition is None else self.precondition(v)

    def _pick(self, mask: np.ndarray, new: Array, old: Array) -> Array:
        if mask.all():
            return new
        if not mask.any():
            return old
        return self.xp.where(from_host(mask[:, None], self.theta), new, old)

    def _column(self, values: np.ndarray) -> Array:
        return from_host(values[:, None], self.theta, dtype=self.theta.dtype)

    def _host(self, *rows: Array) -> np.ndarray:
        """One copy to the host for all the numbers that steer."""
        dtype = self.theta.dtype
        together = self.xp.stack([self.xp.astype(row, dtype, copy=False) for row in rows])
        return np.asarray(to_host(together), dtype=np.float64)


def _advance(head: _Head, trial: Trial, slope0: float, noise: float) -> Accepted | None:
    """Move one head's search on by a trial; None while it wants another."""
    try:
        if head.search is None:
            head.search = wolfe_search(Trial(head.value, slope0), head.step, noise)
            next(head.search)
        head.step = head.search.send(trial)
    except StopIteration as end:
        accepted: Accepted = end.value
        return accepted
    return None
