"""Which fits share rows: all of a plain estimator's, and those behind the same fitted steps."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils.metadata_routing import process_routing

from xclf.estimators import BaseClassifier, shares_rows
from xclf.rows import Blocks
from xclf.sweep._fits import Fit, Fold, first_steps, last_step, rows_of
from xclf.sweep._heads import Context, SweepHead
from xclf.sweep._ledger import FitLedger
from xclf.sweep._progress import NullProgress
from xclf.sweep._train import train_heads


def train_fits(ledger: FitLedger, watch: NullProgress) -> None:
    """Train the model of every fit in the ledger, or note why it failed."""
    plain: dict[Any, list[Fit]] = {}
    for fit in ledger.fits:
        if not first_steps(fit.template):
            plain.setdefault(_device_key(fit), []).append(fit)
    for fits in plain.values():
        _train_together(ledger, fits, watch)
    behind: dict[Any, list[Fit]] = {}
    for fit in ledger.fits:
        if first_steps(fit.template):
            behind.setdefault((fit.split, _device_key(fit), _steps_key(fit)), []).append(fit)
    for fits in behind.values():
        _train_behind_steps(ledger.X, fits, ledger.splits[fits[0].split], watch)


def _train_together(ledger: FitLedger, fits: list[Fit], watch: NullProgress) -> None:
    try:
        context = _context(ledger.X, fits)
    except Exception as error:
        if isinstance(error, TypeError) and len(fits) == len(ledger.fits):
            raise  # X is of a type that no fit takes: sparse, say
        _fail(fits, error)
        return
    heads: list[SweepHead] = []
    for fit in fits:
        split = ledger.splits[fit.split]
        try:
            if ledger.beside is None:
                heads += context.heads(fit, split, split.train, _last_params(fit, split))
            else:
                heads += context.heads_beside(fit, ledger.beside)
        except Exception as error:  # GridSearchCV has a rule for failed fits
            fit.fail(error)
    train_heads(context, heads, watch)


def _train_behind_steps(X: Any, fits: list[Fit], split: Fold, watch: NullProgress) -> None:
    """Fit the first steps once, and train all last steps on what they give."""
    steps = fits[0].template[:-1]
    try:
        if isinstance(X, Blocks):
            raise TypeError(
                "the first steps of a Pipeline take rows in memory, and X is in blocks: transform "
                "X first (map_blocks), or search over the classifier alone"
            )
        rows = rows_of(X, split.train)
        moved = steps.fit_transform(rows, split.y, **_first_params(fits[0], split))
        context = _context(moved, fits)
    except Exception as error:
        _fail(fits, error)
        return
    heads: list[SweepHead] = []
    train = np.arange(len(split.train))
    for fit in fits:
        fit.template.steps[:-1] = steps.steps
        try:
            heads += context.heads(fit, split, train, _last_params(fit, split))
        except Exception as error:
            fit.fail(error)
    train_heads(context, heads, watch)


def _context(X: Any, fits: list[Fit]) -> Context:
    models = [last_step(fit.template) for fit in fits]
    for model in models:
        if not isinstance(model, BaseClassifier):
            raise TypeError(f"SweepCV trains xclf's classifiers, got {type(model).__name__}")
    return Context.of(X, models[0])


def _fail(fits: list[Fit], error: Exception) -> None:
    for fit in fits:
        fit.fail(error)


def _device_key(fit: Fit) -> Any:
    """Equal for fits whose rows are moved to the same devices, within the same memory, and whose
    products are as precise."""
    model = last_step(fit.template)
    names = ("device", "max_memory", "precision")
    shared = isinstance(model, BaseClassifier) and shares_rows(model)
    return (shared, *(repr(getattr(model, name, None)) for name in names))


def _steps_key(fit: Fit) -> Any:
    """Equal for fits whose first steps are the same, parameters and all."""
    try:
        return pickle.dumps(fit.template[:-1])
    except Exception:  # a step that cannot be pickled is fitted for each fit
        return id(fit)


def _last_params(fit: Fit, split: Fold) -> dict[str, Any]:
    """What `fit` of the last step is called with, of the parameters of the whole fit."""
    if last_step(fit.template) is fit.template:
        return split.params
    name = fit.template.steps[-1][0]
    if get_config()["enable_metadata_routing"]:
        return dict(process_routing(fit.template, "fit", **split.params)[name].fit)
    return _of_step(split.params, (name,))[name]


def _first_params(fit: Fit, split: Fold) -> dict[str, Any]:
    """What `fit_transform` of the steps before the last one is called with."""
    names = tuple(name for name, _ in fit.template.steps)
    if get_config()["enable_metadata_routing"]:
        routed = process_routing(fit.template, "fit", **split.params)
        wanted = {key for name in names[:-1] for key in routed[name].get("fit_transform", {})}
        return {key: value for key, value in split.params.items() if key in wanted}
    own = _of_step(split.params, names)
    return {f"{name}__{key}": v for name in names[:-1] for key, v in own[name].items()}


def _of_step(params: dict[str, Any], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Parameters by step, as a Pipeline splits `step__name`."""
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in params.items():
        name, separator, rest = key.partition("__")
        if not separator:
            raise ValueError(
                f"Pipeline.fit does not accept the {key} parameter. You can pass parameters to "
                f"specific steps using the stepname__parameter format: {names[-1]}__{key}"
            )
        if name in own:
            own[name][rest] = value
    return own
