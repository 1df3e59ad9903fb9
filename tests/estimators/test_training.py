"""Seeds, early stopping, callbacks, Ctrl-C, warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from estimator_cases import CLASSES, MINIBATCH, blobs, layers_of, small
from sklearn.exceptions import ConvergenceWarning

from xclf import Event, SoftmaxClassifier, SVMClassifier, TwoLayerClassifier

X, Y = blobs(60, 5, 3)
classes_ = pytest.mark.parametrize("cls", CLASSES)
linear_ = pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
solvers_ = pytest.mark.parametrize("solver", MINIBATCH)


def _flat(model):
    return np.concatenate([a.ravel() for layer in layers_of(model) for a in layer])


# --- seeds -----------------------------------------------------------------------------------


@classes_
@solvers_
def test_the_same_seed_repeats_bit_for_bit(cls, solver):
    one, two, other = (
        small(cls, solver=solver, max_iter=3, batch_size=7, random_state=s).fit(X, Y)
        for s in (5, 5, 6)
    )
    np.testing.assert_array_equal(_flat(one), _flat(two))
    assert one.history_["loss"] == two.history_["loss"]
    assert not np.array_equal(_flat(one), _flat(other))


def test_random_states_of_every_kind():
    fits = []
    for state in (np.random.default_rng(3), np.random.default_rng(3), 3):
        fits.append(_flat(small(TwoLayerClassifier, random_state=state).fit(X, Y)))
    np.testing.assert_array_equal(fits[0], fits[1])
    np.testing.assert_array_equal(fits[0], fits[2])
    legacy = [np.random.RandomState(3) for _ in range(2)]
    a, b = (_flat(small(TwoLayerClassifier, random_state=s).fit(X, Y)) for s in legacy)
    np.testing.assert_array_equal(a, b)
    again = _flat(small(TwoLayerClassifier, random_state=legacy[0]).fit(X, Y))
    assert not np.array_equal(a, again)  # it has moved on, as scikit-learn's tools expect
    none = [_flat(small(TwoLayerClassifier, random_state=None).fit(X, Y)) for _ in range(2)]
    assert not np.array_equal(*none)


def test_the_net_starts_from_he_normal_weights():
    x, y = np.zeros((4, 400)), np.array([0, 1, 2, 0])
    net = TwoLayerClassifier(300, max_iter=1, learning_rate=1e-30, random_state=0).fit(x, y)
    assert net.weights_["w1"].std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert net.weights_["w2"].std() == pytest.approx(np.sqrt(1 / 300), rel=0.1)
    assert abs(net.weights_["w1"].mean()) < 1e-3
    assert np.abs(net.weights_["b1"]).max() < 1e-20


@classes_
@solvers_
def test_the_scale_of_weights_does_not_matter_in_minibatches(cls, solver):
    """They are divided by their mean: the learning rate means the same with and without."""
    weights = np.random.default_rng(0).uniform(0.5, 1.5, size=60)
    one, other = (
        small(cls, solver=solver, max_iter=3, batch_size=7, random_state=0).fit(
            X, Y, sample_weight=scale * weights
        )
        for scale in (1.0, 1024.0)
    )
    np.testing.assert_array_equal(_flat(one), _flat(other))


def test_one_step_over_all_rows_is_the_rate_times_the_weighted_mean():
    """From zero weights every class has probability 1/3: the gradient is written out."""
    weights = np.random.default_rng(0).uniform(0.0, 5.0, size=60)
    model = SoftmaxClassifier(solver="sgd", batch_size=60, max_iter=1, learning_rate=0.1)
    model.fit(X, Y, sample_weight=weights)
    gradient = (1 / 3 - np.eye(3)[Y]) * (weights / weights.sum())[:, None]
    np.testing.assert_allclose(model.coef_, -0.1 * gradient.T @ X, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        model.intercept_, -0.1 * gradient.sum(axis=0), rtol=1e-12, atol=1e-15
    )


# --- stopping --------------------------------------------------------------------------------


@classes_
@solvers_
def test_a_fit_that_has_ended_draws_no_more_batches(cls, solver):
    """Converged, or stopped by a callback: the generator is where as many epochs leave it."""
    options = {"solver": solver, "batch_size": 7}
    for more in ({"tol": 1e9, "n_iter_no_change": 2}, {"callbacks": [lambda event: True]}):
        ended, whole = np.random.default_rng(0), np.random.default_rng(0)
        model = small(cls, random_state=ended, max_iter=9, **options | more).fit(X, Y)
        assert model.n_iter_ < 9
        small(cls, random_state=whole, max_iter=model.n_iter_, **options).fit(X, Y)
        assert ended.bit_generator.state == whole.bit_generator.state


@classes_
def test_early_stopping_keeps_the_best_epoch(cls):
    model = small(
        cls, solver="sgd", learning_rate=1.0, early_stopping=True, max_iter=60,
        n_iter_no_change=5, validation_fraction=0.25, random_state=0,
    ).fit(X, Y)  # fmt: skip
    seen = model.history_["val_accuracy"]
    assert all(0 <= value <= 1 for value in seen)
    assert all(math.isfinite(value) for value in model.history_["val_loss"])
    assert model.n_iter_ == len(seen) <= 60
    if model.converged_:
        assert len(seen) < 60
        assert max(seen[-5:]) <= max(seen[:-5]) + 1e-4
    # 15 held-out rows: the kept parameters, not the last ones, have the best accuracy. No test can
    # see which rows; the whole accuracy must be near it.
    assert model.score(X, Y) >= max(seen) - 0.34


def test_early_stopping_needs_rows_of_every_class():
    with pytest.raises(ValueError, match=r"early_stopping cannot hold out validation_fraction=0.1"):
        SoftmaxClassifier(solver="adam", early_stopping=True).fit(X[:6], [0, 1, 2, 3, 4, 5])


@classes_
def test_callbacks_hear_every_step_and_may_stop(cls):
    heard = []
    model = small(cls, callbacks=[heard.append, lambda event: event.step == 3]).fit(X, Y)
    assert [event.step for event in heard] == [1, 2, 3]
    assert all(isinstance(event, Event) for event in heard)
    unit = "epoch" if cls is TwoLayerClassifier else "iteration"
    assert {event.unit for event in heard} == {unit}
    assert [event.objective for event in heard] == model.history_["loss"]
    assert model.n_iter_ == 3
    assert not model.converged_  # and no warning: it was asked for


@classes_
@pytest.mark.parametrize("solver", ["auto", "adam"])
def test_ctrl_c_leaves_a_fitted_model(cls, solver):
    def interrupt(event):
        if event.step == 3:
            raise KeyboardInterrupt

    model = small(cls, solver=solver, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    assert model.predict(X).shape == (60,)
    assert not model.converged_
    assert model.n_iter_ == len(model.history_["loss"]) == 3
    start = small(cls, solver="sgd", learning_rate=1e-300, max_iter=1).fit(X, Y).objective_
    assert model.objective_ < start


@classes_
def test_a_failing_callback_leaves_the_model_as_it_was(cls):
    def fail(event):
        if event.step == 2:
            raise RuntimeError("mine")

    model = small(cls, callbacks=[fail])
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(X, Y)
    assert not hasattr(model, "classes_")
    model.set_params(callbacks=None).fit(X, Y)
    before = dict(model.__dict__)
    model.callbacks = [fail]
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(X[:30], Y[:30] % 2)
    model.callbacks = None
    assert model.__dict__ == before


# --- warnings --------------------------------------------------------------------------------


@linear_
def test_a_fit_that_was_cut_short_says_so(cls):
    with pytest.warns(ConvergenceWarning) as caught:
        model = cls(max_iter=2).fit(X, Y)
    assert not model.converged_
    assert model.n_iter_ == 2
    (message,) = {str(w.message) for w in caught}
    for part in (cls.__name__, "reached max_iter=2", "objective 0.", "gradient", "tol", "raise"):
        assert part in message
    assert caught[0].filename == __file__  # it points at the caller's line


def test_running_all_epochs_is_no_reason_to_warn():
    model = SoftmaxClassifier(solver="sgd", max_iter=2).fit(X, Y)
    assert not model.converged_


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_learning_rate_that_is_too_large_says_so():
    with pytest.warns(ConvergenceWarning, match="not finite.*lower learning_rate"):
        SoftmaxClassifier(solver="sgd", learning_rate=1e300).fit(X, Y)


UNUSED = [
    (SoftmaxClassifier, {"batch_size": 9}, "solver 'lbfgs' does not use batch_size"),
    (SoftmaxClassifier, {"learning_rate": 0.1}, "does not use learning_rate"),
    (SVMClassifier, {"lr_schedule": "cosine"}, "does not use lr_schedule"),
    (SVMClassifier, {"early_stopping": True}, "does not use early_stopping"),
    (SVMClassifier, {"n_iter_no_change": 4, "momentum": 0.5}, "n_iter_no_change, momentum"),
    (TwoLayerClassifier, {"momentum": 0.5}, "solver 'adam' does not use momentum"),
    (
        TwoLayerClassifier,
        {"validation_fraction": 0.2},
        "validation_fraction without early_stopping",
    ),
]


@pytest.mark.parametrize("cls, parameters, message", UNUSED)
def test_a_parameter_without_effect_warns(cls, parameters, message):
    with pytest.warns(UserWarning, match=message) as caught:
        small(cls, **parameters).fit(X, Y)
    assert len(caught) == 1
    assert cls.__name__ in str(caught[0].message)
    assert caught[0].filename == __file__


def test_verbose_prints_a_line(capsys):
    SoftmaxClassifier(solver="adam", max_iter=5, verbose=2, early_stopping=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    assert all("objective" in line and "val accuracy" in line for line in lines)
    SoftmaxClassifier(verbose=True, reg=1.0).fit(X, Y)
    assert capsys.readouterr().out.startswith("iteration 1/1000  objective ")
    SoftmaxClassifier().fit(X, Y)
    assert capsys.readouterr().out == ""
