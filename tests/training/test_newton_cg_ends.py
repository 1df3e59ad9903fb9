"""Newton's method with conjugate gradients: directions without curvature, how exact a step is, when
a head ends, and where rows are worth rotating."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from backends import Backend
from estimator_cases import problem_on

from xclf.objectives import Network
from xclf.rows import MemoryBudget
from xclf.training import Monitor, full_batch, newton_cg
from xclf.training._newton_terms import descend, dots, terms_of
from xclf.training._rotated_rows import rotated_rows, rotation_in_passes
from xclf.training._settle import CONVERGED, ROUNDING, SLOW, promise

N, D, C = 24, 5, 3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, D)), np.arange(N) % C


def problem(reg=1e-2, bias=False, x=X):
    return problem_on(Backend.NUMPY, Network((x.shape[1], C), bias=bias), x, Y, reg=reg)


@pytest.fixture
def flat():
    """(terms, curvature, probabilities (C, N)) of rows whose second column is 0, without a penalty:
    nothing moves along it."""
    whole = problem(reg=0.0)
    terms = terms_of(whole, rotated_rows(whole))
    kept = np.arange(D) != 1
    terms = replace(
        terms, z=terms.z * kept, narrow=terms.narrow * kept, spectrum=terms.spectrum * kept
    )
    dscores = terms.value(RNG.normal(size=(1, C, D)))[1]
    return terms, terms.curvature(dscores), dscores[0] + terms.mask


def test_a_preconditioner_leaves_directions_without_curvature_as_they_are(flat):
    terms, curvature, p = flat
    scale = terms.preconditioner(curvature).scale
    assert np.array_equal(scale[..., 1], np.ones((1, C)))
    assert np.isfinite(scale).all()
    bent = np.delete(scale, 1, axis=-1)
    # The mean over rows of diag(p) - p p^T; what classes have in common has none, but a floor.
    mean = np.linalg.eigvalsh(np.diag(p.mean(axis=1)) - p @ p.T / N)
    want = 1.0 / (mean[1:, None] * np.delete(terms.spectrum, 1))
    np.testing.assert_allclose(bent[0, 1:], want, rtol=1e-10)


def test_no_step_is_taken_along_directions_without_curvature(flat):
    """A gradient there, which rounding may leave, has no minimum to go to."""
    terms, curvature, _ = flat
    grad = np.zeros((1, C, D))
    grad[0, 0, 1], grad[0, 1, 1] = 1.0, -1.0
    precondition = terms.preconditioner(curvature)
    step, _ = descend(terms, curvature, precondition, grad, np.zeros(1))
    assert np.array_equal(step, np.zeros((1, C, D)))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_products_with_the_hessian_are_linear_in_any_size(flat, size):
    """Float32 products of what is at most 1: nothing overflows or vanishes on the way."""
    terms, curvature, _ = flat
    v = RNG.normal(size=(1, C, D))
    one, other = (terms.hessian_product(curvature, part) for part in (v, size * v))
    # Two products of some dozens of terms, rounded to 6e-8 each.
    np.testing.assert_allclose(other, size * one, rtol=0, atol=1e-5 * size * np.abs(one).max())


def test_steps_solve_the_equations():
    whole = problem()
    terms = terms_of(whole, rotated_rows(whole))
    v = RNG.normal(size=(1, C, D))
    dscores = terms.value(v)[1]
    grad, curvature = terms.gradient(v, dscores), terms.curvature(dscores)
    precondition = terms.preconditioner(curvature)
    first = dots(grad, precondition(grad))
    step, products = descend(terms, curvature, precondition, grad, 1e-8 * first)
    left = grad + terms.hessian_product(curvature, step)
    assert dots(left, precondition(left)) <= 1.1e-8 * first
    assert products[0] <= D * C + 1


def group(**given):
    numbers = {"value": 2.0, "start": 5.0, "slope": -1e-9, "n_iter": 3, "products": 10.0}
    return SimpleNamespace(**{k: np.asarray([v]) for k, v in (numbers | given).items()})


def method(tol=1e-6, max_iter=100, most_products=np.inf):
    return SimpleNamespace(tol=tol, max_iter=max_iter, most_products=most_products)


def test_a_last_step_aims_at_a_fifth_of_what_is_to_be_met():
    """What a step leaves of the squared residual is its share of the gap's bound, a square too, and
    its root that of the gradient's norm."""
    tol, share = 1e-6, newton_cg._NewtonCG._share
    for gap, norm in ((1e-2, 1e-9), (1e-9, 1e-3), (1e-4, 1e-4), (3e-3, 3e-4)):
        head = group()
        got = share(method(tol), head, np.asarray([norm]), np.asarray([gap]), np.asarray([1.0]))
        of_gap = 0.5 * promise(tol) * head.value / gap
        of_norm = (tol * head.start / norm) ** 2
        want = np.clip(0.2 * np.minimum(of_gap, of_norm), newton_cg.CLOSE, newton_cg.FAR)
        np.testing.assert_allclose(got, want, rtol=1e-12)
    far = share(method(tol), group(slope=-1.0), *np.asarray([[1e-3], [1e-2], [1.0]]))
    assert far == newton_cg.FAR


def reason(head, norm, gain, gap, idle=False, **options):
    numbers = (np.asarray([each]) for each in (norm, gain, gap, idle))
    return str(newton_cg._NewtonCG._reasons(method(**options), head, *numbers)[0])


def test_a_head_has_converged_where_norm_gain_and_bound_are_small():
    """Within tol of the norm at zero weights and of the objective, and half of what is promised."""
    small = {"norm": 4.9e-6, "gain": 1.9e-6, "gap": 0.9e-6}
    assert reason(group(), **small) == CONVERGED
    for name, large in (("norm", 5.1e-6), ("gain", 2.1e-6), ("gap", 1.1e-6)):
        assert reason(group(), **small | {name: large}) == ""
    assert reason(group(), norm=0.0, gain=1.0, gap=1.0) == CONVERGED


def test_the_other_ends():
    large = {"norm": 1.0, "gain": 1.0, "gap": 1.0}
    assert reason(group(), **large) == ""
    assert reason(group(), **large | {"gain": np.nan}) == "the objective is not finite"
    assert reason(group(n_iter=100), **large) == "reached max_iter=100"
    assert reason(group(products=300.0), **large) == "reached max_iter=100"
    assert reason(group(products=10.0), **large, most_products=10) == SLOW
    assert reason(group(), **large, idle=True) == ROUNDING


def test_rounding_ends_a_fit_that_is_to_be_exact():
    """With a tolerance of 0 steps go on until one gains no more than rounding: quadratically soon,
    and no other is begun, which could only fail, without a gradient."""
    whole = problem(reg=1e-1, bias=True)
    start = np.zeros((1, whole.objective.network.size))
    monitor = Monitor((), "iteration", 1000)
    (result,) = newton_cg.fit_newton_cg(whole, start, 0.0, 1000, monitor)
    assert result.reason == ROUNDING
    assert result.n_iter <= 20
    assert result.grad_norm <= 1e-7
    value, grad = whole.value_and_grad(result.theta[None, :])
    assert np.abs(grad).max() <= 1e-7
    assert result.objective == pytest.approx(float(value[0]), rel=1e-14)


@pytest.mark.parametrize("shape", [(300, 300), (300, 600), (600, 300)])
@pytest.mark.parametrize("heads", [1, 7])
def test_what_a_rotation_costs_in_iterations(shape, heads):
    """In multiply-adds: of the second moment, and of its factors, 4 N D r + 10 r^3 with r the
    smaller number; an iteration takes two products for each head, 4 N D C, and the time of 5e7
    beside them. That of few rows takes no time."""
    n, d = shape
    r = min(shape)
    labels = np.arange(n) % C
    whole = problem_on(Backend.NUMPY, Network((d, C)), np.zeros(shape), labels)
    want = (4.0 * n * d * r + 10.0 * r**3) / (heads * 4.0 * n * d * C + 5e7)
    assert rotation_in_passes(whole, heads) == pytest.approx(want, rel=1e-12)
    few = problem_on(Backend.NUMPY, Network((d, C)), np.zeros((256, d)), labels[:256])
    assert rotation_in_passes(few, 1) == 0.0


def test_what_newton_cg_is_made_for(monkeypatch):
    """Few rows, a penalty, a smooth loss, memory for eight arrays of a head's scores; where it
    follows another method, products without TF32's rounding too."""
    n, labels = 200, np.arange(200) % C

    def made(size=None, precision=None, **options):
        whole = problem_on(Backend.NUMPY, Network((1, C)), np.ones((n, 1)), labels, **options)
        rows = replace(whole.rows, budget=MemoryBudget(size), precision=precision)
        return replace(whole, rows=rows)

    bytes_of_scores = 8 * 8 * n * C
    for problem, can in (
        (made(), True),
        (made(reg=0.0), False),
        (made(loss="squared_hinge"), True),
        (made(loss="hinge"), False),
        (made(bytes_of_scores * 10 // 8), True),  # of which a basis may take 0.8
        (made(bytes_of_scores * 10 // 8 - 2), False),
    ):
        assert newton_cg.can_fit(problem) == can
        assert full_batch._newton_may_follow(problem) == can
    assert newton_cg.can_fit(made(precision="tf32"))
    assert not full_batch._newton_may_follow(made(precision="tf32"))
    for most in (n, n - 1):
        monkeypatch.setattr(newton_cg, "MOST_ROWS", most)
        assert newton_cg.can_fit(made()) == (most == n)


def test_callbacks_hear_how_many_heads_go_on():
    heard = []
    monitor = Monitor((lambda event: heard.append(event.heads),), "iteration", 100)
    whole = problem(reg=np.asarray([1e-5, 1e-3, 1e-1]), bias=True)
    start = np.zeros((3, whole.objective.network.size))
    results = newton_cg.fit_newton_cg(whole, start, 1e-6, 100, monitor)
    assert all(one.converged for one in results)
    assert heard[0] == 3
    assert heard[-1] == 1
    assert heard == sorted(heard, reverse=True)


def test_a_start_is_held_against_zero_weights_once(monkeypatch):
    """By the norm of the gradient and the objective there, whatever steps follow."""
    asked, real = [], newton_cg.at_zero
    monkeypatch.setattr(newton_cg, "at_zero", lambda *at: asked.append(1) or real(*at))
    whole = problem(bias=True)
    start = RNG.normal(size=(1, whole.objective.network.size))
    monitor = Monitor((), "iteration", 100)
    (result,) = newton_cg.fit_newton_cg(whole, start, 1e-9, 100, monitor)
    assert result.n_iter > 3
    assert len(asked) == 2
