"""Warm starts, and learning in parts."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_cases import CLASSES, MINIBATCH, blobs, layers_of, small

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier

X, Y = blobs(60, 5, 3)
classes_ = pytest.mark.parametrize("cls", CLASSES)
linear_ = pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
solvers_ = pytest.mark.parametrize("solver", MINIBATCH)


def _flat(model):
    return np.concatenate([a.ravel() for layer in layers_of(model) for a in layer])


# --- warm starts -----------------------------------------------------------------------------


@linear_
def test_a_warm_start_takes_fewer_iterations(cls):
    model = cls(reg=1e-3, warm_start=True).fit(X, Y)
    cold = model.n_iter_
    best = model.objective_
    model.fit(X, Y)
    assert model.n_iter_ < cold
    assert model.objective_ == pytest.approx(best, rel=1e-5)
    model.set_params(reg=1.1e-3).fit(X, Y)
    near = cls(reg=1.1e-3).fit(X, Y)
    assert model.objective_ == pytest.approx(near.objective_, rel=1e-5)
    assert len(model.history_["loss"]) == model.n_iter_ or model.n_iter_ == 1


@classes_
@pytest.mark.parametrize("standardize", [False, True])
def test_a_warm_start_begins_where_the_last_fit_ended(cls, standardize):
    """A step of length 0 leaves the fitted model as it was, in raw coordinates too."""
    model = small(cls, solver="sgd", warm_start=True, standardize=standardize, max_iter=5)
    before = _flat(model.fit(X, Y))
    model.set_params(learning_rate=1e-300, max_iter=1).fit(X, Y)
    np.testing.assert_allclose(_flat(model), before, rtol=1e-12, atol=1e-14)


@classes_
def test_without_warm_start_every_fit_begins_anew(cls):
    model = small(cls, random_state=0)
    first = _flat(model.fit(X, Y))
    model.fit(X[:30], Y[:30])
    np.testing.assert_array_equal(_flat(model.fit(X, Y)), first)


@classes_
def test_classes_that_persist_keep_their_weights(cls):
    """1 and 2 go on, 0 is gone, 7 starts at zero."""
    model = small(cls, solver="sgd", warm_start=True).fit(X, Y)
    before = layers_of(model)
    labels = np.where(Y == 0, 7, Y)
    model.set_params(learning_rate=1e-300, max_iter=1).fit(X, labels)
    assert model.classes_.tolist() == [1, 2, 7]
    after = layers_of(model)
    for (w, b), (old_w, old_b) in zip(after[:-1], before[:-1], strict=True):
        np.testing.assert_allclose(w, old_w, rtol=1e-12)
        np.testing.assert_allclose(b, old_b, rtol=1e-12)
    np.testing.assert_allclose(after[-1][0][:2], before[-1][0][1:], rtol=1e-12)
    np.testing.assert_allclose(after[-1][1][:2], before[-1][1][1:], rtol=1e-12)
    np.testing.assert_allclose(after[-1][0][2], 0.0, atol=1e-200)


@classes_
def test_from_two_classes_to_three_and_back(cls):
    model = small(cls, warm_start=True)
    for labels in (Y % 2, Y, Y % 2):
        model.fit(X, labels)
        assert model.classes_.tolist() == sorted(set(labels.tolist()))
        assert model.score(X, labels) > 0.5


@classes_
def test_another_shape_has_nothing_to_go_on_from(cls):
    model = small(cls, warm_start=True, random_state=0).fit(X, Y)
    model.fit(X[:, :3], Y)
    want = small(cls, random_state=0).fit(X[:, :3], Y)
    np.testing.assert_array_equal(_flat(model), _flat(want))
    assert model.n_features_in_ == 3


def test_another_hidden_width_has_nothing_to_go_on_from():
    model = small(TwoLayerClassifier, warm_start=True, random_state=0).fit(X, Y)
    model.set_params(hidden=5).fit(X, Y)
    want = small(TwoLayerClassifier, hidden=5, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(_flat(model), _flat(want))


@classes_
def test_a_warm_start_without_intercept_drops_it(cls):
    model = small(cls, warm_start=True).fit(X, Y)
    model.set_params(fit_intercept=False).fit(X, Y)
    for _, b in layers_of(model):
        assert not np.any(b)


# --- partial_fit -----------------------------------------------------------------------------


def _parts(model, parts=4, **options):
    for part in range(parts):
        model.partial_fit(X[part::parts], Y[part::parts], classes=[0, 1, 2], **options)
    return model


@classes_
@solvers_
def test_parts_are_the_epochs_of_a_fit(cls, solver):
    """partial_fit on all rows, four times, is a fit of four epochs, bit for bit."""
    options = {"solver": solver, "batch_size": 7, "random_state": 3}
    whole = small(cls, max_iter=4, **options).fit(X, Y)
    model = small(cls, **options)
    for _ in range(4):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_array_equal(_flat(model), _flat(whole))
    assert model.n_iter_ == 4
    assert model.history_["loss"] == whole.history_["loss"]
    assert {len(v) for v in model.history_.values()} == {4}


@classes_
def test_auto_learns_in_parts_by_adam(cls):
    auto, adam = (_parts(small(cls, solver=solver, random_state=0)) for solver in ("auto", "adam"))
    np.testing.assert_array_equal(_flat(auto), _flat(adam))


@classes_
def test_parts_may_lack_classes(cls):
    model = small(cls, random_state=0, learning_rate=0.1)
    order = np.argsort(Y, kind="stable")
    model.partial_fit(X[order[:20]], Y[order[:20]], classes=[2, 0, 1])  # class 0 alone
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.decision_function(X).shape == (60, 3)
    for _ in range(30):
        model.partial_fit(X[order[20:]], Y[order[20:]])
        model.partial_fit(X[order[:20]], Y[order[:20]])
    assert model.score(X, Y) > 0.8


@classes_
def test_two_classes_in_parts(cls):
    model = small(cls, random_state=0)
    for _ in range(3):
        model.partial_fit(X, Y % 2, classes=[0, 1])
    assert model.decision_function(X).shape == (60,)
    whole = small(cls, solver="adam", max_iter=3, random_state=0).fit(X, Y % 2)
    # coef_ = w1 - w0 is kept, and split evenly again: halves that Adam treats alike.
    np.testing.assert_allclose(_flat(model), _flat(whole), rtol=1e-6, atol=1e-9)


@classes_
def test_weights_mean_the_same_in_every_part(cls):
    """Twice the weight on a part is twice the gradient: not divided out by the part's own mean."""
    options = {"solver": "sgd", "random_state": 0, "reg": 0.0}
    double = small(cls, learning_rate=0.01, **options)
    double.partial_fit(X, Y, classes=[0, 1, 2], sample_weight=np.full(60, 2.0))
    faster = small(cls, learning_rate=0.02, **options).partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_allclose(_flat(double), _flat(faster), rtol=1e-10, atol=1e-12)


@linear_
def test_class_weights_in_parts(cls):
    weight = {0: 2.0, 1: 1.0, 2: 0.5}
    got = _parts(cls(class_weight=weight, random_state=0))
    want = cls(random_state=0)
    for part in range(4):
        y = Y[part::4]
        rows = np.array([weight[label] for label in y.tolist()])
        want.partial_fit(X[part::4], y, classes=[0, 1, 2], sample_weight=rows)
    np.testing.assert_allclose(got.coef_, want.coef_, rtol=1e-10)


@classes_
def test_parts_after_a_fit_go_on_from_it(cls):
    model = small(cls, reg=1e-2).fit(X, Y)
    before, iterations = _flat(model), model.n_iter_
    model.set_params(learning_rate=1e-300).partial_fit(X, Y)
    np.testing.assert_allclose(_flat(model), before, rtol=1e-12)
    assert model.n_iter_ == iterations + 1
    assert {len(v) for v in model.history_.values()} == {len(model.history_["loss"])}


@classes_
def test_a_fit_forgets_the_parts(cls):
    model = _parts(small(cls, random_state=0))
    model.fit(X, Y)
    np.testing.assert_array_equal(_flat(model), _flat(small(cls, random_state=0).fit(X, Y)))


@classes_
def test_a_change_of_solver_between_parts_starts_its_own_state(cls):
    model = small(cls, solver="adam", random_state=0).partial_fit(X, Y, classes=[0, 1, 2])
    model.set_params(solver="momentum").partial_fit(X, Y)
    model.set_params(solver="adam").partial_fit(X, Y)
    assert model.n_iter_ == 3
    assert np.isfinite(_flat(model)).all()


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"standardize": True}, "partial_fit does not support standardize=True"),
        ({"early_stopping": True}, "partial_fit does not support early_stopping=True"),
        ({"class_weight": "balanced"}, "partial_fit does not support class_weight='balanced'"),
        ({"lr_schedule": "cosine"}, "lr_schedule='cosine': it needs the number of epochs"),
        ({"lr_schedule": "exponential"}, "partial_fit does not support lr_schedule='exponential'"),
    ],
)
@classes_
def test_what_needs_all_rows_or_epochs(cls, parameters, message):
    model = small(cls, **parameters)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    assert not hasattr(model, "classes_")
    model.set_params(**dict.fromkeys(parameters, cls().get_params()[next(iter(parameters))]))
    assert model.partial_fit(X, Y, classes=[0, 1, 2])


#: What every call takes, or the first, with values that are not those of `START`.
START = {"random_state": 0, "batch_size": 30, "solver": "momentum", "learning_rate": 0.1}
TAKEN = {
    "reg": 3.0, "fit_intercept": False, "solver": "rmsprop", "batch_size": 7,
    "learning_rate": 0.3, "momentum": 0.5, "random_state": 8,
    "class_weight": {0: 3.0, 1: 1.0, 2: 1.0},
}  # fmt: skip
OWN = {SVMClassifier: {"margin": 0.1}, TwoLayerClassifier: {"loss": "hinge", "hidden": 9}}
#: What only says when `fit` stops, and where it starts.
OF_FIT = {"max_iter": 3, "tol": 0.5, "n_iter_no_change": 1, "warm_start": True}


@classes_
def test_which_parameters_a_part_takes(cls):
    """None is passed over in silence: it does something, is refused, or is told to be `fit`'s."""
    plain = _flat(_parts(small(cls, **START)))
    for name, value in (TAKEN | OWN.get(cls, {})).items():
        other = _flat(_parts(small(cls, **START | {name: value})))
        assert other.shape != plain.shape or not np.array_equal(other, plain), name
    for name, value in OF_FIT.items():
        np.testing.assert_array_equal(_flat(_parts(small(cls, **START | {name: value}))), plain)
    for name in cls().get_params():
        if name != "solver":
            assert name in cls.partial_fit.__doc__


@classes_
def test_a_parameter_without_effect_warns_in_parts(cls):
    with pytest.warns(UserWarning, match="solver 'adam' does not use momentum") as caught:
        small(cls, momentum=0.5).partial_fit(X, Y, classes=[0, 1, 2])
    assert [one.filename for one in caught] == [__file__]


@classes_
def test_classes_of_parts(cls):
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        small(cls).partial_fit(X, Y)
    with pytest.raises(ValueError, match="one class only"):
        small(cls).partial_fit(X, Y, classes=[1])
    model = small(cls).partial_fit(X, Y, classes=[0, 1, 2])
    model.partial_fit(X, Y, classes=np.array([2, 1, 0]))
    with pytest.raises(ValueError, match="differs from the classes of the first call"):
        model.partial_fit(X, Y, classes=[0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"not among the classes of this model: \[5\]"):
        model.partial_fit(X, np.where(Y == 0, 5, Y))


@classes_
def test_full_batch_solvers_do_not_learn_in_parts(cls):
    assert not hasattr(small(cls, solver="lbfgs"), "partial_fit")
    assert hasattr(small(cls), "partial_fit")


@classes_
def test_a_failing_part_leaves_model_and_history_as_they_were(cls):
    model = _parts(small(cls, random_state=0))
    before, lengths = _flat(model), {len(v) for v in model.history_.values()}
    model.callbacks = [lambda event: 1 / 0]
    with pytest.raises(ZeroDivisionError):
        model.partial_fit(X, Y)
    np.testing.assert_array_equal(_flat(model), before)
    assert {len(v) for v in model.history_.values()} == lengths == {model.n_iter_}


@classes_
def test_a_refused_part_leaves_no_trace(cls):
    model = _parts(small(cls, random_state=0))
    before = dict(model.__dict__)
    with pytest.raises(ValueError, match="infinity"):
        model.partial_fit(np.where(X > 1, np.inf, X), Y)
    assert model.__dict__ == before
    fresh = small(cls)
    with pytest.raises(ValueError, match="not among the classes"):
        fresh.partial_fit(X, Y, classes=[0, 1])
    assert not hasattr(fresh, "classes_")
    assert not hasattr(fresh, "n_features_in_")
