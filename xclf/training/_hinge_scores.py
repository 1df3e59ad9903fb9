"""The smooth problem inside a hinge fit, of wide sparse rows: in the space of their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from xclf._array_api import Array
from xclf.kernels import proximal_hinge
from xclf.rows import Chunk, PerRow, slices
from xclf.training._score_space import CHUNK, ScoreSpace, Swap, score_space
from xclf.training._smoothed_hinge import RELAXATION, SmoothedHinge
from xclf.training.problem import Problem


@dataclass(frozen=True)
class _Smoothed(ScoreSpace):
    """With the smoothed hinge for its loss.

    margin, smoothing : (K,) in the dtype of the rows;  anchor : (K, C, N) in it
    """

    margin: np.ndarray
    smoothing: np.ndarray
    anchor: np.ndarray

    def row_losses(
        self, chunk: Chunk, scores: np.ndarray, where: slice
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """(phi, slack, plain hinge), and the gradient of phi."""
        phi, dscores, slack, a = self._proximal(chunk, scores, where)
        # phi is a m - smoothing/2 (a - a0)^2, slack max(m, 0) - a m: the plain hinge is their sum.
        moved = a - self.anchor[..., where]
        far = 0.5 * self.smoothing[:, None] * np.einsum("kcn,kcn->kn", moved, moved)
        plain = slack + phi + (far if chunk.weights is None else far * chunk.weights)
        return (phi, slack, plain), dscores

    def move(self, theta: np.ndarray, heads: np.ndarray) -> None:
        """The anchor of `heads` (K,) goes to the multipliers at theta, and beyond."""
        _, b, scores, _ = self._split(theta)
        for where in slices(len(self.rows), CHUNK):
            own = np.ascontiguousarray(np.swapaxes(scores[:, where] + b, 1, 2))
            a = self._proximal(self.rows.chunk(where), own, where)[3]
            anchor = self.anchor[..., where]
            beyond = anchor + RELAXATION * (a - anchor)
            self.anchor[..., where] = np.where(heads[:, None, None], beyond, anchor)

    def _proximal(self, chunk: Chunk, scores: np.ndarray, where: slice) -> Any:
        return proximal_hinge(
            scores,
            chunk.labels,
            self.anchor[..., where],
            self.smoothing,
            margin=self.margin,
            weights=chunk.weights,
            axis=-2,
        )


class ScoreHinge(SmoothedHinge):
    """A `SmoothedHinge` whose parameters theta are pairs, see `ScoreSpace`."""

    preconditioners: ClassVar[Any] = Swap

    def __init__(
        self, problem: Problem, margin: np.ndarray, smoothing: np.ndarray, anchor: PerRow
    ) -> None:
        super().__init__(problem, margin, smoothing, anchor)
        self._space = score_space(problem, problem.rows.dtype)
        self._moving: tuple[np.ndarray, Any] | None = None

    @property
    def place(self) -> _Smoothed:
        """The space of the scores, with the smoothing and the multipliers of now."""
        space = self._space
        return _Smoothed(
            space.objective,
            space.rows,
            space.kernel,
            self._margin,
            self._smoothing,
            self.anchor.parts[0],
        )

    def build_preconditioner(self, theta: Array, like: Any = None) -> None:
        """Lengths of steps in weights and biases, measured anew: `like` has no part in it."""
        self.precondition = Swap.of(self.place, theta)

    def value_and_grad(self, theta: Array) -> tuple[Array, ...]:
        """As that of `SmoothedHinge`."""
        if self._moving is not None:
            before, self._moving = self._moving, None
            heads, smoothing = before
            replace(self.place, smoothing=smoothing).move(theta, heads)
        (loss, slack, plain), penalty, grad, square, push = self.place.evaluate(theta)
        cost = np.zeros_like(loss)
        if self.precondition is not None:
            cost = self.precondition.bias_cost(push)
        return loss + penalty, grad, slack, square, cost, plain + penalty

    def move(self, heads: np.ndarray, smoothing: np.ndarray) -> None:
        """As that of `SmoothedHinge`; steps stay as long as they are beside each other."""
        self._moving = heads, self._smoothing
        self.smoothing = smoothing
        self._numbers()

    def keep(self, kept: np.ndarray) -> None:
        """Go on with the heads that host integers `kept` name; not while a move is due."""
        super().keep(kept)
        self._space = self._space.take_heads(kept)

    def inside(self, theta: Array) -> Array:
        """Its parameters at theta (K, P) of the problem."""
        return self.place.inside(theta)

    def outside(self, theta: Array, heads: np.ndarray) -> Array:
        """theta (k, P) of the problem, of its own of the heads that host integers `heads` name."""
        return np.stack([self._space.outside(one) for one in theta])

    def exact(self, theta: Array) -> Array:
        """Its parameters from those of one in another dtype."""
        return self._space.exact(theta)
