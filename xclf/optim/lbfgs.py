"""L-BFGS in the namespace of its arrays, for one head or K heads at once.

All vectors stay where the parameters live. Per evaluation of the objective one small array goes to
the host: four numbers per head, those that steer the line searches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf.optim.memory import Memory, dots
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


@dataclass
class _Head:
    """The host side of one head: where its line search stands."""

    value: float
    search: Generator[float, Trial, Accepted] | None = None
    step: float = 1.0
    failures: int = 0


class LBFGS:
    """Minimises K objectives at once by L-BFGS with a Wolfe line search.

    value_and_grad : theta (K, P) -> (values (K,), gradients (K, P), ...); heads are independent;
        further arrays (K,) travel to the host with the rest and come back as `extra`. May be
        replaced between evaluations: see `keep` and `restart`.
    theta : (K, P) start, not written to
    memory : where curvature pairs are kept, 20 of them by default; one that another run has filled
        for a similar objective makes a good start
    precondition : v (K, P) -> (K, P), an approximate inverse Hessian, symmetric positive definite;
                   may change between iterates. It is scaled by s.y / y.Py (Barzilai & Borwein).
                   One with a method `keep` is told when heads leave.
    noise : relative rounding error of a value, see `wolfe_search`

    `at` is the present iterate, at first the start itself; `advance` makes one evaluation. The
    caller decides when to stop, for every head. Heads search on their own: one that rejects a step
    tries another in the next evaluation while the rest move on. Iterating over the object yields
    `at` and advances, for ever. Source: Nocedal & Wright (2006), algorithms 7.4 and 3.5; Liu &
    Nocedal (1989).
    """

    def __init__(
        self,
        value_and_grad: ValueAndGrad,
        theta: Array,
        *,
        memory: Memory | None = None,
        precondition: Precondition | None = None,
        noise: float = 0.0,
    ) -> None:
        self.xp = namespace(theta)
        self.value_and_grad = value_and_grad
        self.precondition = precondition
        self.noise = noise
        self.memory = memory = Memory(20) if memory is None else memory
        self._theta = theta
        value, self._grad, *more = value_and_grad(theta)
        start = self._host(value, self.xp.max(self.xp.abs(self._grad), axis=-1), *more)
        self._heads = [_Head(float(v)) for v in start[0]]
        self._grad_norm, self._extra = start[1], start[2:]
        none = np.zeros(len(self._heads), dtype=bool)
        self._decrement = np.full(len(self._heads), np.inf)
        self._moved, self._stalled, self._restarted = none, none.copy(), none.copy()
        if memory.scale is None:
            # Before any curvature is known a step of length 1 / |g| is as good a guess as any.
            length = np.ones_like(self._grad_norm)
            if precondition is None:
                length = 1.0 / np.maximum(self._grad_norm, 1.0)
            memory.scale = self._column(length)
        self._direction: Array | None = None

    def __iter__(self) -> Iterator[Iterate]:
        yield self.at
        while True:
            yield self.advance()

    @property
    def at(self) -> Iterate:
        """Where the heads are."""
        return Iterate(
            theta=self._theta,
            grad=self._grad,
            value=np.asarray([head.value for head in self._heads]),
            grad_norm=self._grad_norm,
            decrement=self._decrement,
            moved=self._moved,
            stalled=self._stalled,
            extra=self._extra,
        )

    def advance(self) -> Iterate:
        """One evaluation: try every head's step, and turn those whose search has ended."""
        if self._direction is None:
            self._direction = self._turn()
        still = self._stalled | self._restarted
        steps = np.asarray([0.0 if s else h.step for h, s in zip(self._heads, still, strict=True)])
        trial = self._theta + self._column(steps) * self._direction
        value, grad, *more = self.value_and_grad(trial)
        xp = self.xp
        told = self._host(
            value,
            dots(grad, self._direction),
            dots(self._grad, self._direction),
            xp.max(xp.abs(grad), axis=-1),
            *more,
        )
        self._moved, failed = self._judge(told)
        new = self._moved | self._restarted
        if self._moved.any():
            change = self._column(steps) * self._direction
            self._remember(change, grad, steps * (told[1] - told[2]))
            del change
        if new.any():
            self._theta = self._pick(self._moved, trial, self._theta)
            self._grad = self._pick(new, grad, self._grad)
            self._grad_norm = np.where(new, told[3], self._grad_norm)
            self._decrement = np.where(self._moved, -0.5 * told[2], self._decrement)
            self._extra = np.where(new, told[4:], self._extra)
        del trial, grad  # room for the next direction, which is as large
        if failed.any():
            self.memory.forget(self._mask(~failed))
        new = new | failed
        if new.all():
            self._direction = None
            self._direction = self._turn()
        elif new.any():
            self._direction = self._pick(new, self._turn(), self._direction)
        self._restarted = np.zeros_like(self._restarted)
        return self.at

    def keep(self, kept: np.ndarray) -> None:
        """Go on with the heads that host integers `kept` name; the others leave the batch.

        The caller replaces `value_and_grad` by one for these heads.
        """
        index = from_host(np.asarray(kept, dtype=np.int64), self._theta)
        take = self.xp.take
        self._theta, self._grad = take(self._theta, index, axis=0), take(self._grad, index, axis=0)
        if self._direction is not None:
            self._direction = take(self._direction, index, axis=0)
        self.memory.keep(index)
        narrow = getattr(self.precondition, "keep", None)
        if narrow is not None:
            narrow(kept)
        self._heads = [self._heads[k] for k in kept]
        for name in ("_grad_norm", "_decrement", "_moved", "_stalled", "_restarted"):
            setattr(self, name, getattr(self, name)[kept])
        self._extra = self._extra[:, kept]

    def restart(self, heads: np.ndarray) -> None:
        """The objective of `heads` (host booleans (K,)) has changed, a little: the next evaluation
        measures them where they stand, and gives no pair; their older pairs stay."""
        self._restarted = self._restarted | heads
        self._stalled = self._stalled & ~heads
        self._decrement = np.where(heads, np.inf, self._decrement)
        for k in np.flatnonzero(heads):
            self._heads[k] = _Head(self._heads[k].value)

    def _judge(self, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Send every search what its step gave; returns (moved, failed) per head."""
        moved = np.zeros(len(self._heads), dtype=bool)
        failed = moved.copy()
        for k, head in enumerate(self._heads):
            value, slope, slope0 = told[:3, k].tolist()
            if self._restarted[k]:
                head.value = value
            if self._restarted[k] or self._stalled[k]:
                continue
            ended = _advance(head, Trial(value, slope), slope0, self.noise * abs(head.value))
            if ended is None:
                continue
            head.search, head.step = None, 1.0
            if ended.ok:
                moved[k], head.value, head.failures = True, value, 0
            else:
                failed[k] = True
                head.failures += 1
        self._stalled = self._stalled | np.asarray([head.failures > 1 for head in self._heads])
        return moved, failed

    def _remember(self, change: Array, grad: Array, curvature: np.ndarray) -> None:
        """Keep the pair of this step; heads that did not move, or met no curvature, sit it out."""
        good = self._moved & (curvature > 0.0)
        if not good.any():
            return
        xp = self.xp
        y, good = grad - self._grad, self._mask(good)
        size = self.memory.add(change, y, good)
        # The trial of a head that sits out may have been infinite, and 0 * inf is NaN.
        good = good & (size > 0.0)
        y = xp.where(good[:, None], y, 0.0)
        spread = xp.astype(dots(y, self._preconditioned(y)), size.dtype, copy=False)
        good = good & (spread > 0.0)
        scale = xp.where(good, size, 1.0) / xp.where(good, spread, 1.0)
        scale = xp.astype(scale, self._theta.dtype, copy=False)[:, None]
        self.memory.scale = xp.where(good[:, None], scale, self.memory.scale)

    def _turn(self) -> Array:
        return -self.memory.direction(self._grad, self._preconditioned)

    def _preconditioned(self, v: Array) -> Array:
        return v if self.precondition is None else self.precondition(v)

    def _pick(self, mask: np.ndarray, new: Array, old: Array) -> Array:
        if mask.all():
            return new
        if not mask.any():
            return old
        return self.xp.where(from_host(mask[:, None], self._theta), new, old)

    def _mask(self, values: np.ndarray) -> Array:
        return from_host(values, self._theta)

    def _column(self, values: np.ndarray) -> Array:
        return from_host(values[:, None], self._theta, dtype=self._theta.dtype)

    def _host(self, *rows: Array) -> np.ndarray:
        """One copy to the host for all the numbers that steer."""
        dtype = self._theta.dtype
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
