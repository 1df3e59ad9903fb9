"""xclf probe: a linear probe of frozen features by a protocol, and a page of its results."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from xclf.cli import _options as opt
from xclf.cli._checkpoint import make_checkpoint
from xclf.cli._cluster import on_cluster
from xclf.cli._console import UserError, log, out, print_last, warnings_log
from xclf.cli._devices import choose
from xclf.cli._estimator import estimator_options, make_estimator
from xclf.cli._given import refuse, spelled
from xclf.cli._grid import parse_values
from xclf.cli._source import reading_options
from xclf.cli._training import warnings_printed
from xclf.probes import (
    METRICS,
    PROTOCOLS,
    ProbeInterrupted,
    ProbeResult,
    check_folder,
    print_tables,
    run_probe,
)
from xclf.report.metrics import TOP_K

_GRID = "Grid in the place of the protocol's: LOW:HIGH:COUNT (log-spaced) or A,B,C"
_JUDGED: dict[str, Any] = {"rich_help_panel": "Rows to judge by"}
_SHOTS = "Few-shot"
# Arguments that are those of `run_probe`.
_PASSED = ("protocol", "folds", "tries", "metric", "top_k", "normalize")
_DATA: dict[str, Any] = {"rich_help_panel": "Data"}


def probe(
    train: Annotated[
        list[str],
        typer.Argument(
            help="DATA: a path, 'x.npy,y.npy', digits. Several, or 'layers/*.npy,labels.npy', are "
            "feature sets of the same rows, such as layers: the best is reported."
        ),
    ],
    val: Annotated[
        list[str] | None,
        typer.Option(help="DATA to choose by; one for each feature set.", **_JUDGED),
    ] = None,
    val_size: Annotated[
        float | None,
        typer.Option(help="Share held out to choose by.", show_default="0.1", **_JUDGED),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="DATA to test on; repeated for several.", **_JUDGED)
    ] = None,
    test_size: Annotated[
        float | None, typer.Option(help=opt.TEST_SIZE_HELP, show_default="0.2", **_JUDGED)
    ] = None,
    folds: Annotated[int | None, typer.Option(help=opt.FOLDS_HELP, min=2, **_JUDGED)] = None,
    protocol: Annotated[str, typer.Option(help=f"{opt.one_of(tuple(PROTOCOLS))}.")] = "dinov2",
    c: Annotated[
        str | None, typer.Option("--c", help="scikit-learn's C.", rich_help_panel=_GRID)
    ] = None,
    reg: Annotated[
        str | None, typer.Option(help="Penalties on the squared weights.", rich_help_panel=_GRID)
    ] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(help="Of momentum.", rich_help_panel=_GRID),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Rows of each class, such as 1,2,4,8,16.", rich_help_panel=_SHOTS),
    ] = None,
    tries: Annotated[int, typer.Option(help="Draws of each.", min=1, rich_help_panel=_SHOTS)] = 10,
    metric: Annotated[
        str, typer.Option(help=f"To choose by: {opt.one_of(tuple(METRICS))}.")
    ] = "accuracy",
    top_k: opt.TopK = TOP_K,
    model: opt.ModelKind = opt.Model.softmax,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Rows to Euclidean norm 1.")
    ] = False,
    standardize: opt.Standardize = False,
    out_path: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for report.html, results, model and predictions."),
    ] = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label column of a table; repeated for several tasks.", **_DATA),
    ] = None,
    drop: opt.Drop = None,
    id: opt.Id = None,
    x_name: opt.XName = None,
    y_name: Annotated[
        str | None,
        typer.Option(
            "--y", help="Name of the labels in a file of arrays, or their file (.npy).", **_DATA
        ),
    ] = None,
    max_memory: opt.MaxMemory = None,
    hidden: opt.Hidden = None,
    loss: opt.Loss = None,
    margin: opt.Margin = None,
    no_intercept: opt.NoIntercept = False,
    max_iter: opt.MaxIter = None,
    tol: opt.Tol = None,
    batch_size: opt.BatchSize = None,
    checkpoint_path: opt.CheckpointPath = None,
    checkpoint_every: opt.CheckpointEvery = 60.0,
    resume: opt.Resume = False,
    dask: opt.Dask = None,
    workers: opt.Workers = None,
) -> None:
    """Linear probe of frozen features: choose the penalty, refit, test, and write a page.

    xclf probe train.npy,train-labels.npy --test test.npy,test-labels.npy --out probe

    xclf probe digits --protocol clip --shots 1,2,4,8,16 --tries 10

    xclf probe 'layers/*.npy,labels.npy' --folds 5 --c 1e-4:1e2:13
    """
    given = dict(locals())
    with on_cluster(dask, workers) as client:
        _probe(given | {"blocks": client is not None})


def _probe(given: dict[str, Any]) -> None:
    _check_options(given)
    train, val, test, out_path = (given[name] for name in ("train", "val", "test", "out_path"))
    y_name, shots = given["y_name"], given["shots"]
    json, seed = given["json"], given["seed"]
    chosen = choose(given["device"])
    estimator = _estimator(given)
    checkpoint = make_checkpoint(given | {"data": train[0]})
    callbacks = None if checkpoint is None else [checkpoint]
    estimator.set_params(device=chosen.name, callbacks=callbacks)
    console = out(json=json)
    grids = {"C": given["c"], "reg": given["reg"], "learning_rate": given["learning_rate"]}
    options: dict[str, Any] = {
        name: None if text is None else parse_values(name.lower(), text)
        for name, text in grids.items()
    }
    options |= {name: given[name] for name in _PASSED}
    options |= {"estimator": estimator, "seed": seed or 0, "out": out_path}
    _check_folder(out_path)
    options["reading"] = _reading(given)
    options["shots"] = None if shots is None else _whole_numbers(shots)
    val, test = _rows(val, given["val_size"], "--val"), _rows(test, given["test_size"], "--test")
    sources = _train(train, y_name), val, test
    try:
        with warnings_printed(warnings_log()):
            result = run_probe(*sources, **options, console=log(json=json))
    except ProbeInterrupted as stopped:
        _show(console, stopped.result, out_path, json=json)
        if checkpoint is not None and checkpoint.path.exists():
            console.print(f"the same command with --resume goes on from {checkpoint.path}")
        raise
    _show(console, result, out_path, json=json)
    if checkpoint is not None:  # all is done
        checkpoint.remove()


def _check_folder(path: Path | None) -> None:
    if path is not None:
        try:
            check_folder(path)
        except ValueError as error:
            raise UserError(str(error).replace(f"out={str(path)!r}", f"--out {path}")) from None


def _check_options(given: dict[str, Any]) -> None:
    """`UserError` for an option that has no effect beside the others."""
    grid = next((name for name in ("c", "reg", "learning_rate") if given[name] is not None), None)
    if grid is not None:
        refuse(["protocol"], given, f"{spelled(grid)} is a grid in the place of a protocol's")
    if given["shots"] is None:
        refuse(["tries"], given, "it is of --shots")
    protocol = PROTOCOLS.get(given["protocol"])
    in_steps = grid is None and protocol is not None and protocol.steps is not None
    if in_steps:
        why = f"--protocol {given['protocol']} sets the number of steps"
        refuse(["max_iter", "tol"], given, why)
    own_solver = grid is not None and given["model"] is opt.Model.two_layer
    if not (own_solver or in_steps or grid == "learning_rate"):
        refuse(["batch_size"], given, "all rows are in every step; a --learning-rate grid uses it")


def _show(console: Console, result: ProbeResult, folder: Path | None, *, json: bool) -> None:
    print_tables(console, result.results)
    if result.interrupted:
        console.print("interrupted: the best so far")
    if folder is not None:
        console.print(f"wrote {folder}: report.html, results.json, model and predictions")
    print_last(_outcome(result.results), json=json)
    if json:
        print(json_format.dumps(result.results, allow_nan=False))


def _outcome(results: dict[str, Any]) -> str:
    """The metric that was chosen by, on the rows of the tests, or of the validation without any;
    else the score of the search."""
    search, metric = results["search"], results["search"]["metric"]
    rows = [row for row in results["metrics"] if row.get(metric) is not None]
    tested = [row for row in rows if row["data"] != "validation"] or rows
    name = metric.replace("_", " ")
    if not tested:
        return f"{search['data']} {name} {search['points'][search['chosen']]['score']:.4f}"
    return ", ".join(f"{row['data']} {name} {row[metric]:.4f}" for row in tested)


def _estimator(given: dict[str, Any]) -> Any:
    absent = (
        *("solver", "learning_rate", "momentum", "lr_schedule", "early_stopping", "reg"),
        *("validation_fraction", "n_iter_no_change", "class_weight"),
    )
    return make_estimator(given["model"], estimator_options(given | dict.fromkeys(absent)))


def _train(sources: list[str], y_name: str | None) -> Any:
    if _is_file(y_name):
        with_labels = [s for s in sources if "," in s and not Path(s).is_file()]
        if with_labels:
            raise UserError(f"--y {y_name} is for TRAIN without labels, got {with_labels[0]!r}")
        sources = [f"{source},{y_name}" for source in sources]
    _check_labelled(sources)
    return sources[0] if len(sources) == 1 else sources


def _check_labelled(sources: list[str]) -> None:
    """`UserError`, before the first of several feature sets is probed, for rows without labels."""
    bare = [source for source in sources if "," not in source and source.endswith(".npy")]
    if len(sources) < 2 or not bare:
        return
    labels = bare[1] if len(sources) == len(bare) == 2 else "LABELS.npy"
    raise UserError(
        f"{bare[0]}: rows without labels; rows and labels are one argument, {bare[0]},{labels}"
    )


def _is_file(y_name: str | None) -> bool:
    return y_name is not None and y_name.endswith(".npy")


def _reading(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `load`, those that are given."""
    own = None if _is_file(given["y_name"]) else given["y_name"]
    options = reading_options(given | {"y_name": own})
    names = ("label", "drop", "id", "x_name", "y_name", "missing_ok", "blocks")
    return {name: options[name] for name in names if options.get(name) is not None}


def _rows(given: list[str] | None, share: float | None, option: str) -> Any:
    """None, a share, one source or several, of --val and --test, and of --val-size and --test-size.

    A number as the source is a share too, as in Python."""
    if given and share is not None:
        refuse([f"{option[2:]}_size"], {f"{option[2:]}_size": share}, f"{option} gives rows")
    if not given and share is None:
        return None
    if given and len(given) > 1:
        return given
    if given:
        try:
            share = float(given[0])
        except ValueError:
            return given[0]
    assert share is not None
    if not 0.0 <= share < 1.0:
        more = "DATA, or " if given else ""
        name = option if given else f"{option}-size"
        raise UserError(f"{name} must be {more}a share in [0, 1), got {share:g}")
    return share


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--shots must be whole numbers with commas between them, got {text!r}"
        ) from None
