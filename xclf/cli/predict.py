"""xclf predict: labels, and if asked probabilities, for every row of DATA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from xclf import _array_api
from xclf.cli._console import UserError, out
from xclf.cli._devices import choose
from xclf.cli._fit import check_writable
from xclf.cli._source import check_finite, parse_bytes
from xclf.cli._table import FORMATS, open_table
from xclf.cli.evaluate import open_model, open_rows
from xclf.data import load

# Rows predicted and written at once.
_ROWS = 1 << 14


def predict(
    model: Annotated[Path, typer.Argument(help="A model that train --out saved.")],
    data: Annotated[str, typer.Argument(help="DATA; its test part if it ships one.")],
    out_path: Annotated[Path, typer.Option("--out", help=".npy, .csv or .parquet.")],
    proba: Annotated[
        bool, typer.Option("--proba", help="A column of probabilities for each class.")
    ] = False,
    top_k: Annotated[
        int, typer.Option(help="Columns of the k best labels, with their scores.")
    ] = 0,
    train_part: Annotated[
        bool, typer.Option("--train-part", help="The training part, where DATA ships both.")
    ] = False,
    label: Annotated[str | None, typer.Option(help="Label column to leave out.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or cuda:all.")] = "auto",
    max_memory: Annotated[str | None, typer.Option(help="Most bytes to read densely.")] = None,
) -> None:
    """Write predictions for every row of DATA, in row order; streamed, and whole or not at all.

    xclf predict cifar.safetensors cifar-10-batches-bin --out labels.csv

    xclf predict model.safetensors new.parquet --out new.npy --proba --top-k 3
    """
    check_writable(out_path, model, data)
    if out_path.suffix not in FORMATS:
        raise UserError(f"--out must end in {', '.join(FORMATS)}, got {out_path.name!r}")
    place = choose(device)
    fitted = open_model(model, place)
    found = load(
        data,
        label=label,
        max_memory=parse_bytes(max_memory),
        need_labels=False,
        n_features=fitted.n_features_in_,
    )
    if found.test is not None and not train_part:
        found = found.test
    found = open_rows(fitted, found, data)
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
    n = len(found.x)
    with open_table(out_path, n) as write:
        starts = range(0, n, _ROWS)
        for start in track(starts, "predicting", console=console, disable=not console.is_terminal):
            rows = found.x[start : start + _ROWS]
            check_finite(rows, data, start)
            write(columns(fitted, place.put(rows), proba=proba, top_k=top_k))
    console.print(f"wrote {n} predictions to {out_path} ({place.text})")


def columns(model: Any, x: Any, *, proba: bool, top_k: int) -> dict[str, np.ndarray]:
    """Named columns for some rows: label; probability of each class; the k best and their scores.

    Scores of top-k are probabilities where the model has them, else decision values.
    """
    found: dict[str, np.ndarray] = {"label": _array_api.to_host(model.predict(x))}
    if not (proba or top_k):
        return found
    if hasattr(model, "predict_proba"):
        scores = _array_api.to_host(model.predict_proba(x))
    else:
        scores = _array_api.to_host(model.decision_function(x))
        if scores.ndim == 1:
            scores = np.stack([-0.5 * scores, 0.5 * scores], axis=1)
    if proba:
        for place, name in enumerate(model.classes_.tolist()):
            found[f"p_{name}"] = scores[:, place]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    for rank in range(top_k):
        found[f"top{rank + 1}"] = model.classes_[best[:, rank]]
        found[f"top{rank + 1}_score"] = np.take_along_axis(scores, best, axis=1)[:, rank]
    return found
