"""Options that commands share: one definition each, so that they mean the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

import xclf.estimators as estimators


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

Data: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="digits, or a path: .npz, 'x.npy,y.npy', a CIFAR-10 or MNIST folder, .csv, "
        ".parquet, .svmlight"
    ),
]
ModelKind: TypeAlias = Annotated[Model, typer.Option(help="What to fit.")]
Reg: TypeAlias = Annotated[
    float | None, typer.Option(help="Penalty on the squared weights.", show_default="1e-4")
]
Device: TypeAlias = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or cuda:all.")]
Out: TypeAlias = Annotated[
    Path | None, typer.Option("--out", help="Save the model here (.safetensors).")
]
Standardize: TypeAlias = Annotated[
    bool, typer.Option("--standardize", help="Fit centred, scaled features; folded back.")
]
Seed: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Of the split, the batches, the first weights.",
        show_default="0",
        min=0,
        max=2**32 - 1,
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Test: TypeAlias = Annotated[
    str | None, typer.Option(help="DATA to test on.", rich_help_panel=_DATA)
]
TestSize: TypeAlias = Annotated[
    float, typer.Option(help="Share held out if DATA ships no test.", rich_help_panel=_DATA)
]
Label: TypeAlias = Annotated[
    str | None, typer.Option(help="Label column of a table.", rich_help_panel=_DATA)
]
Mirror: TypeAlias = Annotated[
    bool,
    typer.Option("--mirror", help="Train on mirrored images too.", rich_help_panel=_DATA),
]
MaxMemory: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Most bytes to read densely, such as 4G.", rich_help_panel=_DATA),
]
Start: TypeAlias = Annotated[
    Path | None, typer.Option(help="Go on from this saved model.", rich_help_panel=_FIT)
]
Hidden: TypeAlias = Annotated[
    int | None, typer.Option(help="Hidden units (two-layer).", rich_help_panel=_FIT)
]
Loss: TypeAlias = Annotated[
    str | None, typer.Option(help="softmax or hinge (two-layer).", rich_help_panel=_FIT)
]
Margin: TypeAlias = Annotated[
    float | None, typer.Option(help="Margin (svm).", rich_help_panel=_FIT)
]
NoIntercept: TypeAlias = Annotated[
    bool, typer.Option("--no-intercept", help="Fit no biases.", rich_help_panel=_FIT)
]
Solver: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="auto, lbfgs, sgd, momentum, rmsprop or adam.",
        show_default="auto",
        rich_help_panel=_FIT,
    ),
]
MaxIter: TypeAlias = Annotated[
    int | None, typer.Option(help="Iterations of lbfgs, else epochs.", rich_help_panel=_FIT)
]
Tol: TypeAlias = Annotated[float | None, typer.Option(help="When to stop.", rich_help_panel=_FIT)]
BatchSize: TypeAlias = Annotated[
    int | None, typer.Option(help="Rows of a minibatch.", rich_help_panel=_FIT)
]
LearningRate: TypeAlias = Annotated[
    float | None,
    typer.Option(help="0.01 for sgd and momentum, else 0.001.", rich_help_panel=_FIT),
]
Momentum: TypeAlias = Annotated[
    float | None, typer.Option(help="Of solver momentum; 0.9.", rich_help_panel=_FIT)
]
LrSchedule: TypeAlias = Annotated[
    str | None,
    typer.Option(help="constant, cosine or exponential.", rich_help_panel=_FIT),
]
ClassWeight: TypeAlias = Annotated[
    str | None,
    typer.Option(help="'balanced', or LABEL=WEIGHT,...", rich_help_panel=_FIT),
]
EarlyStopping: TypeAlias = Annotated[
    bool,
    typer.Option("--early-stopping", help="Hold rows out and keep the best.", rich_help_panel=_FIT),
]
ValidationFraction: TypeAlias = Annotated[
    float | None, typer.Option(help="Share to hold out.", rich_help_panel=_FIT)
]
NIterNoChange: TypeAlias = Annotated[
    int | None, typer.Option(help="Patience in epochs.", rich_help_panel=_FIT)
]
