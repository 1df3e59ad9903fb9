"""A slice of every campaign of `python -m tests.fuzz`, and that the harness sees what it looks for.

The campaigns' own seeds are 0 and up; a slice is small and the same in every run.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from tests.fuzz import files, fits, hostile, kills, oracles, sweeps
from tests.fuzz.__main__ import campaign, main, parser
from tests.fuzz.cases import Budget, Outcome
from xclf import SoftmaxClassifier, SVMClassifier

CASES = {"sweeps": 2, "files": 15, "kills": 4, "disk": 4, "signals": 1, "resumed": 2}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CASES)
def test_a_slice_of_each_campaign(kind):
    tally = campaign(kind, 20, Budget(0, CASES[kind], math.inf))
    assert tally.cases == CASES[kind]
    assert not tally.failures


def test_a_slice_of_the_fits():
    ends = [fits.check(fits.draw(20, index)) for index in range(20)]
    assert [end for end in ends if end.broken] == []
    assert {"converged", "minibatch"} <= {end.name for end in ends}


def test_one_loss_is_drawn_alone():
    given = parser().parse_args(["--loss", "squared_hinge"])
    tally = campaign("fits", 20, Budget(0, 40, math.inf), loss=given.loss)
    assert 0 < tally.cases < 40
    assert {group.split(",")[0] for group in tally.groups} == {"squared_hinge"}
    assert not tally.failures


def test_the_oracle_finds_known_optima():
    """Two rows at +-1: softmax and hinge by hand."""
    x, y, share = np.array([[1.0], [-1.0]]), np.array([1, 0]), np.array([0.5, 0.5])
    model = SVMClassifier(reg=0.05).fit(x, y)
    task = oracles.problem(model, x, y, share)
    # With w = v (-1/2, 1/2) the hinge is max(0, 1 - v), the penalty reg v^2 / 2: v = 1 here.
    assert oracles.optimum(task) == pytest.approx(0.025, rel=1e-9)
    soft = oracles.optimum(replace(task, loss="softmax"))
    v = np.linspace(0, 20, 2_000_001)
    assert soft == pytest.approx((np.log1p(np.exp(-v)) + 0.025 * v * v).min(), rel=1e-10)


EASY = fits.Fit(
    np.eye(3)[np.arange(30) % 3], np.arange(30) % 3, None, {"loss": "softmax", "reg": 0.1}
)


@pytest.mark.parametrize("expected", ["wrong objective", "silent wrong", "wrong bound", "warning"])
def test_a_wrong_fit_is_seen(monkeypatch, expected):
    real = SoftmaxClassifier.fit

    def fit(self, *arguments, **options):
        real(self, *arguments, **options)
        if expected == "wrong objective":
            self.objective_ *= 1 + 1e-8
        elif expected == "warning":
            self.converged_ = False
        else:  # weights of half the size, and the objective that they give
            self.coef_ = 0.5 * self.coef_
            self.objective_ = oracles.reached(self, EASY.x, EASY.y, fits.row_share(EASY))
            if expected == "silent wrong":
                del self.dual_gap_
        return self

    assert fits.check(EASY) == Outcome("converged")
    monkeypatch.setattr(SoftmaxClassifier, "fit", fit)
    assert fits.check(EASY).name == expected


def test_a_failing_case_shrinks(monkeypatch):
    monkeypatch.setattr(
        fits, "check", lambda case: Outcome("exception" if case.x.max() > 1.0 else "converged")
    )
    start = next(
        c for c in (fits.draw(20, k) for k in range(99)) if c.x.max() > 9 and len(c.x) > 30
    )
    least = fits.shrink(start, "exception")
    assert least.x.shape == (2, 1)
    assert set(least.options) == {"loss", "reg"}


def test_a_payload_that_runs_is_seen(tmp_path, monkeypatch):
    watch = files.Watch()
    source = hostile.Source("cifar python", "f", {"f": b"x"}, "f")
    for call in (lambda: exec("1"), lambda: (tmp_path / "new").touch()):
        monkeypatch.setattr(files, "read", lambda *_, call=call: call() or Outcome("loaded"))
        assert files.attempt(source, source.files, tmp_path, watch).name == "executed"


def test_mutations_are_the_same_in_every_run():
    changed = [hostile.changed_bytes(bytes(range(200)), random.Random(5), 3) for _ in range(2)]
    assert changed[0] == changed[1] != bytes(range(200))


def test_a_torn_file_is_seen(monkeypatch):
    """A writer without a temporary file."""

    def writers(folder, kind):
        def write(content):
            with (folder / "t").open("wb", buffering=0) as file:
                for _ in range(2000):
                    file.write(content)
            return 0

        return folder / "t", [lambda: write(b"a"), lambda: write(b"b")]

    monkeypatch.setattr(kills, "_writers", writers)
    assert "torn" in {kills.kill(0, index)[1].name for index in range(30)}


def test_other_scores_are_seen():
    estimator, grid, x, y, options = sweeps.draw(20, 0)
    ours, theirs = (sweeps.GridSearchCV(estimator, grid, **options).fit(x, y) for _ in range(2))
    assert sweeps.compare(ours, theirs, x, y).name == "equal"
    ours.cv_results_["split0_test_score"] = ours.cv_results_["split0_test_score"] - 50.0
    assert sweeps.compare(ours, theirs, x, y).name == "wrong scores"


def test_the_command_prints_counts_and_repeats_a_case(capsys, tmp_path):
    assert main(["--only", "fits", "--case", "3", "--seed", "20"]) == 0
    assert "fits" in capsys.readouterr().out
    assert main(["--only", "fits", "--fits", "3", "--json", str(tmp_path / "r.json")]) == 0
    assert (tmp_path / "r.json").read_text().startswith("{")
