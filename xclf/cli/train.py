"""xclf train: fit a model on DATA, say how good it is, keep it."""

from __future__ import annotations

import json as json_format
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import xclf.estimators as estimators
from xclf.cli._console import out
from xclf.cli._devices import choose
from xclf.cli._fit import PARAMETERS, Run, check_writable, make_estimator, parse_class_weight
from xclf.cli._source import mirrored, parse_bytes, read_split


class Model(StrEnum):
    """--model."""

    softmax = "softmax"
    svm = "svm"
    two_layer = "two-layer"


CLASSES: dict[Model, Any] = {
    Model.softmax: estimators.SoftmaxClassifier,
    Model.svm: estimators.SVMClassifier,
    Model.two_layer: estimators.TwoLayerClassifier,
}

_DATA = "Data"
_FIT = "Fit"


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="digits, or a path: .npz, 'x.npy,y.npy', a CIFAR-10 or MNIST folder, .csv, "
            ".parquet, .svmlight"
        ),
    ],
    model: Annotated[Model, typer.Option(help="What to fit.")] = Model.softmax,
    reg: Annotated[
        float | None, typer.Option(help="Penalty on the squared weights.", show_default="1e-4")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Save the model here (.safetensors).")
    ] = None,
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Fit centred, scaled features; folded back.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the split, the batches, the first weights.",
            show_default="0",
            min=0,
            max=2**32 - 1,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    test: Annotated[
        str | None, typer.Option(help="DATA to test on.", rich_help_panel=_DATA)
    ] = None,
    test_size: Annotated[
        float, typer.Option(help="Share held out if DATA ships no test.", rich_help_panel=_DATA)
    ] = 0.2,
    label: Annotated[
        str | None, typer.Option(help="Label column of a table.", rich_help_panel=_DATA)
    ] = None,
    mirror: Annotated[
        bool,
        typer.Option("--mirror", help="Train on mirrored images too.", rich_help_panel=_DATA),
    ] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Most bytes to read densely, such as 4G.", rich_help_panel=_DATA),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Go on from this saved model.", rich_help_panel=_FIT)
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(help="Hidden units (two-layer).", rich_help_panel=_FIT)
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="softmax or hinge (two-layer).", rich_help_panel=_FIT)
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Margin (svm).", rich_help_panel=_FIT)
    ] = None,
    no_intercept: Annotated[
        bool, typer.Option("--no-intercept", help="Fit no biases.", rich_help_panel=_FIT)
    ] = False,
    solver: Annotated[
        str | None,
        typer.Option(
            help="auto, lbfgs, sgd, momentum, rmsprop or adam.",
            show_default="auto",
            rich_help_panel=_FIT,
        ),
    ] = None,
    max_iter: Annotated[
        int | None, typer.Option(help="Iterations of lbfgs, else epochs.", rich_help_panel=_FIT)
    ] = None,
    tol: Annotated[float | None, typer.Option(help="When to stop.", rich_help_panel=_FIT)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows of a minibatch.", rich_help_panel=_FIT)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=_FIT)] = None,
    momentum: Annotated[float | None, typer.Option(rich_help_panel=_FIT)] = None,
    lr_schedule: Annotated[
        str | None,
        typer.Option(help="constant, cosine or exponential.", rich_help_panel=_FIT),
    ] = None,
    class_weight: Annotated[
        str | None,
        typer.Option(help="'balanced', or LABEL=WEIGHT,...", rich_help_panel=_FIT),
    ] = None,
    early_stopping: Annotated[
        bool,
        typer.Option(
            "--early-stopping", help="Hold rows out and keep the best.", rich_help_panel=_FIT
        ),
    ] = False,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share to hold out.", rich_help_panel=_FIT)
    ] = None,
    n_iter_no_change: Annotated[
        int | None, typer.Option(help="Patience in epochs.", rich_help_panel=_FIT)
    ] = None,
) -> None:
    """Fit a model on DATA and say how good it is.

    xclf train digits

    xclf train cifar-10-batches-bin --standardize --reg 1e-2 --out cifar.safetensors

    xclf train cifar-10-batches-bin --model two-layer --hidden 512 --standardize --mirror

    xclf train flowers.csv --label species --model svm --json
    """
    given = dict(locals())
    # None, and a flag that is not raised, leave a parameter as it is.
    options = {name: given[name] for name in PARAMETERS if given[name] is not False}
    options |= {"fit_intercept": False if no_intercept else None, "random_state": seed}
    options["class_weight"] = parse_class_weight(class_weight)
    estimator = make_estimator(CLASSES[model], options, start)
    if estimator.random_state is None:
        estimator.set_params(random_state=0)
    if out_path is not None:
        check_writable(out_path, data)
    place = choose(device)
    split = read_split(
        data,
        test=test,
        test_size=test_size,
        seed=estimator.random_state,
        label=label,
        max_memory=parse_bytes(max_memory),
    )
    x, y = split.x, split.y
    if mirror:
        x, y = mirrored(split.train, x, y)
    run = Run(out(json=json), estimator, place, split, out_path)
    run.fit(x, y)
    result = run.report()
    if json:
        print(json_format.dumps(result, allow_nan=False))
