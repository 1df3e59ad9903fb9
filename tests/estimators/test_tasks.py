"""Labels of several columns: each task is the fit to its column; scikit-learn's conventions."""

from __future__ import annotations

import numpy as np
import pytest
from device_cases import gpus  # noqa: F401
from estimator_cases import CLASSES, blobs, layers_of, small
from pairwise import mostly_long
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.multioutput import MultiOutputClassifier
from sklearn.utils import get_tags

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, _array_api

N = 60
X, FIRST = blobs(N, 6, 4)
RNG = np.random.default_rng(3)
NAMES = np.array(["ash", "birch", "cedar", "elm"])
# Two tasks of four classes, which train in one pass, and one of two.
NUMBERS = np.stack([FIRST, np.where(RNG.uniform(size=N) < 0.3, 0, FIRST), FIRST % 2], axis=1)
MIXED = np.stack([NAMES[FIRST], *NUMBERS.T[1:]], axis=1).astype(object)
MIXED[:, 1:] = NUMBERS[:, 1:]
BITS = (FIRST[:, None] == np.arange(4)).astype(int)
WEIGHTS = RNG.uniform(0.2, 2.0, size=N)


def _assert_task(model, k, single, bound):
    """Task k of the model is the single model: parameters of equal steps, or objectives."""
    task = model.estimators_[k]
    np.testing.assert_array_equal(task.classes_, single.classes_)
    assert model.objective_[k] == pytest.approx(single.objective_, rel=bound)
    assert model.converged_[k] == single.converged_
    if not single.converged_:
        assert model.n_iter_[k] == single.n_iter_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # few steps
@mostly_long(
    cls=CLASSES,
    labels=["numbers", "mixed", "indicators"],
    solver=["lbfgs", "sgd", "nesterov", "adam"],
    class_weight=[None, "balanced"],
    weights=[None, WEIGHTS],
    options=[{}, {"standardize": True}, {"fit_intercept": False}, {"early_stopping": True}],
)
def test_each_task_is_a_single_fit(backend, cls, labels, solver, class_weight, weights, options):
    if solver == "lbfgs":
        options = {key: value for key, value in options.items() if key != "early_stopping"}
    y = {"numbers": NUMBERS, "mixed": MIXED, "indicators": BITS}[labels]
    settings = {"solver": solver, "class_weight": class_weight, "random_state": 0, **options}
    if solver != "lbfgs":
        settings |= {"max_iter": 4, "batch_size": 16, "learning_rate": 0.01}
    elif cls is TwoLayerClassifier:
        settings |= {"max_iter": 5}
    x = backend.asarray(X)
    model = small(cls, **settings)
    model.fit(x, y, weights)
    for k in range(y.shape[1]):
        single = small(cls, **settings)
        single.fit(x, y[:, k], weights)
        # A full-batch fit ends within 1e-6 of the optimum.
        _assert_task(model, k, single, 1e-6 if solver == "lbfgs" else 1e-9)
        if solver != "lbfgs":
            pair = (one.to_namespace(np) for one in (model.estimators_[k], single))
            for got, want in zip(*map(layers_of, pair), strict=True):
                # Rounding of products in float64, carried through 20 steps.
                np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-9 * abs(want[0]).max())
    assert model.predict(x).shape == y.shape


@pytest.mark.parametrize("cls", CLASSES)
def test_the_conventions_of_multi_output(backend, cls):
    x = backend.asarray(X)
    model = small(cls, random_state=0).fit(x, NUMBERS)
    peer = MultiOutputClassifier(small(cls, random_state=0)).fit(X, NUMBERS)
    for got, want in zip(model.classes_, peer.classes_, strict=True):
        np.testing.assert_array_equal(got, want)
    guess = model.predict(x)
    assert guess.shape == NUMBERS.shape
    assert model.score(x, NUMBERS) == np.all(backend.to_host(guess) == NUMBERS, axis=1).mean()
    if cls is not SVMClassifier:
        for got, want in zip(model.predict_proba(x), peer.predict_proba(X), strict=True):
            assert tuple(got.shape) == want.shape
        logs = model.predict_log_proba(x)
        np.testing.assert_allclose(
            np.exp(backend.to_host(logs[0])), backend.to_host(model.predict_proba(x)[0]), rtol=1e-6
        )
    assert [tuple(one.shape) for one in model.decision_function(x)] == [(N, 4), (N, 4), (N,)]
    for name in ("n_iter_", "objective_", "converged_"):
        assert getattr(model, name).shape == (3,)
    assert len(model.loss_curve_) == 3
    assert len(getattr(model, "weights_" if cls is TwoLayerClassifier else "coef_")) == 3


@pytest.mark.parametrize("cls", CLASSES)
def test_the_conventions_of_multi_label_indicators(backend, cls):
    x = backend.asarray(X)
    model = small(cls, random_state=0).fit(x, BITS.astype(bool))
    guess = model.predict(x)
    np.testing.assert_array_equal(model.classes_, np.arange(4))
    assert set(np.unique(backend.to_host(guess))) <= {0, 1}
    assert tuple(model.decision_function(x).shape) == (N, 4)
    np.testing.assert_array_equal(
        backend.to_host(model.decision_function(x)) > 0, backend.to_host(guess) == 1
    )
    if cls is not SVMClassifier:
        p = backend.to_host(model.predict_proba(x))
        assert p.shape == (N, 4)
        np.testing.assert_array_equal(p > 0.5, backend.to_host(guess) == 1)
    assert model.score(x, BITS) == np.all(backend.to_host(guess) == BITS, axis=1).mean()
    assert 0.0 <= model.score(x, BITS, WEIGHTS) <= 1.0


def test_data_frames_keep_the_kinds_of_their_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"tree": NAMES[FIRST], "odd": FIRST % 2 == 1, "number": FIRST})
    model = SoftmaxClassifier(reg=1e-2).fit(X, frame)
    assert [classes.dtype.kind for classes in model.classes_] == ["O", "b", "i"]
    guess = model.predict(X)
    assert guess.dtype == object
    assert {type(value) for value in guess[0]} == {str, bool, int}
    assert model.score(X, frame) > 0.9
    frame["odd"] = True
    with pytest.raises(ValueError, match="column 'odd' of y must hold at least two classes"):
        clone(model).fit(X, frame)


def test_one_warning_for_all_tasks():
    with pytest.warns(ConvergenceWarning) as heard:
        SoftmaxClassifier(reg=1e-2, max_iter=2).fit(X, NUMBERS)
    (one,) = heard
    assert "3 of 3 tasks did not converge; the first: " in str(one.message)
    assert "SoftmaxClassifier did not converge on column 0 of y: " in str(one.message)
    assert one.filename == __file__


def test_lists_are_rows():
    rows = [[NAMES[k], int(k)] for k in FIRST]
    model = SVMClassifier(reg=1e-2).fit(X, rows)
    assert [classes.tolist() for classes in model.classes_] == [NAMES.tolist(), [0, 1, 2, 3]]
    assert model.score(X, rows) == model.score(X, np.asarray(rows, dtype=object))


def test_one_column_of_two_dimensions_is_labels_of_one_task():
    with pytest.warns(DataConversionWarning):
        model = SoftmaxClassifier(reg=1e-2).fit(X, FIRST[:, None])
    assert model.predict(X).shape == (N,)
    assert not hasattr(model, "estimators_")


def test_a_model_that_is_fitted_again_forgets_its_tasks():
    model = SoftmaxClassifier(reg=1e-2).fit(X, NUMBERS)
    model.fit(X, FIRST)
    want = SoftmaxClassifier(reg=1e-2).fit(X, FIRST)
    np.testing.assert_array_equal(model.coef_, want.coef_)
    assert sorted(vars(model)) == sorted(vars(want))


def test_a_failed_fit_leaves_the_model_as_it_was():
    model = SoftmaxClassifier(reg=1e-2).fit(X, NUMBERS)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="column 1 of y contains NaN"):
        model.fit(X, np.where(np.arange(3) == 1, np.nan, NUMBERS.astype(float)))
    assert vars(model) == before


@pytest.mark.parametrize("cls", CLASSES)
def test_warm_starts_go_on_task_by_task(cls):
    model = small(cls, random_state=0, warm_start=True, solver="adam", max_iter=2)
    model.fit(X, NUMBERS).fit(X, NUMBERS)
    for k in range(3):
        single = clone(model).fit(X, NUMBERS[:, k]).fit(X, NUMBERS[:, k])
        assert model.objective_[k] == pytest.approx(single.objective_, rel=1e-9)
    cold = clone(model).fit(X, NUMBERS)
    assert (model.objective_ < cold.objective_).all()


def test_a_warm_start_needs_the_same_tasks():
    model = SoftmaxClassifier(reg=1e-2, warm_start=True).fit(X, NUMBERS)
    want = SoftmaxClassifier(reg=1e-2).fit(X, NUMBERS[:, 1:])
    assert (model.fit(X, NUMBERS).n_iter_ <= 2).all()
    np.testing.assert_array_equal(model.fit(X, NUMBERS[:, 1:]).coef_[1], want.coef_[1])


def test_partial_fit_names_the_way():
    model = SoftmaxClassifier()
    for y in (NUMBERS, BITS):
        with pytest.raises(ValueError, match="a model for each column"):
            model.partial_fit(X, y, classes=[0, 1])
    assert not hasattr(model, "classes_")


def test_scores_need_as_many_columns():
    model = SoftmaxClassifier(reg=1e-2).fit(X, NUMBERS)
    with pytest.raises(ValueError, match="3 tasks, y 2 columns"):
        model.score(X, NUMBERS[:, :2])
    with pytest.raises(ValueError, match="3 tasks, y 1 columns"):
        model.score(X, FIRST)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # five iterations
@pytest.mark.usefixtures("gpus", "every_problem_is_large")
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("device", ["gpu", ("gpu", "gpu2")])
@pytest.mark.parametrize("cls", CLASSES)
def test_labels_travel_with_rows(monkeypatch, cls, device, resident):
    """To one device and to several, where X fits, and where it is sent in every pass."""
    if not resident:
        monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)
    options = {"solver": "lbfgs", "reg": 1e-2, "random_state": 1, "class_weight": "balanced"}
    want = small(cls, **options, max_iter=5).fit(X, NUMBERS)
    got = small(cls, **options, max_iter=5, device=device).fit(X, NUMBERS)
    np.testing.assert_allclose(got.objective_, want.objective_, rtol=1e-9)
    np.testing.assert_array_equal(_array_api.to_host(got.predict(X)), want.predict(X))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("cls", CLASSES)
def test_minibatches_of_streamed_rows_have_their_labels(monkeypatch, cls):
    monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)
    options = {"solver": "momentum", "random_state": 1, "max_iter": 2, "batch_size": 16}
    options |= {"early_stopping": True, "learning_rate": 0.01}
    want = small(cls, **options).fit(X, NUMBERS)
    got = small(cls, **options, device="gpu").fit(X, NUMBERS)
    np.testing.assert_allclose(got.objective_, want.objective_, rtol=1e-9)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("y", [MIXED, BITS], ids=["mixed", "indicators"])
def test_files_hold_every_task(tmp_path, cls, y):
    model = small(cls, random_state=0).fit(X, y)
    model.save(tmp_path / "model.safetensors")
    loaded = xclf.load(tmp_path / "model.safetensors")
    assert type(loaded) is cls
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    for got, want in zip(loaded.classes_, model.classes_, strict=True):
        np.testing.assert_array_equal(got, want)
    for name in ("objective_", "n_iter_", "converged_", "grad_norm_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))


def test_models_move_with_all_tasks(backend):
    model = SoftmaxClassifier(reg=1e-2).fit(X, NUMBERS)
    moved = model.to_namespace(backend.xp, device=backend.device)
    x = backend.asarray(X)
    np.testing.assert_array_equal(backend.to_host(moved.predict(x)), model.predict(X))
    assert moved.coef_[0] is moved.estimators_[0].coef_


def test_memory_is_bounded_by_parts_of_the_tasks(monkeypatch):
    """With memory for few heads the tasks train in several passes, to the same end."""
    from xclf.estimators import _together

    y = np.stack([RNG.permutation(4)[FIRST] for _ in range(6)], axis=1)
    want = SoftmaxClassifier(reg=1e-2).fit(X, y)
    sizes = []
    fit = _together.fit_heads

    def counted(placed, heads, **options):
        sizes.append(len(heads))
        return fit(placed, heads, **options)

    monkeypatch.setattr(_together, "fit_heads", counted)
    monkeypatch.setattr(_together, "heads_at_once", lambda placed, head, sets, levels, beside: 4)
    got = SoftmaxClassifier(reg=1e-2).fit(X, y)
    assert sizes == [4, 2]
    np.testing.assert_allclose(got.objective_, want.objective_, rtol=1e-6)


def test_ctrl_c_keeps_the_tasks_of_the_only_pass():
    def press(event):
        if event.step == 3:
            raise KeyboardInterrupt

    model = SoftmaxClassifier(reg=1e-4, callbacks=[press])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, NUMBERS[:, :2])
    assert model.n_iter_.tolist() == [3, 3]
    assert not model.converged_.any()
    other = SoftmaxClassifier(reg=1e-4, callbacks=[press])
    with pytest.raises(KeyboardInterrupt):
        other.fit(X, NUMBERS)  # of two passes, the second of which never begins
    assert not hasattr(other, "classes_")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_may_leave_a_task_with_one_class():
    weights = (FIRST % 2 == 1).astype(float)
    for cls in (SoftmaxClassifier, SVMClassifier):
        model = cls(reg=1e-2).fit(X, NUMBERS, weights)
        for k in range(3):
            single = cls(reg=1e-2).fit(X, NUMBERS[:, k], weights)
            assert model.objective_[k] == pytest.approx(single.objective_, rel=1e-6, abs=1e-12)
            np.testing.assert_array_equal(model.predict(X)[:, k], single.predict(X))


def test_tags():
    for cls in CLASSES:
        tags = get_tags(cls())
        assert tags.target_tags.multi_output
        assert tags.classifier_tags.multi_label
