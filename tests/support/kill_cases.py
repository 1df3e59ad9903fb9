"""Fits that are killed, as `kill -9` does it, and what is left of fitted models to compare."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.datasets import load_digits

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf._array_api import to_host
from xclf.optim import SOLVERS

_DIGITS = load_digits(return_X_y=True)
FEW = _DIGITS[0][:300], _DIGITS[1][:300]
_RNG = np.random.default_rng(0)
_X = _RNG.normal(size=(2600, 12))
#: More rows than Newton's method takes, of classes that overlap.
MANY = _X, np.argmax(_X @ _RNG.normal(size=(12, 5)) + 2.0 * _RNG.normal(size=(2600, 5)), axis=1)
#: Fewer rows than features, which are brought into their own span.
WIDE = _RNG.normal(size=(60, 500)), np.arange(60) % 4
#: Likewise, and sparse, with too many columns to be made dense: in the space of their scores.
SPARSE = scipy.sparse.csr_array(np.where(np.abs(WIDE[0]) > 1.5, WIDE[0], 0.0)), WIDE[1]
SPARSE[0].resize(60, 18000)
NARROW = MANY[0].astype(np.float32), MANY[1]

Case = tuple[Callable[[], Any], tuple[np.ndarray, np.ndarray]]

#: Every full-batch method, and every minibatch solver, by name: how to make the model, and rows.
CASES: dict[str, Case] = {
    "softmax": (lambda: SoftmaxClassifier(reg=1e-4), FEW),
    "softmax, wide": (lambda: SoftmaxClassifier(reg=1e-5), WIDE),
    "softmax, sparse": (lambda: SoftmaxClassifier(reg=1e-5), SPARSE),
    "softmax, float32": (lambda: SoftmaxClassifier(reg=1e-6, standardize=True), NARROW),
    "hinge": (lambda: SVMClassifier(reg=1e-2), MANY),
    "hinge, float32": (lambda: SVMClassifier(reg=1e-2), NARROW),
    "squared hinge": (lambda: SVMClassifier(reg=1e-4, loss="squared_hinge"), MANY),
    "net, softmax": (lambda: _net("lbfgs", max_iter=40, tol=1e-3), FEW),
    "net, hinge": (lambda: _net("lbfgs", max_iter=40, tol=1e-4, loss="hinge"), FEW),
    **{
        solver.name: (
            lambda name=solver.name: _net(
                name, max_iter=9, early_stopping=True, n_iter_no_change=4, lr_schedule="cosine"
            ),
            FEW,
        )
        for solver in SOLVERS.values()
        if not solver.full_batch
    },
}


def _net(solver: str, **options: Any) -> TwoLayerClassifier:
    return TwoLayerClassifier(hidden=8, solver=solver, random_state=0, **options)


class KillAt:
    """A callback that kills its process at the event of this number."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, event: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def __sklearn_clone__(self) -> KillAt:
        return self


class RaiseAt(KillAt):
    """A callback that raises an exception instead; Ctrl-C by default."""

    def __init__(self, number: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__(number)
        self.error = error

    def __call__(self, event: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


class Heard:
    """A callback that keeps the steps of the events, and copies of which share them."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, event: Any) -> None:
        self.steps.append(event.step)

    def __sklearn_clone__(self) -> Heard:
        return self


def child(work: Callable[[], Any]) -> int:
    """The process id of a copy of this process that does the work and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of threads, of which the work needs none
        process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    return process


def ended(process: int) -> bool:
    """Whether a child came to its end, rather than being killed."""
    status = os.waitpid(process, 0)[1]
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
    return os.WIFEXITED(status)


def bits(model: Any) -> tuple[Any, ...]:
    """All that a fit leaves but the times, for comparison."""
    arrays = [to_host(a).tobytes() for layer in model._layers() for a in layer if a is not None]
    curves = [repr(curve) for name, curve in model.history_.items() if name != "seconds"]
    results = model.n_iter_, model.objective_, model.converged_, getattr(model, "dual_gap_", None)
    return arrays, curves, repr(results), model.classes_.tolist()
