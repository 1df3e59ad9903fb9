"""xclf sweep: train a grid of models on DATA in few passes, and keep the best."""

from __future__ import annotations

import importlib.util
import json as json_format
import math
import time
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sklearn.base import clone
from sklearn.metrics import get_scorer_names
from sklearn.model_selection import StratifiedShuffleSplit, check_cv

from xclf._extras import needs
from xclf.cli import _options as opt
from xclf.cli._cluster import on_cluster
from xclf.cli._console import UserError, print_facts, warnings_log
from xclf.cli._estimator import PARAMETERS, check_options, estimator_options, make_estimator
from xclf.cli._given import refuse_unused
from xclf.cli._grid import SWEPT, describe_grid, parse_values, print_scores
from xclf.cli._outputs import check_model_output, check_output
from xclf.cli._report import check_report
from xclf.cli._source import TEST_SHARE
from xclf.cli._training import Training, warnings_printed
from xclf.report.number_text import plain
from xclf.report.number_text import seconds as seconds_text
from xclf.report.pictures import PICTURE_SUFFIXES
from xclf.report.printed import scored_on, search_facts
from xclf.report.scores import draw_scores
from xclf.sweep import SweepCV

_GRID = "Grid: LOW:HIGH:COUNT (log-spaced) or A,B,C"
# Metrics of probes that scikit-learn calls otherwise.
_SCORERS = {"mean_per_class": "balanced_accuracy"}


def sweep(
    data: opt.Data,
    model: opt.ModelKind = opt.Model.softmax,
    reg: Annotated[
        str, typer.Option(help="Penalties on the squared weights.", rich_help_panel=_GRID)
    ] = "1e-6:1e1:15",
    learning_rate: Annotated[
        str | None,
        typer.Option(help="Rates of a minibatch solver.", rich_help_panel=_GRID),
    ] = None,
    momentum: Annotated[
        str | None, typer.Option(help=f"Of solver {opt.MOMENTUM_SOLVERS}.", rich_help_panel=_GRID)
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="Margins (svm).", rich_help_panel=_GRID)
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Hidden units (two-layer).", rich_help_panel=_GRID)
    ] = None,
    folds: Annotated[int | None, typer.Option(help=opt.FOLDS_HELP, min=2)] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="To choose by: accuracy, mean_per_class, or a scorer of scikit-learn's, such as "
            "neg_log_loss."
        ),
    ] = "accuracy",
    device: opt.Device = "auto",
    out_path: opt.Out = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Draw the scores here (.png, .pdf, .svg).")
    ] = None,
    report_path: opt.Report = None,
    standardize: opt.Standardize = False,
    seed: opt.Seed = None,
    full: opt.Full = False,
    json: opt.Json = False,
    test: opt.Test = None,
    test_size: opt.TestSize = None,
    label: opt.Label = None,
    drop: opt.Drop = None,
    id: opt.Id = None,
    x_name: opt.XName = None,
    y_name: opt.YName = None,
    max_memory: opt.MaxMemory = None,
    loss: opt.Loss = None,
    no_intercept: opt.NoIntercept = False,
    solver: opt.Solver = None,
    max_iter: opt.MaxIter = None,
    tol: opt.Tol = None,
    batch_size: opt.BatchSize = None,
    lr_schedule: opt.LrSchedule = None,
    class_weight: opt.ClassWeight = None,
    early_stopping: opt.EarlyStopping = False,
    validation_fraction: opt.ValidationFraction = None,
    n_iter_no_change: opt.NIterNoChange = None,
    checkpoint_path: opt.CheckpointPath = None,
    checkpoint_every: opt.CheckpointEvery = 60.0,
    resume: opt.Resume = False,
    dask: opt.Dask = None,
    workers: opt.Workers = None,
) -> None:
    """Train a grid of models on DATA together, and keep the best.

    xclf sweep digits --reg 1e-6:1e1:45 --folds 5 --plot scores.png --out best.safetensors

    xclf sweep cifar-10-batches-bin --solver momentum --learning-rate 1e-4:1e-1:13 --reg 1e-4,1e-3

    xclf sweep faces.npz --model two-layer --hidden 50,100,200 --standardize
    """
    given = dict(locals())
    with on_cluster(dask, workers) as client:
        _sweep(given | {"blocks": client is not None})


def _sweep(given: dict[str, Any]) -> None:
    model, data, cv = (given[name] for name in ("model", "data", "folds"))
    scoring = _SCORERS.get(given["metric"], given["metric"])
    out_path, plot_path = given["out_path"], given["plot_path"]
    share = TEST_SHARE if given["test_size"] is None else given["test_size"]
    grid = {name: parse_values(name, given[name]) for name in SWEPT if given[name] is not None}
    for name, values in grid.items():
        for value in values:
            check_options(model, {name: value})
    estimator = make_estimator(model, estimator_options(given, swept=grid))
    first = {name: values[0] for name, values in grid.items()}
    refuse_unused(clone(estimator).set_params(**first), PARAMETERS)
    if share == 0.0 and cv is None:
        raise UserError("--test-size 0 holds out no rows to score candidates on: add --folds N")
    _check_outputs(data, out_path, plot_path, scoring)
    check_report(given["report_path"], data)
    training = Training(given, estimator)
    splits: Any = cv or StratifiedShuffleSplit(
        1, test_size=share, random_state=estimator.random_state
    )
    _check_splits(splits, training.split.train.y)
    search = SweepCV(estimator, grid, cv=splits, scoring=scoring, error_score="raise")
    training.announce(training.split.train)
    candidates = math.prod(len(values) for values in grid.values())
    how = f"{share:.0%} of the training rows held out" if cv is None else f"{cv} folds"
    fits = f"{candidates} candidates, {candidates * (cv or 1)} fits and the best on all"
    print_facts(training.log, ("grid", describe_grid(grid)), ("scored on", f"{how}: {fits}"))
    spent = _fit(search, training)
    print_scores(training.console, search.cv_results_, scoring, cv or 1)
    if plot_path is not None:
        draw_scores(search.cv_results_, plot_path, scoring)
    training.times["search"] = spent - search.refit_time_
    facts = search_facts(search.cv_results_, scoring, scored_on(cv))
    result = training.report("sweep", search=facts)
    result |= {"search": _json_search(search, grid, cv, spent)}
    best = ", ".join(f"{name} {plain(value, 6)}" for name, value in search.best_params_.items())
    print_facts(
        training.console,
        ("best", f"{best}: {scoring} {search.best_score_:.4f}"),
        ("sweep", f"{candidates} candidates in {seconds_text(spent)}"),
        *([] if plot_path is None else [("drawn", str(plot_path))]),
    )
    training.print_accuracy(result)
    if given["json"]:
        print(json_format.dumps(result, allow_nan=False))


def _check_outputs(data: str, out_path: Path | None, plot_path: Path | None, scoring: str) -> None:
    """`UserError` before the work for what would fail after it."""
    if scoring not in get_scorer_names():
        raise UserError(
            "--metric must be accuracy, mean_per_class or another scorer of scikit-learn's, such "
            f"as f1_macro or neg_log_loss, got {scoring!r}"
        )
    check_model_output(out_path, data)
    if plot_path is not None:
        check_output("--plot", plot_path, PICTURE_SUFFIXES, data)
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError(needs("--plot", "matplotlib"))


def _check_splits(splits: Any, y: Any) -> None:
    """`UserError` for rows that cannot be split so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the search repeats them
            next(iter(check_cv(splits, y, classifier=True).split(np.zeros(len(y)), y)))
    except ValueError as error:
        most = int(np.unique(y, return_counts=True)[1].max())
        if isinstance(splits, int):
            raise UserError(
                f"--folds {splits} needs as many training rows of a class: the largest has {most}"
            ) from None
        raise UserError(
            f"cannot hold out {plain(splits.test_size)} of {len(y)} training rows to score "
            f"candidates on, stratified; --folds N takes folds: {error}"
        ) from None


def _fit(search: SweepCV[Any], training: Training) -> float:
    """Search, and hand the best model to `training`; returns the seconds of the search."""
    rows = training.split.train
    search._console = training.log
    search.estimator.set_params(device=training.device.name, callbacks=training.callbacks)
    start = time.perf_counter()
    with warnings_printed(warnings_log()):
        try:
            search.fit(rows.x, rows.y)
        except KeyboardInterrupt:
            _keep_interrupted(search, training)
            raise
        except Exception as error:
            if not _raised_by_scorer(error):
                raise
            raise UserError(
                f"--metric {search.scoring} cannot be computed for this model and data: {error}"
            ) from None
        seconds = time.perf_counter() - start
        training.adopt(search.best_estimator_, rows.x.shape[0], search.refit_time_)
    return seconds


def _keep_interrupted(search: SweepCV[Any], training: Training) -> None:
    """Print and save what an interrupted search has come to."""
    if not hasattr(search, "cv_results_"):
        training.log.print("interrupted before a candidate was trained: nothing to save")
    else:
        results = search.cv_results_
        done = np.flatnonzero(~np.isnan(results["mean_test_score"]))
        some = {name: [column[k] for k in done] for name, column in results.items()}
        every = search.n_splits_
        trained = sum(not np.isnan(results[f"split{k}_test_score"]).all() for k in range(every))
        folds = f" on {trained} of {every} folds" if trained < every else ""
        print_scores(training.console, some, search.scoring, trained)
        training.model = search.best_estimator_
        best = ", ".join(f"{name} {plain(value, 6)}" for name, value in search.best_params_.items())
        training.keep_interrupted(
            f"interrupted after {len(done)} of {len(results['params'])} candidates{folds}, "
            f"the best {best}: {search.scoring} {search.best_score_:.4f}"
        )
    training.print_way_on()


def _raised_by_scorer(error: Exception) -> bool:
    """Whether scikit-learn's metrics were running when it was raised."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(
        frame.f_globals.get("__name__", "").startswith("sklearn.metrics") for frame in frames
    )


def _json_search(
    search: SweepCV[Any], grid: dict[str, list[Any]], cv: int | None, seconds: float
) -> dict[str, Any]:
    """What --json prints of the search."""
    results = search.cv_results_
    columns = (results[f"{name}_test_score"].tolist() for name in ("mean", "std", "rank"))
    return {
        "grid": grid,
        "folds": cv,
        "scoring": search.scoring,
        "seconds": seconds,
        "best": search.best_params_,
        "best_score": search.best_score_,
        "candidates": [
            {"parameters": params, "score": mean, "std": std, "rank": rank}
            for params, mean, std, rank in zip(results["params"], *columns, strict=True)
        ],
    }
