"""xclf evaluate: accuracy and per-class figures of a saved model on labelled DATA."""

from __future__ import annotations

import json as json_format
from typing import Annotated, Any

import typer

from xclf.cli import _options as opt
from xclf.cli._console import CheckError, out
from xclf.cli._devices import choose
from xclf.cli._estimator import load_fitted
from xclf.cli._results import class_labels, measure, predict_rows, print_measures
from xclf.cli._source import check_finite, check_labels, read_for_model, reading_options


def evaluate(
    model: opt.SavedModel,
    data: Annotated[str, typer.Argument(help="DATA with labels; its test part if it ships one.")],
    train_part: opt.TrainPart = False,
    min_accuracy: Annotated[
        float | None,
        typer.Option(help="Exit with status 1 below this accuracy.", min=0.0, max=1.0),
    ] = None,
    label: opt.LabelColumn = None,
    x_name: opt.XName = None,
    y_name: opt.YName = None,
    device: opt.Device = "auto",
    max_memory: opt.DenseMemory = None,
    json: opt.Json = False,
) -> None:
    """Measure a saved model on labelled DATA.

    xclf evaluate cifar.safetensors cifar-10-batches-bin

    xclf evaluate model.safetensors new.csv --label species --min-accuracy 0.9
    """
    chosen = choose(device)
    fitted = load_fitted(model, chosen, max_memory)
    options = reading_options(dict(locals()))
    rows = read_for_model(fitted, data, train_part=train_part, **options)
    check_labels(rows, fitted.classes_, data)
    check_finite(rows.x, data)
    assert rows.y is not None
    predicted = predict_rows(fitted, chosen, rows.x)
    names = class_labels(fitted.classes_, rows.class_names)
    result: dict[str, Any] = {"data": rows.source, "model": str(model), "place": chosen.text}
    result |= measure(rows.y, predicted, fitted.classes_, names)
    console = out(json=json)
    console.print(f"{rows.source}: {len(rows.y)} rows; {chosen.text}")
    print_measures(console, result)
    console.print(f"accuracy {result['accuracy']:.4f}", style="bold")
    if json:
        print(json_format.dumps(result, allow_nan=False))
    if min_accuracy is not None and result["accuracy"] < min_accuracy:
        raise CheckError(f"accuracy {result['accuracy']:.4f} is below {min_accuracy:g}")
