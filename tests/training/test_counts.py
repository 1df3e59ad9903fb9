"""How many array calls a step makes, and how often a fit waits for the device.

A launch on a GPU costs some microseconds and a read stops the queue: these counts are the speed of
small fits there, and they show on any machine.
"""

from __future__ import annotations

import numpy as np
import pytest
from counting import NAMESPACE, counted, counting
from estimator_cases import CLASSES, blobs, small
from helpers import run_epoch

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, loss_named
from xclf.optim import Adam, Momentum, spectral
from xclf.rows import Rows
from xclf.training import MinibatchPlan, Problem, plain_steps

LINEAR, NET = (6, 4), (6, 5, 4)
X, Y = blobs(64, 6, 4)


def _rows(weighted=False, n_classes=4):
    labels = one_hot(NAMESPACE, counted(Y), n_classes)
    weights = counted(np.ones(64)) if weighted else None
    return Rows(counted(X), labels, weights, NAMESPACE.float64)


def _step(widths, rule, loss="softmax", weighted=False, scaled=False):
    place = {"shift": counted(np.ones(6)), "scale": counted(np.full(6, 2.0))} if scaled else {}
    network = Network(widths, **place)
    objective = Objective(network, loss_named(loss), 1e-3)
    rows, theta = _rows(weighted), counted(np.ones(network.size))
    state, index = rule.init(theta), counted(np.arange(8))
    with counting() as tally:
        plain_steps(objective, rule, rows, theta, state, [(index[:8], 0.1)])
    return tally


# What the project promises, slices and data access counted: 30 and 50 with momentum and the
# softmax, 10 more with Adam. The hinge has a comparison and a maximum more.
@pytest.mark.parametrize("loss, more", [("softmax", 0), ("hinge", 2)])
@pytest.mark.parametrize("widths, most", [(LINEAR, 30), (NET, 50)], ids=["linear", "net"])
def test_a_step_keeps_its_promise(widths, most, loss, more):
    plain, adam = (_step(widths, rule, loss) for rule in (Momentum(), Adam()))
    assert plain.operations <= most + more, plain
    assert adam.operations <= most + more + 10, adam
    assert adam.operations - plain.operations <= 10
    assert plain.reads == adam.reads == 0


@pytest.mark.parametrize("widths", [LINEAR, NET], ids=["linear", "net"])
def test_weights_and_standardised_coordinates_cost_a_few_more(widths):
    plain = _step(widths, Momentum())
    weighted = _step(widths, Momentum(), weighted=True)
    both = _step(widths, Momentum(), weighted=True, scaled=True)
    assert weighted.operations - plain.operations <= 5, weighted
    assert both.operations - weighted.operations <= 16, both
    assert both.reads == 0


@pytest.mark.parametrize("steps", [1, 4, 16])
@pytest.mark.parametrize("widths, most", [(LINEAR, 30), (NET, 50)], ids=["linear", "net"])
def test_an_epoch_is_its_steps(widths, most, steps):
    """One copy of the order to the device, then nothing beside the steps; nothing is read."""
    network, rows = Network(widths), _rows()
    objective = Objective(network, loss_named("softmax"), 1e-3)
    plan = MinibatchPlan(Momentum(), 0.1, 64 // steps, 5, "cosine", 0.0, None)
    theta = counted(np.ones(network.size))
    with counting() as tally:
        run_epoch(objective, rows, plan, theta, plan.rule.init(theta), np.arange(64), 1)
    assert tally.operations <= most * steps + 2, tally
    assert tally.reads == 0, tally


def _fit_tally(model, x=X, y=Y):
    rows = counted(x)
    with counting() as tally:
        model.fit(rows, y)
    return tally


@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize("solver", ["sgd", "momentum", "rmsprop", "adam"])
@pytest.mark.parametrize("cls", CLASSES)
def test_a_minibatch_fit_reads_one_number_an_epoch(cls, solver, batch_size):
    reads = []
    for epochs in (2, 3, 7):
        model = small(
            cls, solver=solver, max_iter=epochs, batch_size=batch_size, n_iter_no_change=99
        )
        reads.append(_fit_tally(model).reads)
    assert reads[1] - reads[0] == 1
    assert reads[2] - reads[1] == 4


def test_early_stopping_reads_three_numbers_an_epoch():
    """Objective, validation loss, validation accuracy."""
    reads = []
    for epochs in (2, 3):
        model = SoftmaxClassifier(
            solver="sgd", max_iter=epochs, n_iter_no_change=99, early_stopping=True, random_state=0
        )
        reads.append(_fit_tally(model).reads)
    assert reads[1] - reads[0] == 3


def _evaluations(monkeypatch, owner):
    seen = []
    original = owner.value_and_grad

    def watched(self, theta):
        seen.append(1)
        return original(self, theta)

    monkeypatch.setattr(owner, "value_and_grad", watched)
    return seen


def _eigenproblems(monkeypatch):
    """Those of the class curvature, which are small, and solved on the host: a read each."""
    seen = []
    original = spectral.eigh
    monkeypatch.setattr(spectral, "eigh", lambda matrix: seen.append(1) or original(matrix))
    return seen


@pytest.mark.parametrize("cls", [SoftmaxClassifier, TwoLayerClassifier])
def test_a_full_batch_fit_reads_once_an_evaluation(cls, monkeypatch):
    """Curvature and its eigenvectors, the line search and the stopping rule included."""
    from xclf.training import _settle, full_batch

    monkeypatch.setattr(full_batch, "NEWTON_AT", (1000, 1000))  # which goes on with host arrays
    monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)  # the next test
    seen, solved = _evaluations(monkeypatch, Problem), _eigenproblems(monkeypatch)
    proofs, certify = [], _settle.certify
    monkeypatch.setattr(_settle, "certify", lambda *args: proofs.append(1) or certify(*args))
    tol = {"tol": 1e-2} if cls is TwoLayerClassifier else {}
    model = small(cls, solver="lbfgs", max_iter=1000, **tol)
    tally = _fit_tally(model)
    assert model.n_iter_ >= 10
    # 6: X finite? start, and the like.
    assert tally.reads <= len(seen) + len(solved) + 6 + 2 * len(proofs), tally
    assert len(proofs) == (cls is SoftmaxClassifier)
    assert len(solved) <= 6  # the start, and iterations 5, 10, 20, 40, 80
    assert len(seen) <= 1.5 * model.n_iter_ + 5


def test_newton_cg_reads_once_a_product(monkeypatch):
    """And five times a step: objective, gradient's norms, class curvature, its end, its slope."""
    from xclf.training import full_batch, newton_cg

    monkeypatch.setattr(full_batch, "NEWTON_AT", (1000, 1000))
    taken, descend = [], newton_cg.descend

    def watched(*args):
        step, products = descend(*args)
        taken.append(int(products.max()))
        return step, products

    monkeypatch.setattr(newton_cg, "descend", watched)
    model = small(SoftmaxClassifier, max_iter=100)
    tally = _fit_tally(model)
    assert len(taken) == model.n_iter_ >= 5
    # 14: X finite? rotation, start, biases at the end, certificate, and the like.
    assert tally.reads <= 5 * len(taken) + sum(taken) + 14, tally


def test_a_full_batch_svm_reads_once_an_evaluation(monkeypatch):
    """And a few numbers more for every certificate: class flows, then the gap's terms."""
    from xclf.training._certificate import Certificate
    from xclf.training._smoothed_hinge import SmoothedHinge

    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
    seen, proofs = _evaluations(monkeypatch, SmoothedHinge), []
    solved = _eigenproblems(monkeypatch)
    original = Certificate.bound
    monkeypatch.setattr(Certificate, "bound", lambda self: proofs.append(1) or original(self))
    model = SVMClassifier(reg=1e-2)
    tally = _fit_tally(model)
    assert model.n_iter_ >= 10
    assert 1 <= len(proofs) <= 5
    assert tally.reads <= len(seen) + len(solved) + 6 + 6 * len(proofs), tally
    assert len(solved) <= len(seen) / 5  # once a round


def test_prediction_reads_only_whether_rows_are_finite():
    """And array-api-compat asks an array of a library it does not know whether it is lazy."""
    for cls in CLASSES:
        model = small(cls).fit(counted(X), Y)
        with counting() as tally:
            model.decision_function(counted(X))
        assert tally.reads == 2, tally
