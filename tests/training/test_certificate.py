"""Parts of the hinge's certificate against the formulas in plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from helpers import gamma

from xclf.objectives import Network, loss_named
from xclf.rows import Chunk
from xclf.training import Monitor, _certificate, augmented_lagrangian, fit_augmented_lagrangian
from xclf.training._smoothed_hinge import SmoothedHinge

K, C, N = 2, 4, 30
RNG = np.random.default_rng(0)
LABELS = RNG.integers(C, size=N)
A = np.where(np.arange(C)[:, None] == LABELS, 0.0, RNG.choice([0.0, 1.0, 0.3, 0.9], (K, C, N)))


@pytest.mark.parametrize("masked", [False, True])
def test_multipliers_are_repaired_as_it_is_said(masked):
    inner, outer = RNG.uniform(-1.0, 1.0, (2, K, C, C))
    labels = np.arange(C)[:, None] == LABELS if masked else LABELS
    got = _certificate._repaired(A, labels, inner, outer)
    for k in range(K):
        for j in range(C):
            for i in range(N):
                a, first, then = A[k, j, i], inner[k, j, LABELS[i]], outer[k, j, LABELS[i]]
                a += first * min(a, 1.0 - a)
                a = a * (1.0 + then) if then < 0.0 else a + then * (1.0 - a)
                assert abs(got[k, j, i] - a) <= gamma(8, np.float64)
                assert 0.0 <= got[k, j, i] <= 1.0


@pytest.mark.parametrize("weighted", [False, True])
def test_flows_of_a_chunk(weighted):
    """F[k, j, c]: what rows of class c give to class j, of a and of min(a, 1 - a); and the weight
    of each class."""
    weights = RNG.uniform(0.5, 2.0, (K, N)) if weighted else None
    mask = np.arange(C)[:, None] == LABELS
    chunk = Chunk(np.zeros((N, 1)), mask, weights, slice(0, N), np.float64)
    flow, inside, weight = _certificate._flows(lambda _: (None, None, A), chunk)
    for k in range(K):
        for c in range(C):
            rows = [i for i in range(N) if LABELS[i] == c]
            share = {i: weights[k, i] if weighted else 1.0 for i in rows}
            assert np.ravel(weight[k])[c] == pytest.approx(sum(share.values()), rel=1e-13)
            for j in range(C):
                total = sum(share[i] * A[k, j, i] for i in rows)
                assert flow[k, j, c] == pytest.approx(total, rel=1e-13, abs=1e-15)
                both = 0.0 if j == c else sum(
                    share[i] * min(A[k, j, i], 1.0 - A[k, j, i]) for i in rows
                )  # fmt: skip
                assert inside[k, j, c] == pytest.approx(both, rel=1e-13, abs=1e-15)


def test_lengths_of_rows_are_those_of_scaled_features():
    x, scale = RNG.normal(size=(5, N)), RNG.uniform(0.1, 10.0, 5)
    for given in (None, scale):
        got = _certificate._row_squares(x, given)
        for i in range(N):
            by = scale if given is not None else np.ones(5)
            want = sum((x[d, i] / by[d]) ** 2 for d in range(5))
            assert got[i] == pytest.approx(want, rel=1e-14)


def test_smoothing_starts_with_the_penalty(monkeypatch):
    """As reg^-0.43 times the margin, which it is at reg = 1e-2; none of reg below 1e-9."""
    seen = []

    class Watched(SmoothedHinge):
        @classmethod
        def at_zero(cls, problem, margin, smoothing):
            seen.append((margin, smoothing))
            return super().at_zero(problem, margin, smoothing)

    monkeypatch.setattr(augmented_lagrangian, "SmoothedHinge", Watched)
    reg, margin = np.array([1e-2, 1e-1, 1e-4, 1e-9, 0.0]), np.array([1.0, 2.0, 0.5, 1.0, 1.0])
    network, (x, y) = Network((4, 3)), blobs(30, 4, 3)
    problem = problem_on(Backend.NUMPY, network, x, y, loss="hinge", reg=reg)
    objective = replace(problem.objective, loss=loss_named("hinge", margin=margin))
    problem = replace(problem, objective=objective)
    start = np.zeros((5, network.size))
    monitor = Monitor((), "iteration", 1)
    fit_augmented_lagrangian(problem, start, tol=1e-3, max_iter=1, monitor=monitor)
    got = dict(zip(reg.tolist(), seen[0][1], strict=True))
    assert got[1e-2] == pytest.approx(1.0, rel=1e-12)
    assert got[1e-1] == pytest.approx(2.0 * 10.0**-0.43, rel=1e-12)
    assert got[1e-4] == pytest.approx(0.5 * 100.0**0.43, rel=1e-12)
    assert got[1e-9] == got[0.0]
