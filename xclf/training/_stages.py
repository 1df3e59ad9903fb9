"""The stages of a fit in its checkpoint: runs of an iterative method, with the fit's history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf.training.checkpoint import Stage
from xclf.training.events import FitResult, Monitor

#: Why a fit ends that a callback stops. It can go on from its checkpoint.
STOPPED = "a callback stopped the fit"


class MethodStage:
    """A run of an iterative method.

    results : of a run that has ended before, whose history is in place again; None otherwise
    saved : the state to go on from, likewise; None for a run that starts
    """

    def __init__(self, stage: Stage, monitor: Monitor, like: Array) -> None:
        self._stage, self._monitor = stage, monitor
        self.results: list[FitResult] | None = None
        self.saved: Any = None
        ended = stage.value(like)
        if ended is not None:
            self.results = results_of(self._take(ended))
        elif (state := stage.state(like)) is not None:
            self.saved = self._take(state)

    def offer(self, state: Callable[[], Any]) -> None:
        """Hand over the method's state, if it is time to write it; at the end of an iteration."""
        self._stage.offer(lambda: self._with_history(state()))

    def finish(self, results: list[FitResult]) -> list[FitResult]:
        """The results, kept unless Ctrl-C or a callback ended the run."""
        if any(result.interrupted for result in results):
            self._stage.abandon()
        elif not any(result.reason == STOPPED for result in results):
            self._stage.finish(self._with_history(trees_of(results)))
        return results

    def _with_history(self, tree: Any) -> dict[str, Any]:
        history = {name: np.asarray(curve) for name, curve in self._monitor.history.items()}
        elapsed = time.perf_counter() - self._monitor.start
        return {"history": history, "elapsed": elapsed, "tree": tree}

    def _take(self, saved: dict[str, Any]) -> Any:
        for name, curve in saved["history"].items():
            self._monitor.history[name][:] = curve.tolist()
        self._monitor.start = time.perf_counter() - saved["elapsed"]
        return saved["tree"]


@contextmanager
def method_stage(monitor: Monitor, kind: str, like: Array) -> Iterator[MethodStage]:
    """A run of the method `kind` in the checkpoint of the fit, if that has one; `like` is an array
    where the parameters are."""
    if monitor.checkpoint is None:
        yield MethodStage(Stage(), monitor, like)
        return
    with monitor.checkpoint.stage(kind) as stage:
        yield MethodStage(stage, monitor, like)


def trees_of(results: list[Any]) -> list[Any]:
    """Results, or None in their places, as a checkpoint keeps them."""
    return [
        None if one is None else {f.name: getattr(one, f.name) for f in fields(FitResult)}
        for one in results
    ]


def results_of(trees: list[Any]) -> list[Any]:
    """The results that `trees_of` took apart."""
    return [None if tree is None else FitResult(**tree) for tree in trees]
