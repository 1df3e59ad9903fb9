"""Options that commands share: one definition each, so that they mean the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from xclf.cli._console import UserError
from xclf.estimators import (
    SoftmaxClassifier,
    SVMClassifier,
    TwoLayerClassifier,
    check_parameters,
)
from xclf.objectives import LOSSES
from xclf.optim import SOLVERS
from xclf.report.number_text import plain
from xclf.rows import parse_bytes

#: Names that options had, or have elsewhere, which are understood and not shown.
ALIASES = {"cv": "folds", "lr": "learning-rate", "scoring": "metric"}


class Model(StrEnum):
    """--model."""

    softmax = "softmax"
    svm = "svm"
    two_layer = "two-layer"


CLASSES: dict[Model, Any] = {
    Model.softmax: SoftmaxClassifier,
    Model.svm: SVMClassifier,
    Model.two_layer: TwoLayerClassifier,
}


def one_of(names: tuple[str, ...]) -> str:
    """'softmax', 'softmax or hinge', 'constant, cosine or exponential'."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def losses(model: Model) -> tuple[str, ...]:
    """The losses to choose from for a model; none for one without a parameter `loss`."""

    def accepted(loss: str) -> bool:
        try:
            check_parameters(CLASSES[model], {"loss": loss})
        except ValueError:
            return False
        return True

    has_choice = "loss" in CLASSES[model]().get_params(deep=False)
    return tuple(filter(accepted, LOSSES)) if has_choice else ()


_LOSS_HELP = "; ".join(f"{one_of(losses(model))} ({model})" for model in Model if losses(model))

_RATE_HELP = ", ".join(f"{s.name} {plain(s.learning_rate)}" for s in SOLVERS.values() if s.rule)
MOMENTUM_SOLVERS = one_of(tuple(s.name for s in SOLVERS.values() if "momentum" in s.parameters))

_data = partial(typer.Option, rich_help_panel="Data")
_fit = partial(typer.Option, rich_help_panel="Fit")

Data: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="digits, - (standard input) or a path: .npz, 'x.npy,y.npy', a CIFAR or MNIST folder, "
        ".csv, .parquet, .feather, .safetensors, .pt, .h5, .svmlight, a folder or pattern of them"
    ),
]
ModelKind: TypeAlias = Annotated[Model, typer.Option(help="What to fit.")]
Reg: TypeAlias = Annotated[
    float | None, typer.Option(help="Penalty on the squared weights.", show_default="1e-4")
]
Device: TypeAlias = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or cuda:all.")]
Dask: TypeAlias = Annotated[
    str | None,
    typer.Option("--dask", help="Address of a Dask scheduler, whose workers read DATA in blocks."),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Start a Dask cluster of so many processes here."),
]
Out: TypeAlias = Annotated[
    Path | None, typer.Option("--out", help="Save the model here (.safetensors).")
]
Report: TypeAlias = Annotated[
    Path | None,
    typer.Option("--report", help="Write a page of the results (.html), or them (.json), here."),
]
Standardize: TypeAlias = Annotated[
    bool, typer.Option("--standardize", help="Fit centred, scaled features; folded back.")
]
Seed: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Of the split, the batches, the first weights.", show_default="0", min=0, max=2**32 - 1
    ),
]
Full: TypeAlias = Annotated[
    bool, typer.Option("--full", help="Print every class, also where they are many.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

# Of every command.
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print the last line and errors alone.", rich_help_panel="Output"
    ),
]
Verbose: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print every step and every reason.", rich_help_panel="Output"
    ),
]

# A saved model, and the rows to use it on.
SavedModel: TypeAlias = Annotated[Path, typer.Argument(help="A model that train --out saved.")]
TopK: TypeAlias = Annotated[
    int, typer.Option(min=2, help="Measure the top-k accuracy with this k, of more classes.")
]
Task: TypeAlias = Annotated[
    str | None, typer.Option(help="Of a model of several tasks: the one to take.")
]
TrainPart: TypeAlias = Annotated[
    bool, typer.Option("--train-part", help="The training part, where DATA ships both.")
]
AllRows: TypeAlias = Annotated[
    bool, typer.Option("--all-rows", help="The rows of training too, where DATA is what it saw.")
]
LabelColumn: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Label column of a table; by default that of training. Repeated for several tasks."
    ),
]


def _memory_size(text: str | None) -> str | None:
    """The option's value; `UserError` if it is no size."""
    try:
        parse_bytes(text)
    except ValueError:
        raise UserError(f"--max-memory must be a size such as 500MB or 4G, got {text!r}") from None
    return text


_memory = partial(
    typer.Option,
    callback=_memory_size,
    help="Most bytes to read densely and, beyond the rows, to compute with, such as 500MB or 4G.",
)
DenseMemory: TypeAlias = Annotated[str | None, _memory()]

FOLDS_HELP = "Folds to judge candidates on; without, rows are held out once."
Test: TypeAlias = Annotated[str | None, _data(help="DATA to test on.")]
TEST_SIZE_HELP = "Share held out if DATA ships no test; 0: none."
TestSize: TypeAlias = Annotated[float | None, _data(help=TEST_SIZE_HELP, show_default="0.2")]
Label: TypeAlias = Annotated[
    str | None, _data(help="Label column of a table; of CIFAR-100 fine or coarse.")
]
Drop: TypeAlias = Annotated[
    list[str] | None,
    _data(help="Column of a table that is no feature; repeated, or A,B,C."),
]
Id: TypeAlias = Annotated[
    str | None, _data("--id", help="Column that names the rows of a table: no feature.")
]
XName: TypeAlias = Annotated[str | None, _data("--x", help="Name of the rows in a file of arrays.")]
YName: TypeAlias = Annotated[str | None, _data("--y", help="Name of the labels there.")]
Mirror: TypeAlias = Annotated[bool, _data("--mirror", help="Train on mirrored images too.")]
MaxMemory: TypeAlias = Annotated[str | None, _memory(rich_help_panel="Data")]

Start: TypeAlias = Annotated[Path | None, _fit(help="Go on from this saved model.")]
Hidden: TypeAlias = Annotated[int | None, _fit(help="Hidden units (two-layer).")]
Loss: TypeAlias = Annotated[str | None, _fit(help=f"{_LOSS_HELP}.")]
Margin: TypeAlias = Annotated[float | None, _fit(help="Margin (svm).")]
NoIntercept: TypeAlias = Annotated[bool, _fit("--no-intercept", help="Fit no biases.")]
Solver: TypeAlias = Annotated[
    str | None, _fit(help=f"{one_of(('auto', *SOLVERS))}.", show_default="auto")
]
MaxIter: TypeAlias = Annotated[int | None, _fit(help="Iterations of lbfgs, else epochs.")]
Tol: TypeAlias = Annotated[float | None, _fit(help="When to stop.")]
BatchSize: TypeAlias = Annotated[int | None, _fit(help="Rows of a minibatch.")]
LearningRate: TypeAlias = Annotated[float | None, _fit(help=f"By default {_RATE_HELP}.")]
Momentum: TypeAlias = Annotated[float | None, _fit(help=f"Of solver {MOMENTUM_SOLVERS}; 0.9.")]
LrSchedule: TypeAlias = Annotated[str | None, _fit(help="constant, cosine or exponential.")]
ClassWeight: TypeAlias = Annotated[str | None, _fit(help="'balanced', or LABEL=WEIGHT,...")]
EarlyStopping: TypeAlias = Annotated[
    bool, _fit("--early-stopping", help="Hold rows out and keep the best.")
]
ValidationFraction: TypeAlias = Annotated[float | None, _fit(help="Share to hold out.")]
NIterNoChange: TypeAlias = Annotated[int | None, _fit(help="Patience in epochs.")]

_resume = partial(typer.Option, rich_help_panel="Long work")
CheckpointPath: TypeAlias = Annotated[
    Path | None, _resume("--checkpoint", help="Keep the state here, to go on from after a kill.")
]
CheckpointEvery: TypeAlias = Annotated[
    float, _resume(help="Seconds between writes of the checkpoint, at least.", min=0.0)
]
Resume: TypeAlias = Annotated[
    bool,
    _resume(
        "--resume",
        help="Go on from the checkpoint, if it is there; without --checkpoint it is kept beside "
        "--out.",
    ),
]
