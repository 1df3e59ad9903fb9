"""xclf predict: labels, and on request probabilities, for every row of DATA."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from xclf import _array_api
from xclf.cli import _options as opt
from xclf.cli._cluster import describe, in_order, on_cluster
from xclf.cli._console import UserError, out
from xclf.cli._devices import choose
from xclf.cli._estimator import load_fitted
from xclf.cli._outputs import check_output
from xclf.cli._source import check_finite, read_for_model, reading_options
from xclf.report.table_files import TABLE_SUFFIXES, write_table

# Rows predicted and written at once.
_ROWS = 1 << 14


def predict(
    model: opt.SavedModel,
    data: Annotated[str, typer.Argument(help="DATA; its test part if it ships one.")],
    out_path: Annotated[Path, typer.Option("--out", help=".npy, .csv or .parquet.")],
    proba: Annotated[
        bool, typer.Option("--proba", help="A column of probabilities for each class.")
    ] = False,
    top_k: Annotated[
        int, typer.Option(help="Columns of the k best labels, with their scores.")
    ] = 0,
    train_part: opt.TrainPart = False,
    label: Annotated[str | None, typer.Option(help="Label column to leave out.")] = None,
    x_name: opt.XName = None,
    device: opt.Device = "auto",
    max_memory: opt.DenseMemory = None,
    dask: opt.Dask = None,
    workers: opt.Workers = None,
) -> None:
    """Write predictions for every row of DATA, in row order; streamed, and whole or not at all.

    xclf predict cifar.safetensors cifar-10-batches-bin --out labels.csv

    xclf predict model.safetensors new.parquet --out new.npy --proba --top-k 3
    """
    given = dict(locals())
    with on_cluster(dask, workers) as client:
        _predict(given | {"y_name": None, "blocks": client is not None}, client)


def _predict(given: dict[str, Any], client: Any) -> None:
    model, data, out_path = given["model"], given["data"], given["out_path"]
    proba, top_k = given["proba"], given["top_k"]
    check_output("--out", out_path, TABLE_SUFFIXES, model, data)
    chosen = choose("cpu" if client is not None else given["device"])
    fitted = load_fitted(model, chosen, given["max_memory"])
    options = reading_options(given) | {"train_part": given["train_part"]}
    x = read_for_model(fitted, data, need_labels=False, **options).x
    if proba and not hasattr(fitted, "predict_proba"):
        raise UserError(
            f"--proba: a {type(fitted).__name__} with the hinge has no probabilities; "
            "--top-k gives the best labels with their scores"
        )
    if not 0 <= top_k <= len(fitted.classes_):
        raise UserError(
            f"--top-k must be between 0 and the {len(fitted.classes_)} classes, got {top_k}"
        )
    console = out()

    def predicted(start: int) -> dict[str, np.ndarray]:
        rows = x[start : start + _ROWS]
        check_finite(rows, data, start)
        return columns(fitted, chosen.put(rows), proba=proba, top_k=top_k)

    starts = track(
        range(0, x.shape[0], _ROWS), "predicting", console=console, disable=not console.is_terminal
    )
    tables: Iterable[dict[str, np.ndarray]] = map(predicted, starts)
    if client is not None:
        work = partial(_block_columns, data, proba, top_k)
        tables = in_order(client, work, fitted, x)
    write_table(out_path, tables, x.shape[0])
    where = chosen.text if client is None else describe(client)
    console.print(f"wrote {x.shape[0]} predictions to {out_path} ({where})")


def _block_columns(
    source: str, proba: bool, top_k: int, model: Any, rows: np.ndarray, first: int
) -> dict[str, np.ndarray]:
    check_finite(rows, source, first)
    return columns(model, rows, proba=proba, top_k=top_k)


def columns(model: Any, x: Any, *, proba: bool, top_k: int) -> dict[str, np.ndarray]:
    """Named columns for some rows: label; probability of each class; the k best and their scores.

    Scores of top-k are probabilities where the model has them, else decision values.
    """
    table: dict[str, np.ndarray] = {"label": _array_api.to_host(model.predict(x))}
    if not (proba or top_k):
        return table
    if hasattr(model, "predict_proba"):
        scores = _array_api.to_host(model.predict_proba(x))
    else:
        scores = _array_api.to_host(model.decision_function(x))
        if scores.ndim == 1:
            scores = np.stack([-0.5 * scores, 0.5 * scores], axis=1)
    if proba:
        table |= {f"p_{name}": scores[:, k] for k, name in enumerate(model.classes_.tolist())}
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    for rank in range(top_k):
        table[f"top{rank + 1}"] = model.classes_[best[:, rank]]
        table[f"top{rank + 1}_score"] = np.take_along_axis(scores, best, axis=1)[:, rank]
    return table
