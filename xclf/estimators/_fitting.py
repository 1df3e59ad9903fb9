"""From checked input to fitted parameters: one path for a single model and for many together."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf._heads import per_head
from xclf._sparse import SparseMatrix
from xclf.estimators._checkpoints import checkpoint_of, ended, finish, fit_stage
from xclf.estimators._devices import PlacedRows
from xclf.estimators._head import Head
from xclf.estimators._minibatches import minibatch_plan, training_rows
from xclf.estimators._rates import learning_rates
from xclf.kernels import one_hot
from xclf.objectives import Layer, Network, loss_named
from xclf.optim import State
from xclf.rows import (
    GATHERED,
    MASK_CLASSES,
    BlockColumn,
    BlockRows,
    Blocks,
    BlockWeights,
    MemoryBudget,
    Rows,
    parse_bytes,
    product_precision,
)
from xclf.training import (
    Callback,
    Event,
    FitResult,
    FitSpec,
    MinibatchPlan,
    Monitor,
    column_moments,
    empty_history,
    fit,
    memory_budget,
)
from xclf.training.memory import TOGETHER, count_label_sets, count_weight_vectors


def fit_heads(
    placed: PlacedRows,
    heads: Sequence[Head],
    *,
    callbacks: Sequence[Callable[[Event], Any]] = (),
    rng: np.random.Generator | None = None,
    state: State | None = None,
    one_epoch: bool = False,
    history: dict[str, list[float]] | None = None,
) -> list[FitResult]:
    """Train the models of `heads` together and put the results into them.

    They may differ by what is per head: reg, parameters of the loss and of the update rule, labels
    (of the same number of classes), weights and rate; minibatch heads have the same training rows
    and random state. `in_passes` makes out which heads these are.

    callbacks : beside the first model's own;  rng, state, history : of a fit that goes on
    one_epoch : a single pass over the rows as they are, as `partial_fit` makes
    Raises TooManyHeadsError if several heads are too many for the memory that they may take.
    """
    first = heads[0]
    model, X = first.model, placed.X
    own: list[Callback] = [*model._callbacks(), *callbacks]
    checkpoint = None if one_epoch else checkpoint_of(own)
    with (
        _array_api.on_device(X),
        fit_stage(checkpoint, placed, heads) as stage,
        product_precision(X, placed.dtype, model.precision),
    ):
        rng = _array_api.generator(model.random_state) if rng is None else rng
        rng.bit_generator.state = stage.note(lambda: rng.bit_generator.state, X)
        unit = "iteration" if first.full_batch else "epoch"
        total = 1 if one_epoch else first.settings.max_iter
        history = empty_history() if history is None else history
        monitor = Monitor(own, unit, total, history, checkpoint=checkpoint)
        network = Network(
            first.widths, bias=bool(model.fit_intercept), sparse=isinstance(X, SparseMatrix)
        )
        inits = _initial(network, heads, rng)
        rows = _rows(placed, heads, network)
        if model.standardize:
            network = standardized(network, rows, _theta_dtype(first, rows))
        if all(map(_weights_are_implied, heads)):
            rows = replace(rows, weights=None, heads=None)
        spec = _spec(network, heads, rows, rng, one_epoch)
        results = ended(stage, X, monitor, rng)
        if results is None:
            start = partial(_theta, network, heads, inits, rows)
            results = fit(spec, start, monitor, rng, state=state)
            finish(stage, results, monitor, rng)
        for head, result in zip(heads, results, strict=True):
            head.model._take(head, spec, result, monitor.history)
        return results


class TooManyHeadsError(ValueError):
    """Several heads do not fit into the memory that they may take; fewer may."""


def heads_at_once(
    placed: PlacedRows, head: Head, label_sets: int = 1, levels: int = 1, beside: int = 0
) -> int:
    """Heads like `head` that can be trained together within the memory that they may take; one at
    least.

    label_sets : among which the labels of the heads are
    levels : of the path that they go along
    beside : bytes for the heads of all levels of a path
    """
    network = Network(head.widths, bias=bool(head.model.fit_intercept))
    shape = head.shape(network, placed.counted, placed.dtype, 1, label_sets)
    bound = parse_bytes(head.model.max_memory)
    most = shape.needed(0) + TOGETHER if bound is None else bound - placed.taken
    return shape.heads_within(most, levels, beside)


def _rows(placed: PlacedRows, heads: Sequence[Head], network: Network) -> Rows:
    """X with labels and weights of all heads beside it, and the memory budget of the fit."""
    first, X = heads[0], placed.X
    labels, tasks = _label_sets(placed, heads)
    if isinstance(X, Blocks):
        rows = _block_rows(placed, heads, labels, tasks)
        return replace(rows, budget=_budget(placed, heads, network, rows))
    rows = Rows(X, labels, None, placed.dtype, tasks=tasks, precision=first.model.precision)
    vectors = {head.weight_key: head.weights for head in heads}
    if any(weights is not None for weights in vectors.values()):
        weights = np.stack([np.ones(len(rows)) if w is None else w for w in vectors.values()])
        drawn = np.flatnonzero(weights.any(axis=0))
        if first.train is not None and _worth_a_copy(first, X, len(drawn)):
            rows, weights = rows.only(drawn), weights[:, drawn]
        rows = _weighted(rows, weights, [list(vectors).index(head.weight_key) for head in heads])
    return replace(rows, budget=_budget(placed, heads, network, rows))


def _block_rows(
    placed: PlacedRows, heads: Sequence[Head], labels: Any, tasks: np.ndarray | None
) -> Rows:
    """`_rows` of X in blocks; rows with weight that are few come to this process."""
    first, X = heads[0], placed.X
    vectors = {head.weight_key: head.weights for head in heads}
    more: dict[str, Any] = {"tasks": tasks, "precision": first.model.precision}
    weights: Any = None
    which = [list(vectors).index(head.weight_key) for head in heads]
    if any(isinstance(own, BlockWeights) for own in vectors.values()):
        weights = list(vectors.values())
        more |= {"heads": np.asarray(which)} if len(weights) > 1 else {}
    elif any(w is not None for w in vectors.values()) and not all(map(_weights_are_implied, heads)):
        weights, drawn = list(vectors.values()), _with_weight(vectors.values(), X.shape[0])
        few = first.full_batch and np.count_nonzero(drawn) * X.row_bytes <= GATHERED
        if first.train is not None and few:
            numbers = np.flatnonzero(drawn)
            own = [np.ones(len(numbers)) if w is None else w[numbers] for w in weights]
            mask = _masked(labels[..., numbers], first.widths[-1])
            rows = Rows(X.take(numbers), mask, None, placed.dtype, **more)
            return _weighted(rows, np.stack(own), which)
        if len(weights) > 1:
            more["heads"] = np.asarray(which)
        else:
            weights = None if (weights[0] == 1.0).all() else weights[0]
    return BlockRows.of(X, labels, weights, placed.dtype, first.widths[-1], **more)


def _with_weight(vectors: Iterable[np.ndarray | None], rows: int) -> np.ndarray:
    """Whether each row has weight in one of the vectors (N,), None for ones."""
    drawn = np.zeros(rows, dtype=bool)
    for weights in vectors:
        drawn |= True if weights is None else weights > 0.0
    return drawn


def _masked(labels: Array, classes: int) -> Array:
    """Labels of all heads as a mask where there are few classes, as `Rows` has them."""
    if labels.ndim > 1 or classes > MASK_CLASSES:
        return labels
    return one_hot(_array_api.namespace(labels), labels, classes)


def _label_sets(placed: PlacedRows, heads: Sequence[Head]) -> tuple[Array, Array | None]:
    """(labels, tasks) as `Rows` has them: one set where all heads have the same, else integers."""
    X, classes = placed.X, heads[0].widths[-1]
    sets: dict[Hashable, Any] = {}
    written: set[tuple[Hashable, int, int]] = set()
    for head in heads:
        if head.train is None:
            sets[head.label_key] = head.index
        elif (key := (head.label_key, id(head.index), id(head.train))) not in written:
            every = np.zeros(int(X.shape[0]), dtype=np.int64)
            sets.setdefault(head.label_key, every)[head.train] = head.index
            written.add(key)
    if len(sets) > 1:
        places = {key: place for place, key in enumerate(sets)}
        tasks = np.asarray([places[head.label_key] for head in heads])
        columns = list(sets.values())
        if isinstance(columns[0], BlockColumn):
            return BlockColumn.joined(columns), tasks
        labels = np.stack(columns).astype(np.int64, copy=False)
        return _array_api.from_host(labels, X), _array_api.from_host(tasks, X)
    (index,) = sets.values()
    if isinstance(index, BlockColumn):
        return index, None
    labels = _array_api.from_host(index.astype(np.int64, copy=False), X)
    return labels if isinstance(X, Blocks) else _masked(labels, classes), None


def _weights_are_implied(head: Head) -> bool:
    """Whether all rows that minibatches are drawn from weigh the same."""
    if head.full_batch or head.train is None or head.weights is None:
        return False
    return bool((head.weights[head.train] == 1.0).all())


def _weighted(rows: Rows, weights: np.ndarray, which: list[int]) -> Rows:
    """`rows` with weights (G, N); head k has the vector which[k] of them."""
    if len(weights) > 1:
        vector_of = _array_api.from_host(np.asarray(which), rows.x)
        weights = _array_api.from_host(weights, rows.x, rows.dtype)
        return replace(rows, weights=weights, heads=vector_of)
    if (weights == 1.0).all():
        return rows
    return replace(rows, weights=_array_api.from_host(weights[0], rows.x, rows.dtype))


def _worth_a_copy(head: Head, X: Array, rows: int) -> bool:
    """Whether to take the rows that have weight out of X, rather than pass over all of them."""
    if not head.full_batch:
        return False
    every, features = (int(size) for size in X.shape)
    itemsize = getattr(X.dtype, "itemsize", 8)
    each = X.nbytes / every if isinstance(X, SparseMatrix) else features * itemsize
    most = parse_bytes(head.model.max_memory) or TOGETHER
    return rows <= 0.95 * every and 4 * rows * each <= most


def _budget(
    placed: PlacedRows, heads: Sequence[Head], network: Network, rows: Rows
) -> MemoryBudget:
    first, many = heads[0], len(heads) > 1
    most = first.model.max_memory
    if most is None and isinstance(rows, BlockRows):
        return MemoryBudget()
    if most is None and many and _array_api.is_host(placed.X):
        most = TOGETHER
    weights = None if all(map(_weights_are_implied, heads)) else rows.weights
    sets = count_label_sets(rows.labels, rows.tasks)
    x = placed.counted if isinstance(rows, BlockRows) else rows.x
    shape = first.shape(network, x, rows.dtype, count_weight_vectors(weights), sets)
    shape = replace(shape, penalised=all(head.model.reg > 0.0 for head in heads))
    try:
        return memory_budget(shape, most, taken=placed.taken, heads=len(heads))
    except ValueError as error:
        if many:
            raise TooManyHeadsError(str(error)) from None
        raise


def standardized(network: Network, rows: Rows, dtype: Any) -> Network:
    """`network` in coordinates with (weighted) mean 0 and deviation 1; constant features keep
    theirs.

    Without biases nothing can absorb a shift, and features are only scaled; so are those of sparse
    rows, which a shift would fill.
    """
    xp = _array_api.namespace(rows.x)
    mean, variance = column_moments(rows)
    if not bool(xp.all(xp.isfinite(variance))):
        raise ValueError("X holds values so large that their squares overflow: scale X")
    # A deviation at rounding level of the mean, and of the sum that it is, is a constant feature,
    # whose scale stays 1.
    sums = math.sqrt(len(rows)) * xp.finfo(mean.dtype).eps
    tiny = ((10.0 * xp.finfo(rows.dtype).eps + sums) * xp.abs(mean)) ** 2
    scale = xp.where(variance > tiny, xp.sqrt(variance), 1.0)
    shift = xp.astype(mean, dtype) if network.bias and not network.sparse else None
    return replace(network, shift=shift, scale=xp.astype(scale, dtype))


def _theta_dtype(head: Head, rows: Rows) -> Any:
    """Full-batch solvers keep parameters in float64 where they can; products stay narrow."""
    if not head.full_batch:
        return rows.dtype
    return _array_api.accumulator(_array_api.namespace(rows.x), _array_api.device(rows.x))


def _initial(network: Network, heads: Sequence[Head], rng: np.random.Generator) -> list[np.ndarray]:
    """Host float64 (P,) that each head starts from; none for one that goes on from its layers.

    Minibatch heads share a random state, and linear models start from zero.
    """
    first = heads[0]
    if first.start is not None:
        return []
    inits = [first.model._initial(network, rng)]
    for head in heads[1:]:
        shared = not head.full_batch or len(network.widths) == 2
        own = None if shared else _array_api.generator(head.model.random_state)
        inits.append(inits[0] if own is None else head.model._initial(network, own))
    return inits


def _theta(network: Network, heads: Sequence[Head], inits: list[np.ndarray], rows: Rows) -> Array:
    """(K, P): where each head starts, in fitting coordinates; uses up `inits`."""
    dtype, xp = _theta_dtype(heads[0], rows), _array_api.namespace(rows.x)
    if inits:
        if any(init.any() for init in inits):
            host = np.stack(inits)
        else:
            host = np.zeros((len(inits), network.size))  # memory that is not touched yet
        inits.clear()  # they take as much memory as the parameters
        return _array_api.from_host(host, rows.x, dtype)
    starts = []
    for head in heads:
        assert head.start is not None  # all heads go on, or none
        layers = [
            Layer(
                xp.astype(w, dtype), xp.astype(b, dtype) if b is not None and network.bias else None
            )
            for w, b in head.start
        ]
        starts.append(network.flatten([(w, b) for w, b in network.fitting(layers)]))
    return xp.stack(starts)


def _spec(
    network: Network,
    heads: Sequence[Head],
    rows: Rows,
    rng: np.random.Generator,
    one_epoch: bool,
) -> FitSpec:
    first = heads[0]
    settings = first.settings
    beside = partial(per_head, like=rows.x, dtype=_theta_dtype(first, rows))
    losses = [vars(head.loss) for head in heads]
    parameters = {name: beside([own[name] for own in losses]) for name in losses[0]}
    plan: MinibatchPlan | None = None
    train: np.ndarray | None = None
    validation: Rows | None = None
    if not first.full_batch:
        rows, train, validation = training_rows(first, rows, rng, one_epoch)
        rates = [head.settings.learning_rate for head in heads]
        if not one_epoch:
            rates = learning_rates(network, heads, rows, train)
        plan = minibatch_plan(heads, beside, rates, one_epoch)
    return FitSpec(
        len(heads),
        network,
        loss_named(first.loss.name, **parameters),
        beside([float(head.model.reg) for head in heads]),
        rows,
        settings.solver,
        settings.tol,
        settings.max_iter,
        plan,
        train,
        validation,
        measure_all=first.train is None and not one_epoch,
    )
