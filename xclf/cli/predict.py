"""xclf predict: labels, and on request probabilities, for every row of DATA."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from xclf import _array_api
from xclf.cli import _options as opt
from xclf.cli._cluster import describe, in_order, on_cluster
from xclf.cli._console import UserError, log
from xclf.cli._devices import choose
from xclf.cli._estimator import load_fitted
from xclf.cli._given import refuse
from xclf.cli._outputs import check_output
from xclf.cli._source import (
    UNIT_ROWS,
    check_finite,
    read_for_model,
    reading_options,
)
from xclf.cli._tasks import scores_of, task_columns
from xclf.report.class_names import names_of_model
from xclf.report.table_files import TABLE_SUFFIXES, write_table

# Rows predicted and written at once.
_ROWS = 1 << 14


def predict(
    model: opt.SavedModel,
    data: Annotated[str, typer.Argument(help="DATA; its test part if it ships one.")],
    out_path: Annotated[
        Path, typer.Option("--out", help=".npy, .csv or .parquet; - writes CSV to standard output.")
    ],
    proba: Annotated[
        bool, typer.Option("--proba", help="A column of probabilities for each class.")
    ] = False,
    top_k: Annotated[
        int, typer.Option(help="Columns of the k best labels, with their scores.")
    ] = 0,
    train_part: opt.TrainPart = False,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label column to leave out; by default those of training."),
    ] = None,
    drop: opt.Drop = None,
    id: Annotated[
        str | None,
        typer.Option("--id", help="Column that names the rows: the first of the predictions."),
    ] = None,
    x_name: opt.XName = None,
    device: opt.Device = "auto",
    max_memory: opt.DenseMemory = None,
    dask: opt.Dask = None,
    workers: opt.Workers = None,
) -> None:
    """Write predictions for every row of DATA, in row order; streamed, and whole or not at all.

    The columns: the ids, if DATA has them; label, with class beside it where classes have names;
    p_CLASS of --proba; top1, top1_score ... of --top-k. Of a model of several tasks: NAME of each
    task; p_NAME_CLASS, of multi-label indicators p_NAME; top1_NAME, top1_score_NAME ...

    xclf predict cifar.safetensors cifar-10-batches-bin --out labels.csv

    xclf predict model.safetensors new.parquet --out new.npy --proba --top-k 3
    """
    given = dict(locals())
    with on_cluster(dask, workers) as client:
        _predict(given | {"y_name": None, "blocks": client is not None}, client)


def _predict(given: dict[str, Any], client: Any) -> None:
    model, data, out_path = given["model"], given["data"], given["out_path"]
    proba, top_k = given["proba"], given["top_k"]
    piped = str(out_path) == "-"
    if not piped:
        check_output("--out", out_path, TABLE_SUFFIXES, model, data)
    if client is not None and given["device"] not in ("auto", "cpu"):
        refuse(["device"], given, "a cluster predicts on its workers' processors")
    chosen = choose("cpu" if client is not None else given["device"])
    fitted = load_fitted(model, chosen, given["max_memory"])
    options = reading_options(given) | {"train_part": given["train_part"]}
    found = read_for_model(fitted, data, need_labels=False, **options)
    x, ids = found.x, found.ids
    if proba and not hasattr(fitted, "predict_proba"):
        raise UserError(
            f"--proba: a {type(fitted).__name__} with the hinge has no probabilities; "
            "--top-k gives the best labels with their scores"
        )
    classes = min(len(one.classes_) for one in getattr(fitted, "estimators_", None) or [fitted])
    if not 0 <= top_k <= classes:
        raise UserError(f"--top-k must be between 0 and the {classes} classes, got {top_k}")
    console = log()
    if fitted._unit_rows:
        console.print(UNIT_ROWS)
    # A .npy of labels alone is a plain array.
    plain = {"classes": out_path.suffix != ".npy"}

    def predicted(start: int) -> dict[str, np.ndarray]:
        part = slice(start, start + _ROWS)
        check_finite(x[part], data, start)
        return columns(fitted, chosen.put(x[part]), proba=proba, top_k=top_k, **plain)

    starts = track(
        range(0, x.shape[0], _ROWS), "predicting", console=console, disable=not console.is_terminal
    )
    tables: Iterable[dict[str, np.ndarray]] = map(predicted, starts)
    if client is not None:
        work = partial(_block_columns, data, proba, top_k, plain)
        tables = in_order(client, work, fitted, x)
    if ids is not None:
        tables = _beside(given["id"] or fitted._trained_on.id, _as_text(ids), tables)
    if piped:
        _write_to_standard_output(tables)
    else:
        write_table(out_path, tables, x.shape[0])
    place = "standard output" if piped else out_path
    where = chosen.text if client is None else describe(client)
    console.print(f"wrote {x.shape[0]} predictions to {place} ({where})")


def _block_columns(
    source: str,
    proba: bool,
    top_k: int,
    plain: dict[str, bool],
    model: Any,
    rows: np.ndarray,
    first: int,
) -> dict[str, np.ndarray]:
    check_finite(rows, source, first)
    return columns(model, rows, proba=proba, top_k=top_k, **plain)


def _beside(
    name: str, ids: np.ndarray, tables: Iterable[dict[str, np.ndarray]]
) -> Iterator[dict[str, np.ndarray]]:
    """The tables with a first column of the ids of their rows."""
    start = 0
    for table in tables:
        rows = len(next(iter(table.values())))
        yield {name: ids[start : start + rows], **table}
        start += rows


def _write_to_standard_output(chunks: Iterable[dict[str, np.ndarray]]) -> None:
    """CSV, once all of it is there: an error leaves nothing behind."""
    with TemporaryDirectory() as home:
        path = Path(home) / "predictions.csv"
        write_table(path, chunks)
        with path.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, sys.stdout)


def _as_text(ids: np.ndarray) -> np.ndarray:
    """Ids that are objects as strings of one width."""
    if ids.dtype.kind != "O":
        return ids
    return np.asarray(["" if value is None else str(value) for value in ids.tolist()])


def columns(
    model: Any, x: Any, *, proba: bool, top_k: int, classes: bool = True
) -> dict[str, np.ndarray]:
    """Named columns for some rows: label; probability of each class; the k best and their scores.

    A model whose classes have names has them in all columns but `label`: with `classes` in one of
    their own, `class`.
    Scores of top-k are probabilities where the model has them, else decision values. Of several
    tasks: see `task_columns`.
    """
    if getattr(model, "estimators_", None):
        return task_columns(model, x, proba=proba, top_k=top_k)
    table: dict[str, np.ndarray] = {"label": _array_api.to_host(model.predict(x))}
    names = np.asarray(names_of_model(model))
    named = model.class_names_ is not None
    if named and classes:
        table["class"] = names[np.searchsorted(model.classes_, table["label"])]
    if not (proba or top_k):
        return table
    scores = scores_of(model, x)
    if proba:
        table |= {f"p_{name}": scores[:, k] for k, name in enumerate(names.tolist())}
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    for rank in range(top_k):
        table[f"top{rank + 1}"] = (names if named else model.classes_)[best[:, rank]]
        table[f"top{rank + 1}_score"] = np.take_along_axis(scores, best, axis=1)[:, rank]
    return table
