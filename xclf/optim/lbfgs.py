"""L-BFGS in the namespace of its arrays, for one head or K heads at once.

All vectors stay where the parameters live. Per evaluation of the objective one small array goes to
the host: four numbers per head, those that steer the line searches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf._heads import take_heads
from xclf.optim.memory import Memory, dots
from xclf.optim.wolfe import Accepted, Trial, wolfe_search

ValueAndGrad: TypeAlias = Callable[[Array], tuple[Array, ...]]
Precondition: TypeAlias = Callable[[Array], Array]


class Iterate(NamedTuple):
    """K heads after one evaluation of the objective; host arrays hold one entry per head.

    theta      (K, P) parameters, in their namespace
    grad       (K, P) gradient there
    value      (K,) objective there
    grad_norm  (K,) max-norm of the gradient
    decrement  (K,) g^T H g / 2 at the iterate before: the quasi-Newton model's estimate of how far
               that one's objective stood above the optimum; inf before the first step
    moved      (K,) whether the head took a step; the others' line searches go on
    stalled    (K,) whether the line search failed even along the preconditioned gradient: rounding
               leaves nothing to gain, and the head stays where it is
    extra      (K, E) whatever else `value_and_grad` gave there
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
class _LineSearch:
    """The line search of one head: its coroutine once begun, the step to try, failures in a row.

    begun, trials : what the coroutine was given, from which another one comes to the same point
    """

    search: Generator[float, Trial, Accepted] | None = None
    step: float = 1.0
    failures: int = 0
    begun: tuple[Trial, float, float] | None = None
    trials: list[Trial] = field(default_factory=list)

    def advance(self, start: Trial, trial: Trial, noise: float) -> Accepted | None:
        """Go on with what the step gave; None while the search wants to try another."""
        try:
            if self.search is None:
                self._begin(start, self.step, noise)
            self._send(trial)
        except StopIteration as end:
            self.search, self.step = None, 1.0
            accepted: Accepted = end.value
            return accepted
        return None

    def _begin(self, start: Trial, step: float, noise: float) -> None:
        self.begun, self.trials = (start, step, noise), []
        self.search = wolfe_search(start, step, noise)
        next(self.search)

    def _send(self, trial: Trial) -> None:
        assert self.search is not None
        self.trials.append(trial)
        self.step = self.search.send(trial)

    def state(self) -> dict[str, Any]:
        """Numbers that `from_state` makes the same search of."""
        under_way = None if self.search is None else (self.begun, self.trials)
        return {"step": self.step, "failures": self.failures, "under_way": under_way}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The search whose `state` this was."""
        search = cls(step=state["step"], failures=state["failures"])
        if state["under_way"] is not None:
            (start, first, noise), trials = state["under_way"]
            search._begin(Trial(*start), first, noise)
            for trial in trials:
                search._send(Trial(*trial))
        return search


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
                   Its method `keep`, if any, is called when heads leave.
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
        self.xp = xp = namespace(theta)
        self.value_and_grad = value_and_grad
        self.precondition = precondition
        self.noise = noise
        self.memory = memory = Memory(20) if memory is None else memory
        value, grad, *more = value_and_grad(theta)
        value, norm, *extra = self._to_host(theta, value, xp.max(xp.abs(grad), axis=-1), *more)
        none = np.zeros(len(value), dtype=bool)
        decrement = np.full(len(value), np.inf)
        extras = np.reshape(extra, (len(more), len(value))).T
        self.at = Iterate(theta, grad, value, norm, decrement, none, none, extras)
        self._restarted = none
        self._searches = [_LineSearch() for _ in value]
        if memory.scale is None:
            # Before any curvature is known a step of length 1 / |g| is as good a guess as any.
            length = 1.0 / np.maximum(norm, 1.0) if precondition is None else np.ones_like(norm)
            memory.scale = self._column(length)
        self._direction: Array | None = None

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs beside the objective and the preconditioner."""
        return {
            "at": tuple(self.at),
            "direction": self._direction,
            "restarted": self._restarted,
            "searches": [search.state() for search in self._searches],
            "memory": self.memory.state(),
        }

    @classmethod
    def from_state(
        cls,
        value_and_grad: ValueAndGrad,
        state: dict[str, Any],
        *,
        memory: Memory,
        precondition: Precondition | None = None,
        noise: float = 0.0,
    ) -> Self:
        """The minimiser whose `state` this was; `memory` takes up the pairs."""
        self = cls.__new__(cls)
        self.at = Iterate(*state["at"])
        self.xp = namespace(self.at.theta)
        self.value_and_grad, self.precondition, self.noise = value_and_grad, precondition, noise
        self.memory = memory
        memory.restore(state["memory"])
        self._restarted, self._direction = state["restarted"], state["direction"]
        self._searches = [_LineSearch.from_state(search) for search in state["searches"]]
        return self

    def __iter__(self) -> Iterator[Iterate]:
        yield self.at
        while True:
            yield self.advance()

    def advance(self) -> Iterate:
        """One evaluation: try every head's step, and turn those whose search has ended."""
        if self._direction is None:
            self._direction = self._new_direction()
        xp, at, direction = self.xp, self.at, self._direction
        still = at.stalled | self._restarted
        steps = np.where(still, 0.0, [search.step for search in self._searches])
        trial = at.theta + self._column(steps) * direction
        value, grad, *more = self.value_and_grad(trial)
        value, derivative, derivative0, norm, *extra = self._to_host(
            trial,
            value,
            dots(grad, direction),
            dots(at.grad, direction),
            xp.max(xp.abs(grad), axis=-1),
            *more,
        )
        moved, failed = self._search(value, derivative, derivative0)
        new = moved | self._restarted
        if moved.any():
            change = self._column(steps) * direction
            self._remember(change, grad, moved & (steps * (derivative - derivative0) > 0.0))
            del change
        self.at = Iterate(
            theta=self._pick(moved, trial, at.theta),
            grad=self._pick(new, grad, at.grad),
            value=np.where(new, value, at.value),
            grad_norm=np.where(new, norm, at.grad_norm),
            decrement=np.where(moved, -0.5 * derivative0, at.decrement),
            moved=moved,
            stalled=at.stalled | [search.failures > 1 for search in self._searches],
            extra=np.where(new[:, None], np.reshape(extra, at.extra.T.shape).T, at.extra),
        )
        del trial, grad, at  # memory for the next direction, which is as large
        if failed.any():
            self.memory.forget(self._mask(~failed))
        new = new | failed
        if new.all():
            self._direction = direction = None
            self._direction = self._new_direction()
        elif new.any():
            self._direction = self._pick(new, self._new_direction(), direction)
        self._restarted = np.zeros_like(self._restarted)
        return self.at

    def keep(self, kept: np.ndarray) -> None:
        """Go on with the heads that host integers `kept` name; the others leave the batch.

        The caller replaces `value_and_grad` by one for these heads.
        """
        self.at = take_heads(self.at, kept)
        self._direction = take_heads(self._direction, kept)
        self._restarted = take_heads(self._restarted, kept)
        self._searches = [self._searches[k] for k in kept]
        self.memory.keep(kept)
        narrow = getattr(self.precondition, "keep", None)
        if narrow is not None:
            narrow(kept)

    def restart(self, heads: np.ndarray) -> None:
        """The objective of `heads` (host booleans (K,)) has changed, a little: the next evaluation
        measures them where they stand, and gives no pair; their older pairs stay."""
        self._restarted = self._restarted | heads
        self.at = self.at._replace(
            stalled=self.at.stalled & ~heads, decrement=np.where(heads, np.inf, self.at.decrement)
        )
        for k in np.flatnonzero(heads):
            self._searches[k] = _LineSearch()

    def _search(
        self, value: np.ndarray, derivative: np.ndarray, derivative0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Send every search what its step gave; returns (moved, failed) per head.

        derivative, derivative0 : along the direction, at the step and at the iterate
        """
        moved, failed = np.zeros((2, len(value)), dtype=bool)
        for k in np.flatnonzero(~(self._restarted | self.at.stalled)).tolist():
            search, start = self._searches[k], float(self.at.value[k])
            ended = search.advance(
                Trial(start, float(derivative0[k])),
                Trial(float(value[k]), float(derivative[k])),
                self.noise * abs(start),
            )
            if ended is not None:
                moved[k], failed[k] = ended.ok, not ended.ok
                search.failures = 0 if ended.ok else search.failures + 1
        return moved, failed

    def _remember(self, change: Array, grad: Array, good: np.ndarray) -> None:
        """Keep the pair of this step; heads that did not move, or met no curvature, are not `good`
        and sit it out."""
        if not good.any():
            return
        xp = self.xp
        y, good = grad - self.at.grad, self._mask(good)
        size = self.memory.add(change, y, good)
        # The trial of a head that sits out may have been infinite, and 0 * inf is NaN.
        good = good & (size > 0.0)
        y = xp.where(good[:, None], y, 0.0)
        spread = xp.astype(dots(y, self._preconditioned(y)), size.dtype, copy=False)
        good = good & (spread > 0.0)
        scale = xp.where(good, size, 1.0) / xp.where(good, spread, 1.0)
        scale = xp.astype(scale, change.dtype, copy=False)[:, None]
        self.memory.scale = xp.where(good[:, None], scale, self.memory.scale)

    def _new_direction(self) -> Array:
        return -self.memory.direction(self.at.grad, self._preconditioned)

    def _preconditioned(self, v: Array) -> Array:
        return v if self.precondition is None else self.precondition(v)

    def _pick(self, mask: np.ndarray, new: Array, old: Array) -> Array:
        if mask.all():
            return new
        if not mask.any():
            return old
        return self.xp.where(self._mask(mask[:, None]), new, old)

    def _mask(self, values: np.ndarray) -> Array:
        return from_host(values, self.at.theta)

    def _column(self, values: np.ndarray) -> Array:
        return from_host(values[:, None], self.at.theta, dtype=self.at.theta.dtype)

    def _to_host(self, theta: Array, *rows: Array) -> np.ndarray:
        """One copy to the host for all the numbers that steer."""
        together = self.xp.stack([self.xp.astype(row, theta.dtype, copy=False) for row in rows])
        return np.asarray(to_host(together), dtype=np.float64)
