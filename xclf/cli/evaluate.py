"""xclf evaluate: how good a saved model is on labelled DATA."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from xclf.cli._console import CheckError, UserError, out
from xclf.cli._devices import Place, choose
from xclf.cli._fit import predict_rows
from xclf.cli._results import class_labels, measure, show
from xclf.cli._source import check_columns, check_finite, check_known, parse_bytes
from xclf.data import Dataset, load
from xclf.estimators import load as load_model


def open_model(path: Path, place: Place) -> Any:
    """The saved model, where `place` computes."""
    model = load_model(path)
    return model if place.xp is None else model.to_namespace(place.xp, place.where)


def open_rows(model: Any, data: Dataset, source: str) -> Dataset:
    """`data`, checked against what the model was trained on."""
    if data.x.shape[1] != model.n_features_in_:
        hint = "" if data.feature_names is None else "; --label NAME sets a label column apart"
        raise UserError(
            f"{source} has {data.x.shape[1]} features a row, the model was trained on "
            f"{model.n_features_in_}{hint}"
        )
    trained = model.__dict__.pop("feature_names_in_", None)  # rows come as plain arrays from here
    if trained is not None:
        check_columns(data.feature_names, trained.tolist(), source)
    return data


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model that train --out saved.")],
    data: Annotated[str, typer.Argument(help="DATA with labels; its test part if it ships one.")],
    train_part: Annotated[
        bool, typer.Option("--train-part", help="The training part, where DATA ships both.")
    ] = False,
    min_accuracy: Annotated[
        float | None,
        typer.Option(help="Exit with status 1 below this accuracy.", min=0.0, max=1.0),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label column of a table.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or cuda:all.")] = "auto",
    max_memory: Annotated[str | None, typer.Option(help="Most bytes to read densely.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Measure a saved model on labelled DATA.

    xclf evaluate cifar.safetensors cifar-10-batches-bin

    xclf evaluate model.safetensors new.csv --label species --min-accuracy 0.9
    """
    place = choose(device)
    fitted = open_model(model, place)
    found = load(
        data, label=label, max_memory=parse_bytes(max_memory), n_features=fitted.n_features_in_
    )
    if found.test is not None and not train_part:
        found = found.test
    found = open_rows(fitted, found, data)
    assert found.y is not None
    check_known(found.y, fitted.classes_, data)
    check_finite(found.x, data)
    guess = predict_rows(fitted, place, found.x)
    names = class_labels(fitted.classes_, found.class_names)
    result: dict[str, Any] = {"data": found.source, "model": str(model), "place": place.text}
    result |= measure(found.y, guess, fitted.classes_, names)
    console = out(json=json)
    console.print(f"{found.source}: {len(found.y)} rows; {place.text}")
    show(console, result)
    console.print(f"accuracy {result['accuracy']:.4f}", style="bold")
    if json:
        print(json_format.dumps(result, allow_nan=False))
    if min_accuracy is not None and result["accuracy"] < min_accuracy:
        raise CheckError(f"accuracy {result['accuracy']:.4f} is below {min_accuracy:g}")
