"""The course notes' example by hand: 5 images, 4 classes, at the printed precision.

Three tables of scores (A at the start, B after a step on the hinge, C after one on the softmax) and
one of probabilities. Images and weights are not in the notes, so each table stands by itself.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import softmax_rows
from rich.console import Console

from xclf.kernels import cross_entropy, hinge
from xclf.report import worked_example as example

LABELS = np.array([3, 2, 0, 1, 0])
A = [
    [0.815, 1.065, 1.069, -0.941],
    [0.504, 1.884, 1.517, -1.221],
    [0.763, 1.946, 0.965, -0.930],
    [-0.165, 0.905, 0.383, 0.358],
    [0.748, 1.456, 1.781, -0.905],
]
B = [
    [0.461, -1.016, 0.516, 0.040],
    [0.786, -1.502, 0.469, 0.258],
    [1.227, -0.985, 0.498, -0.732],
    [0.282, 1.573, -1.418, -0.433],
    [0.896, -0.927, -0.124, 0.166],
]
C = [
    [0.517, -1.105, 0.644, -0.052],
    [1.203, -1.767, 0.483, 0.119],
    [1.727, -1.204, 0.431, -0.929],
    [0.372, 1.969, -1.709, -0.618],
    [1.065, -1.171, -0.002, 0.140],
]
PROBABILITIES = {
    "A": [
        [0.267, 0.343, 0.344, 0.046],
        [0.126, 0.503, 0.348, 0.023],
        [0.176, 0.576, 0.216, 0.032],
        [0.136, 0.398, 0.236, 0.230],
        [0.166, 0.337, 0.466, 0.032],
    ],
    "C": [
        [0.345, 0.068, 0.392, 0.195],
        [0.533, 0.027, 0.259, 0.180],
        [0.716, 0.038, 0.196, 0.050],
        [0.155, 0.767, 0.019, 0.058],
        [0.541, 0.058, 0.186, 0.215],
    ],
}
LAST = [
    [0.408, 0.011, 0.547, 0.033],
    [0.869, 0.004, 0.122, 0.005],
    [0.878, 0.002, 0.117, 0.003],
    [0.128, 0.848, 0.011, 0.013],
    [0.892, 0.012, 0.089, 0.008],
]
# Half a unit in the third decimal: what the notes round to. A probability gets as much again, as
# its scores were rounded too.
PRINTED = 0.0005
true = np.arange(4) == LABELS[:, None]


def _run(backend, kernel, scores, dtype, **options):
    arrays = backend.asarray(scores, dtype), backend.asarray(LABELS)
    return [backend.to_host(a) for a in kernel(*arrays, **options)]


@pytest.mark.parametrize(
    ("scores", "loss", "counts"), [(A, 3.639, [4, 2, 3, 3, 3]), (B, 1.109, [3, 3, 2, 1, 2])]
)
def test_hinge(backend, scores, loss, counts, dtype):
    got, _ = _run(backend, hinge, scores, dtype)
    assert abs(got - loss) <= PRINTED
    _, gradients = _run(backend, hinge, scores, dtype, reduction="sum")
    # The notes count the true class too: its own margin, s_y - s_y + 1, is positive.
    np.testing.assert_array_equal(1 - gradients[true], counts)


@pytest.mark.parametrize(("scores", "loss"), [(A, 1.717), (C, 0.839)])
def test_cross_entropy(backend, scores, loss, dtype):
    got, _ = _run(backend, cross_entropy, scores, dtype)
    assert abs(got - loss) <= PRINTED


@pytest.mark.parametrize(("name", "scores"), [("A", A), ("C", C)])
def test_probabilities(backend, name, scores, dtype):
    """dscores is p - [j = y] with "sum"."""
    _, gradients = _run(backend, cross_entropy, scores, dtype, reduction="sum")
    np.testing.assert_allclose(gradients + true, PROBABILITIES[name], rtol=0, atol=2 * PRINTED)
    np.testing.assert_allclose(softmax_rows(scores), PROBABILITIES[name], rtol=0, atol=2 * PRINTED)


def test_the_last_table(backend, dtype):
    """Logarithms of probabilities are scores, so the kernel takes the table as it is."""
    got, gradients = _run(backend, cross_entropy, np.log(LAST), dtype, reduction="none")
    assert abs(np.mean(got) - 1.185) <= PRINTED
    np.testing.assert_allclose(gradients + true, LAST, rtol=0, atol=2 * PRINTED)


# --- the report ------------------------------------------------------------------------------


def test_the_report_has_the_tables_of_the_notes():
    np.testing.assert_array_equal(example.LABELS, LABELS)
    for printed, table in ((example.SCORES_A, A), (example.SCORES_B, B), (example.SCORES_C, C)):
        np.testing.assert_array_equal(printed, table)
    np.testing.assert_array_equal(example.PROBABILITIES_A, PROBABILITIES["A"])
    np.testing.assert_array_equal(example.PROBABILITIES_C, PROBABILITIES["C"])
    np.testing.assert_array_equal(example.PROBABILITIES_LAST, LAST)
    assert example.HINGE_LOSSES == {"A": 3.639, "B": 1.109}
    assert example.SOFTMAX_LOSSES == {"A": 1.717, "C": 0.839}
    # Rows of four rounded probabilities sum to 1 within four half units.
    mean_loss = -np.log(np.asarray(LAST)[true]).mean()
    assert example.steps()[-1].loss == pytest.approx(mean_loss, abs=4 * PRINTED)


def test_every_table_agrees_within_rounding():
    for step in example.steps():
        for table in step.tables:
            assert table.ours.shape == table.notes.shape == (5, 4)
            assert table.agrees, table.title
        assert step.agrees, step.title
    with_slip = example.SCORES_A.copy()
    with_slip[2, 2] = 0.956
    wrong = example._softmax_step("", "A", with_slip, example.PROBABILITIES_A)
    assert not wrong.agrees


def test_every_step_and_every_slip_is_printed():
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    assert example.worked_example(console) is True
    text = stream.getvalue()
    for number in ("3.639", "1.109", "1.717", "0.839", "1.185", "[-0.941]", "[-3]", "2.756"):
        assert number in text
    for slip in ("0.956", "1.537", "-0.483", "-1.727", "-1.969", "fifth", "1/N"):
        assert slip in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_number_that_is_off_is_reported(monkeypatch):
    monkeypatch.setitem(example.HINGE_LOSSES, "A", 3.7)
    stream = io.StringIO()
    assert example.worked_example(Console(file=stream, width=80)) is False
    assert "NOT every number" in stream.getvalue()
