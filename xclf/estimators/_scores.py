"""Scores of fitted models on rows, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import SparseMatrix
from xclf.estimators import _border as border
from xclf.estimators._devices import to_model_device
from xclf.estimators._unit_rows import unit_rows
from xclf.objectives import Layer, Network
from xclf.rows import MemoryBudget, map_rows, parse_bytes

if TYPE_CHECKING:
    from xclf.estimators._fitted import FittedModel


def fitted_shape(model: FittedModel) -> tuple[tuple[int, ...], Any]:
    """(widths, dtype) of a fitted model: `map_scores` stacks models that share both."""
    layers = model._layers()
    return fitted_widths(layers), layers[0].w.dtype


def map_scores(
    models: Sequence[FittedModel], X: Array, finish: Callable[[Array], Array], *, stack: bool
) -> Array:
    """`finish` of the scores of models of the same widths, whose axis of heads one model alone has
    if `stack`."""
    first = models[0]._layers()[0].w
    X = to_model_device(X, first, models[0].device)
    border.check_same_as_model(first, X)
    sparse = isinstance(X, SparseMatrix)
    budget = MemoryBudget(parse_bytes(models[0].max_memory))
    with _array_api.on_device(X):
        scores, width = scores_function(models, finish, stack=stack, sparse=sparse)
        return map_rows(scores, X, first.dtype, width, budget)


def scores_function(
    models: Sequence[FittedModel],
    finish: Callable[[Array], Array],
    *,
    stack: bool,
    sparse: bool = False,
) -> tuple[Callable[[Array], Array], int]:
    """(`map_scores` as a function of rows, outputs of the widest layer of all models).

    sparse : whether the rows are a `SparseMatrix`
    """
    layers = [model._layers() for model in models]
    network = Network(fitted_widths(layers[0]), sparse=sparse)
    thetas = [network.flatten([(w, b) for w, b in own]) for own in layers]
    theta = _array_api.namespace(thetas[0]).stack(thetas) if stack else thetas[0]
    prepared = network.prepared(theta, theta.dtype)
    scores = partial(_scores, network, prepared, finish, models[0]._unit_rows)
    return scores, len(models) * max(network.widths[1:])


def _scores(
    network: Network, layers: list[Layer], finish: Callable[[Array], Array], unit: bool, x: Array
) -> Array:
    return finish(network.apply(layers, unit_rows(x) if unit else x)[0])


def fitted_widths(layers: list[Layer]) -> tuple[int, ...]:
    """Layer widths from features to classes, as the arrays have them."""
    return (int(layers[0].w.shape[1]), *(int(layer.w.shape[0]) for layer in layers))


def rows_first(values: Array) -> Array:
    """(*heads, C, n) as (n, *heads, C)."""
    axes = (values.ndim - 1, *range(values.ndim - 1))
    return _array_api.namespace(values).permute_dims(values, axes)


def best_class(scores: Array) -> Array:
    return rows_first(_array_api.namespace(scores).argmax(scores, axis=-2))


def decision(scores: Array) -> Array:
    two = scores.shape[-2] == 2
    return rows_first(scores[..., 1, :] - scores[..., 0, :] if two else scores)
