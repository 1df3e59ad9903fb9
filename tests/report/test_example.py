"""The notes' worked example, at the precision they print."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from xclf.kernels import cross_entropy, hinge
from xclf.report import worked_example as example

HALF = 0.0005  # of the last printed decimal


def test_losses_are_the_printed_ones():
    for key, scores in (("A", example.SCORES_A), ("B", example.SCORES_B)):
        loss, _ = hinge(scores, example.LABELS)
        assert abs(loss - {"A": 3.639, "B": 1.109}[key]) <= HALF
    for key, scores in (("A", example.SCORES_A), ("C", example.SCORES_C)):
        loss, _ = cross_entropy(scores, example.LABELS)
        assert abs(loss - {"A": 1.717, "C": 0.839}[key]) <= HALF


def test_counts_of_positive_margins_are_the_printed_ones():
    # Minus the gradient at the true class, and the true class's own margin of 1.
    for scores, counts in (
        (example.SCORES_A, [4, 2, 3, 3, 3]),
        (example.SCORES_B, [3, 3, 2, 1, 2]),
    ):
        _, gradient = hinge(scores, example.LABELS, reduction="sum")
        found = 1 - np.take_along_axis(gradient, example.LABELS[:, None], axis=1)[:, 0]
        np.testing.assert_array_equal(found, counts)


def test_the_last_table_has_a_mean_loss_of_1_185():
    p = example.PROBABILITIES_LAST[np.arange(5), example.LABELS]
    assert abs(-np.log(p).mean() - 1.185) <= HALF
    # Rows of four rounded probabilities sum to 1 within four half units.
    assert example.steps()[-1].loss == pytest.approx(-np.log(p).mean(), abs=4 * HALF)


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


def test_it_prints_every_step_and_every_slip():
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
