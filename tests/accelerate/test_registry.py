"""The switch of accelerators: words, names, the environment, states, and what a fit gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from estimator_cases import blobs

import xclf
from xclf.accelerate import (
    MODES,
    VARIABLE,
    Accelerated,
    Accelerator,
    Request,
    _registry,
    accelerators,
    register,
    select,
)
from xclf.objectives import FORMULAS, Network, loss_named
from xclf.optim import Momentum


def _accelerator(name, *, default=True, missing=None, steps=None):
    return Accelerator(
        name,
        f"what {name} does",
        default=default,
        missing=lambda: missing,
        accelerate=lambda chosen, request: chosen._replace(steps=steps or name),
    )


@pytest.fixture
def two(monkeypatch, switched_on):
    """A switch with two accelerators, of which only the first is on by default."""
    monkeypatch.setattr(_registry, "_known", [])
    register(_accelerator("tried"), _accelerator("new", default=False))


def _request(rule=None, loss="softmax"):
    x = np.zeros((8, 3))
    return Request(
        x=x, dtype=x.dtype, network=Network((3, 2)), loss=loss_named(loss), n_rows=8, rule=rule
    )


def _on():
    return [one.name for one in accelerators() if one.state == "on"]


@pytest.mark.parametrize(
    "choice, on",
    [
        ("off", []),
        ("default", ["tried"]),
        ("all", ["tried", "new"]),
        ("new", ["new"]),
        ("tried,new", ["tried", "new"]),
        (" new , ", ["new"]),
        (["new"], ["new"]),
        (("tried", "new"), ["tried", "new"]),
        (["tried,new"], ["tried", "new"]),
    ],
)
def test_words_and_names(two, choice, on):
    assert [one.name for one in accelerators(choice) if one.state == "on"] == on
    assert _on() == on  # None changes nothing
    assert select(_request()).steps == (on[-1] if on else None)


@pytest.mark.parametrize(
    "value, on",
    [
        ("off", []),
        ("default", ["tried"]),
        ("", ["tried"]),
        ("all", ["tried", "new"]),
        ("new", ["new"]),
        ("new,tried", ["tried", "new"]),
    ],
)
def test_the_environment_counts_until_the_function_is_called(two, monkeypatch, value, on):
    monkeypatch.setenv(VARIABLE, value)
    assert _on() == on
    accelerators("new")
    assert _on() == ["new"]


@pytest.mark.parametrize("choice", ["none", "of", "tried,fast", ["all", "new"], [], ",", "off,all"])
def test_an_unknown_word_is_an_error_that_names_the_known_ones(two, choice, monkeypatch):
    with pytest.raises(ValueError, match=r"accelerators must be one of .*'off'.*'new', 'tried'"):
        accelerators(choice)
    assert _on() == ["tried"]  # and changes nothing
    monkeypatch.setenv(VARIABLE, choice if isinstance(choice, str) else ",".join(choice) or ",")
    with pytest.raises(ValueError, match=f"{VARIABLE} must be one of"):
        select(_request())


def test_states_say_why(two, monkeypatch):
    broken = _accelerator("broken")
    register(broken, _accelerator("absent", missing="no such library: pip install it"))
    states = {one.name: one for one in accelerators()}
    assert states["tried"] == ("tried", "on", "by default", "what tried does")
    assert states["new"].state == "off"
    assert "not by default" in states["new"].why
    assert states["broken"].state == "on"
    assert states["absent"][1:3] == ("unavailable", "no such library: pip install it")
    assert {one.why for one in accelerators("off")[:2]} == {"xclf.accelerators is 'off'"}
    assert accelerators("new")[0].why == "xclf.accelerators names new"
    monkeypatch.setattr(_registry, "_choice", None)
    monkeypatch.setenv(VARIABLE, "all")
    assert accelerators()[1].why == f"{VARIABLE} is 'all'"


def test_one_that_failed_stays_out_and_says_so(two):
    broken = _accelerator("broken", steps="wrong results")
    register(broken)
    assert select(_request()).steps == "wrong results"
    broken.disable("gave a wrong sum")
    assert select(_request()).steps == "tried"
    assert accelerators("all")[-1][1:3] == ("off", "gave a wrong sum")


def test_the_modes_are_those_of_the_documentation():
    assert MODES == ("off", "default", "all")
    for mode in MODES:
        assert f'"{mode}"' in accelerators.__doc__
    assert VARIABLE in accelerators.__doc__
    assert xclf.accelerators is accelerators


def test_the_accelerators_of_this_library(switched_on):
    states = {one.name: one for one in accelerators()}
    assert states["in_place_sums"].state == "on"
    assert all(state.summary for state in states.values())


@pytest.mark.parametrize("loss", ["softmax", "hinge"])
@pytest.mark.parametrize("rule", [None, Momentum()], ids=["full-batch", "minibatch"])
def test_off_is_the_formulas_alone(switched_on, monkeypatch, loss, rule):
    if rule is None:  # on NumPy minibatches are computed by the formulas
        assert select(_request(rule, loss)) != Accelerated()
    monkeypatch.setattr(_registry, "_choice", "off")
    assert select(_request(rule, loss)) == Accelerated(FORMULAS, None)


@pytest.mark.parametrize("solver", ["lbfgs", "nesterov"])
@pytest.mark.parametrize("cls", [xclf.SoftmaxClassifier, xclf.SVMClassifier])
def test_a_fit_computes_with_what_is_selected(switched_on, monkeypatch, cls, solver):
    """Off, no accelerator's code runs; and the result is the same."""
    seen = []
    real = _registry._known

    def watched(one):
        def accelerate(chosen, request):
            seen.append(one.name)
            return one.accelerate(chosen, request)

        return Accelerator(
            one.name, one.summary, default=one.default, missing=one.missing, accelerate=accelerate
        )

    monkeypatch.setattr(_registry, "_known", [watched(one) for one in real])
    x, y = blobs()
    model = cls(reg=0.1, solver=solver, max_iter=200, random_state=0)
    fast = model.fit(x, y).objective_
    assert "in_place_sums" in seen
    seen.clear()
    monkeypatch.setattr(_registry, "_choice", "off")
    assert model.fit(x, y).objective_ == pytest.approx(fast, rel=1e-6)
    assert seen == []


def test_accelerators_apply_in_order(two):
    """Each sees what those before it have chosen."""

    def wrap(chosen, request):
        return chosen._replace(operations=replace(FORMULAS, score=chosen.steps))

    register(
        Accelerator("last", "wraps", default=True, missing=lambda: None, accelerate=wrap),
    )
    assert select(_request()).operations.score == "tried"
