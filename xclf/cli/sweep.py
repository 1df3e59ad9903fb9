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
from rich.console import Console
from sklearn.metrics import get_scorer_names
from sklearn.model_selection import StratifiedShuffleSplit

from xclf.cli import _options as opt
from xclf.cli._console import UserError, facts, out
from xclf.cli._devices import choose
from xclf.cli._fit import (
    PARAMETERS,
    Run,
    check_model_out,
    check_writable,
    make_estimator,
    parse_class_weight,
    repeat_warnings,
)
from xclf.cli._grid import SWEPT, parse_values, show_scores, tell
from xclf.cli._source import parse_bytes, read_split
from xclf.estimators import check_parameters
from xclf.report.scores import draw_scores
from xclf.sweep import SweepCV

_PICTURES = (".png", ".pdf", ".svg")

_GRID = "Grid: LOW:HIGH:COUNT (log-spaced) or A,B,C"


def sweep(
    data: opt.Data,
    model: opt.ModelKind = opt.Model.softmax,
    reg: Annotated[
        str, typer.Option(help="Penalties on the squared weights.", rich_help_panel=_GRID)
    ] = "1e-6:1e1:15",
    learning_rate: Annotated[
        str | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="Rates of a minibatch solver.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    momentum: Annotated[
        str | None, typer.Option(help="Of solver momentum.", rich_help_panel=_GRID)
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="Margins (svm).", rich_help_panel=_GRID)
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Hidden units (two-layer).", rich_help_panel=_GRID)
    ] = None,
    cv: Annotated[
        int | None,
        typer.Option(help="Folds to score on; without, rows are held out once.", min=2),
    ] = None,
    scoring: Annotated[
        str, typer.Option(help="A scorer of scikit-learn's, such as neg_log_loss.")
    ] = "accuracy",
    device: opt.Device = "auto",
    out_path: opt.Out = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Draw the scores here (.png, .pdf, .svg).")
    ] = None,
    standardize: opt.Standardize = False,
    seed: opt.Seed = None,
    json: opt.Json = False,
    test: opt.Test = None,
    test_size: opt.TestSize = 0.2,
    label: opt.Label = None,
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
) -> None:
    """Train a grid of models on DATA together, and keep the best.

    xclf sweep digits --reg 1e-6:1e1:45 --cv 5 --plot scores.png --out best.safetensors

    xclf sweep cifar-10-batches-bin --solver momentum --lr 1e-4:1e-1:13 --reg 1e-5,1e-4,1e-3,1e-2

    xclf sweep faces.npz --model two-layer --hidden 50,100,200 --standardize
    """
    given = dict(locals())
    grid = {name: parse_values(name, given[name]) for name in SWEPT if given[name] is not None}
    fixed = [name for name in PARAMETERS if name not in grid and given[name] is not False]
    options = {name: given[name] for name in fixed}
    options |= {"fit_intercept": False if no_intercept else None, "random_state": seed or 0}
    options["class_weight"] = parse_class_weight(class_weight)
    kind = opt.CLASSES[model]
    for name, values in grid.items():
        make_estimator(kind, {name: values[0]}, None)  # whether the model has such a parameter
        for value in values:
            check_parameters(kind, {name: value})
    estimator = make_estimator(kind, options, None)
    _check_outputs(data, out_path, plot_path, scoring)
    place = choose(device)
    split = read_split(
        data,
        test=test,
        test_size=test_size,
        seed=estimator.random_state,
        label=label,
        max_memory=parse_bytes(max_memory),
    )
    console = out(json=json)
    run = Run(console, estimator, place, split, out_path)
    search = SweepCV(
        estimator,
        grid,
        cv=cv or StratifiedShuffleSplit(1, test_size=test_size, random_state=seed or 0),
        scoring=scoring,
        error_score="raise",
    )
    run.announce(split.x)
    _announce(console, grid, cv, test_size)
    seconds = _fit(search, run, split.x, split.y)
    show_scores(console, search.cv_results_, scoring, cv or 1)
    if plot_path is not None:
        draw_scores(search.cv_results_, plot_path, scoring)
    result = run.report() | {"search": _told(search, grid, cv, seconds)}
    facts(console, *_summary(search, seconds, scoring, plot_path))
    if json:
        print(json_format.dumps(result, allow_nan=False))


def _check_outputs(data: str, out_path: Path | None, plot_path: Path | None, scoring: str) -> None:
    """`UserError` before the work for what cannot be done after it."""
    if scoring not in get_scorer_names():
        raise UserError(
            "--scoring must be a scorer of scikit-learn's, such as accuracy, f1_macro or "
            f"neg_log_loss, got {scoring!r}"
        )
    check_model_out(out_path, data)
    if plot_path is None:
        return
    check_writable(plot_path, data)
    if plot_path.suffix not in _PICTURES:
        raise UserError(f"--plot must end in {', '.join(_PICTURES)}, got {plot_path.name!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib: pip install 'xclf[plot]'")


def _announce(
    console: Console, grid: dict[str, list[Any]], cv: int | None, test_size: float
) -> None:
    count = math.prod(len(values) for values in grid.values())
    how = f"{test_size:.0%} of the training rows held out" if cv is None else f"{cv} folds"
    facts(
        console,
        ("grid", tell(grid)),
        ("scored on", f"{how}: {count} candidates, {count * (cv or 1)} fits and the best on all"),
    )


def _fit(search: SweepCV, run: Run, x: np.ndarray, y: np.ndarray) -> float:
    """Search, and hand the best model to `run`; returns the seconds that it took."""
    search._console = run.console
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            search.estimator.set_params(device=run.place.device)
            search.fit(x, y)
        except Exception as error:
            if not _of_scorer(error):
                raise
            raise UserError(
                f"--scoring {search.scoring} cannot be had of this model and data: {error}"
            ) from None
    seconds = time.perf_counter() - start
    run.adopt(search.best_estimator_, len(y), search.refit_time_)
    repeat_warnings(run.console, caught)
    return seconds


def _of_scorer(error: Exception) -> bool:
    """Whether it was raised while a scorer asked the model, or judged what it said."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(
        frame.f_globals.get("__name__", "").startswith("sklearn.metrics") for frame in frames
    )


def _summary(
    search: SweepCV, seconds: float, scoring: str, plot_path: Path | None
) -> list[tuple[str, str]]:
    told = ", ".join(f"{name} {value:.6g}" for name, value in search.best_params_.items())
    pairs = [
        ("best", f"{told}: {scoring} {search.best_score_:.4f}"),
        ("sweep", f"{len(search.cv_results_['params'])} candidates in {seconds:.2f} s"),
    ]
    return pairs if plot_path is None else [*pairs, ("drawn", str(plot_path))]


def _told(
    search: SweepCV, grid: dict[str, list[Any]], cv: int | None, seconds: float
) -> dict[str, Any]:
    """What --json prints of the search."""
    results = search.cv_results_
    figures = zip(
        results["params"],
        results["mean_test_score"].tolist(),
        results["std_test_score"].tolist(),
        results["rank_test_score"].tolist(),
        strict=True,
    )
    return {
        "grid": grid,
        "folds": cv,
        "scoring": search.scoring,
        "seconds": seconds,
        "best": search.best_params_,
        "best_score": search.best_score_,
        "candidates": [
            {"parameters": params, "score": mean, "std": std, "rank": rank}
            for params, mean, std, rank in figures
        ],
    }
