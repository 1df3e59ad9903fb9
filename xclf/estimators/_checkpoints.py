"""The facts that a fit depends on, by which its checkpoint knows it again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._devices import PlacedRows
from xclf.rows import BlockColumn, fingerprint
from xclf.training import (
    STOPPED,
    Checkpoint,
    FitResult,
    Monitor,
    Stage,
    results_of,
    trees_of,
)

if TYPE_CHECKING:
    from xclf.estimators._head import Head

# Parameters that change nothing in a fitted model.
_WATCHING = ("callbacks", "verbose")


def checkpoint_of(callbacks: Iterable[Any] | None) -> Checkpoint | None:
    """The checkpoint among callbacks, if there is one."""
    return next((one for one in callbacks or () if isinstance(one, Checkpoint)), None)


def fit_stage(
    checkpoint: Checkpoint | None, placed: PlacedRows, heads: Sequence[Head]
) -> contextlib.AbstractContextManager[Stage]:
    """The fit of `heads` as a stage of its checkpoint, for a `with` statement."""
    if checkpoint is None:
        return contextlib.nullcontext(Stage())
    return checkpoint.stage("fit", _facts(placed, heads))


def ended(
    stage: Stage, like: Array, monitor: Monitor, rng: np.random.Generator
) -> list[FitResult] | None:
    """The results of a fit that has ended before, with its history and its generator where they
    were then; None for one that has not."""
    value = stage.value(like)
    if value is None:
        return None
    for name, curve in value["history"].items():
        monitor.history[name][:] = curve.tolist()
    rng.bit_generator.state = value["rng"]
    return results_of(value["results"])


def finish(
    stage: Stage, results: list[FitResult], monitor: Monitor, rng: np.random.Generator
) -> None:
    """Keep the results of a fit that has ended.

    One that a callback has stopped has so within a search; by itself it may be meant to go on.
    """
    stopped = stage.outermost and any(result.reason == STOPPED for result in results)
    if stopped or any(result.interrupted for result in results):
        stage.abandon()
        return
    history = {name: np.asarray(curve) for name, curve in monitor.history.items()}
    stage.finish({"history": history, "rng": rng.bit_generator.state, "results": trees_of(results)})


def _facts(placed: PlacedRows, heads: Sequence[Head]) -> dict[str, Any]:
    X, first = placed.X, heads[0]
    params = [parameters_as_text(head.model) for head in heads]
    shared = {
        name: value if all(one[name] == value for one in params) else [p[name] for p in params]
        for name, value in params[0].items()
    }
    where = f"{_array_api.library(_array_api.namespace(X))} on {_array_api.device(X)}"
    parts = {id(head.index): head for head in heads}.values()
    labels = [_digest(h.classes, h.index, h.train) for h in parts]
    weights = {head.weight_key: head.weights for head in heads}
    start = [a for head in heads for layer in head.start or () for a in layer]
    return {
        "estimator": type(first.model).__name__,
        **shared,
        "X": placed.fingerprint,
        "y": labels[0] if len(labels) == 1 else _digest(labels),
        "sample weights": _digest(*weights.values()),
        "start": _digest(*(None if a is None else _array_api.to_host(a) for a in start)),
        "arrays": where,
    }


def parameters_as_text(model: Any) -> dict[str, Any]:
    """The parameters that a fitted model depends on, as JSON has them."""
    own = model.get_params(deep=False)
    return {name: _plain(value) for name, value in own.items() if name not in _WATCHING}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return type(value).__name__  # where it stands is in the checkpoint
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _digest(*parts: Any) -> str:
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, BlockColumn) or (isinstance(part, np.ndarray) and part.dtype != object):
            sha.update(fingerprint(part).encode())
        else:
            sha.update(repr(part.tolist() if isinstance(part, np.ndarray) else part).encode())
    return f"sha256:{sha.hexdigest()}"
