"""The worked example of handwritten notes on CS231n, five images and four classes, beside xclf.

The images and weights behind the scores are not in the notes, so each table of scores is an input;
loss, gradient and probabilities are computed from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from xclf.kernels import cross_entropy, hinge

LABELS = np.array([3, 2, 0, 1, 0])

# Scores as the notes print them, their slips corrected.
SCORES_A = np.array(
    [
        [0.815, 1.065, 1.069, -0.941],
        [0.504, 1.884, 1.517, -1.221],
        [0.763, 1.946, 0.965, -0.930],
        [-0.165, 0.905, 0.383, 0.358],
        [0.748, 1.456, 1.781, -0.905],
    ]
)
SCORES_B = np.array(
    [
        [0.461, -1.016, 0.516, 0.040],
        [0.786, -1.502, 0.469, 0.258],
        [1.227, -0.985, 0.498, -0.732],
        [0.282, 1.573, -1.418, -0.433],
        [0.896, -0.927, -0.124, 0.166],
    ]
)
SCORES_C = np.array(
    [
        [0.517, -1.105, 0.644, -0.052],
        [1.203, -1.767, 0.483, 0.119],
        [1.727, -1.204, 0.431, -0.929],
        [0.372, 1.969, -1.709, -0.618],
        [1.065, -1.171, -0.002, 0.140],
    ]
)

# The results in the notes, to three decimals.
MARGINS_A = np.array(
    [
        [2.756, 3.006, 3.010, 1],
        [0, 1.368, 1, 0],
        [1, 2.184, 1.202, 0],
        [0, 1, 0.477, 0.452],
        [1, 1.708, 2.033, 0],
    ]
)
MARGINS_B = np.array(
    [
        [1.421, 0, 1.475, 1],
        [1.316, 0, 1, 0.789],
        [1, 0, 0.271, 0],
        [0, 1, 0, 0],
        [1, 0, 0, 0.270],
    ]
)
GRADIENT_A = np.array([[1, 1, 1, -3], [0, 1, -1, 0], [-2, 1, 1, 0], [0, -2, 1, 1], [-2, 1, 1, 0]])
GRADIENT_B = np.array([[1, 0, 1, -2], [1, 0, -2, 1], [-1, 0, 1, 0], [0, 0, 0, 0], [-1, 0, 0, 1]])
PROBABILITIES_A = np.array(
    [
        [0.267, 0.343, 0.344, 0.046],
        [0.126, 0.503, 0.348, 0.023],
        [0.176, 0.576, 0.216, 0.032],
        [0.136, 0.398, 0.236, 0.230],
        [0.166, 0.337, 0.466, 0.032],
    ]
)
PROBABILITIES_C = np.array(
    [
        [0.345, 0.068, 0.392, 0.195],
        [0.533, 0.027, 0.259, 0.180],
        [0.716, 0.038, 0.196, 0.050],
        [0.155, 0.767, 0.019, 0.058],
        [0.541, 0.058, 0.186, 0.215],
    ]
)
PROBABILITIES_LAST = np.array(
    [
        [0.408, 0.011, 0.547, 0.033],
        [0.869, 0.004, 0.122, 0.005],
        [0.878, 0.002, 0.117, 0.003],
        [0.128, 0.848, 0.011, 0.013],
        [0.892, 0.012, 0.089, 0.008],
    ]
)
HINGE_LOSSES = {"A": 3.639, "B": 1.109}
SOFTMAX_LOSSES = {"A": 1.717, "C": 0.839}

# Printed numbers are rounded; a margin is a difference of two rounded scores, and rounded itself.
HALF_UNIT = 0.0005
MARGIN_ERROR = 3 * HALF_UNIT

SLIPS = (
    "Scores A, image 2, class 2: printed 0.956 in the first table and 0.965 in the second; "
    "margins and probabilities fit 0.965.",
    "Scores B, image 3: 1.537 stands for 1.573 in the column of true-class scores; the margins "
    "fit 1.573.",
    "Scores C: image 1 class 2, image 2 class 0 and image 3 class 1 have the wrong sign "
    "(-0.483, -1.727, -1.969); the probabilities fit the positive numbers.",
    "Hinge gradient of A: the count 2 of image 1 stands under class 1; the true class is 2.",
    "Softmax gradients: the one-hot matrices have four rows; the fifth, image 4 with class 0, is "
    "missing.",
    "Gradients: X^T (...) lacks the factor 1/N that L and the general formula beside it have.",
)


@dataclass(frozen=True)
class Comparison:
    """One table of the notes, and the same numbers from this library.

    within : the allowed difference, as the notes print rounded numbers
    """

    title: str
    ours: np.ndarray
    notes: np.ndarray
    within: float

    @property
    def agrees(self) -> bool:
        return bool(np.all(np.abs(self.ours - self.notes) <= self.within))


@dataclass(frozen=True)
class Step:
    """A table of scores (or probabilities) of the notes, and the results computed from it."""

    title: str
    given_name: str
    given: np.ndarray
    loss: float
    notes_loss: float | None
    tables: tuple[Comparison, ...] = ()

    @property
    def agrees(self) -> bool:
        fits = self.notes_loss is None or abs(self.loss - self.notes_loss) <= HALF_UNIT
        return fits and all(table.agrees for table in self.tables)


def steps() -> tuple[Step, ...]:
    """The example from its first scores to its last table."""
    return (
        _hinge_step("Hinge loss of scores A", "A", SCORES_A, MARGINS_A, GRADIENT_A),
        _hinge_step("Hinge loss of scores B, after the step", "B", SCORES_B, MARGINS_B, GRADIENT_B),
        _softmax_step("Softmax loss of scores A", "A", SCORES_A, PROBABILITIES_A),
        _softmax_step("Softmax loss of scores C, after the step", "C", SCORES_C, PROBABILITIES_C),
        _last_step(),
    )


def _hinge_step(
    title: str, key: str, scores: np.ndarray, margins: np.ndarray, gradient: np.ndarray
) -> Step:
    _, dscores = hinge(scores, LABELS, reduction="sum")
    own = np.take_along_axis(scores, LABELS[:, None], axis=1)
    ours = np.maximum(0, scores - own + 1)
    tables = (
        Comparison("max(0, S - S_y + 1)", ours, margins, MARGIN_ERROR),
        Comparison("gradient in the scores, times N", dscores, gradient, 0.0),
    )
    return Step(title, f"scores {key}", scores, _loss(hinge, scores), HINGE_LOSSES[key], tables)


def _softmax_step(title: str, key: str, scores: np.ndarray, printed: np.ndarray) -> Step:
    _, dscores = cross_entropy(scores, LABELS, reduction="sum")
    one_hot = np.eye(4)[LABELS]
    # p changes by at most 2 p (1 - p) <= 1/2 of the rounding of the scores, and is rounded itself.
    within = HALF_UNIT + 0.5 * HALF_UNIT
    tables = (
        Comparison("probabilities", dscores + one_hot, printed, within),
        Comparison("gradient in the scores, times N", dscores, printed - one_hot, within),
    )
    return Step(
        title, f"scores {key}", scores, _loss(cross_entropy, scores), SOFTMAX_LOSSES[key], tables
    )


def _last_step() -> Step:
    """The notes end with probabilities alone: log p are scores that have them."""
    loss = _loss(cross_entropy, np.log(PROBABILITIES_LAST))
    return Step("Last table, later still", "probabilities", PROBABILITIES_LAST, loss, None)


def _loss(kernel: Callable[..., Any], scores: np.ndarray) -> float:
    mean, _ = kernel(scores, LABELS)
    return float(mean)


def worked_example(console: Console) -> bool:
    """Print the example step by step; returns whether every number of the notes is reproduced."""
    results = steps()
    console.print(
        "A worked example of the losses from handwritten notes on Stanford's course CS231n,",
        "whose numbers (notes) stand beside those of this library (xclf).",
        f"5 images, 4 classes, true classes y = {LABELS.tolist()}.",
        "The number of the true class is in brackets.",
        sep="\n",
        highlight=False,
    )
    for number, step in enumerate(results, start=1):
        console.print(f"\n[bold]{number}. {step.title}[/bold]", highlight=False)
        console.print(_input_table(step))
        for table in step.tables:
            console.print(_comparison_table(table))
        line = f"mean loss of these probabilities: {step.loss:.3f}"
        if step.notes_loss is not None:
            line = f"loss: {step.loss:.3f}; notes: {step.notes_loss:.3f}"
        console.print(line, highlight=False)
    _print_remarks(console, results)
    agrees = all(step.agrees for step in results)
    console.print(
        "\nEvery other number of the notes is reproduced, to the rounding of three decimals."
        if agrees
        else "\nNOT every number of the notes is reproduced.",
        highlight=False,
    )
    return agrees


def _print_remarks(console: Console, results: tuple[Step, ...]) -> None:
    moved = SCORES_B.sum(axis=1) - SCORES_A.sum(axis=1)
    remarks = (
        f"The last table's loss, {results[-1].loss:.3f}, is above that of C, "
        f"{results[-2].loss:.3f}: the true classes of images 0 and 1 have become less likely.",
        "The gradient in an image's scores sums to 0. If a step changed the scores along it, each "
        "row sum would stay; from A to B they move by "
        f"{', '.join(f'{value:+.3f}' for value in moved)}. The tables are therefore taken as "
        "given, none is computed from the one before.",
    )
    for title, lines in (("Remarks", remarks), ("Slips in the notes", SLIPS)):
        console.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            console.print(f"- {line}", markup=False, highlight=False)


def _input_table(step: Step) -> Table:
    table = _table(f"{step.given_name}, as given", [f"class {c}" for c in range(4)])
    for i, row in enumerate(step.given):
        table.add_row(str(i), *_cells(row, i))
    return table


def _comparison_table(comparison: Comparison) -> Table:
    table = _table(comparison.title, [f"{who} {c}" for who in ("xclf", "notes") for c in range(4)])
    for i, (ours, notes) in enumerate(zip(comparison.ours, comparison.notes, strict=True)):
        table.add_row(str(i), *_cells(ours, i, comparison), *_cells(notes, i, comparison))
    return table


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("image")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cells(row: np.ndarray, image: int, comparison: Comparison | None = None) -> list[str]:
    """Three decimals, counts without; the true class in (escaped) brackets."""
    decimals = 0 if comparison is not None and comparison.within == 0 else 3
    # Adding 0.0 turns -0.0 into 0.0.
    texts = [f"{value + 0.0:.{decimals}f}" for value in row]
    texts[LABELS[image]] = f"\\[{texts[LABELS[image]]}]"
    return texts
