"""Cases that went wrong once, each kept as a test of what users see."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning

import xclf
from xclf.rows import blas_threads

X, Y = load_iris(return_X_y=True)


def test_balanced_weights_with_a_class_that_has_none():
    weights = np.where(Y == 2, 0.0, 1.0)
    model = xclf.SoftmaxClassifier(reg=1e-2, class_weight="balanced")
    model.fit(X, Y, sample_weight=weights)
    two = xclf.SoftmaxClassifier(reg=1e-2).fit(X[Y < 2], Y[Y < 2])
    assert np.isfinite(model.objective_)
    assert np.array_equal(model.predict(X[Y < 2]), two.predict(X[Y < 2]))


def test_a_fold_without_a_rare_class_takes_the_same_class_weights():
    model = xclf.SoftmaxClassifier(class_weight={0: 1.0, 1: 2.0, 2: 3.0})
    model.fit(X[Y < 2], Y[Y < 2])
    with pytest.raises(ValueError, match="class_weight names"):
        xclf.SoftmaxClassifier(class_weight={0: 1.0, 7: 2.0}).fit(X, Y)


def test_a_changed_parameter_does_not_change_a_fitted_net(tmp_path):
    net = xclf.TwoLayerClassifier(hidden=20, max_iter=5, random_state=0).fit(X, Y)
    before = net.predict(X)
    net.set_params(hidden=5)
    assert np.array_equal(net.predict(X), before)
    net.save(tmp_path / "net.safetensors")
    assert np.array_equal(xclf.load(tmp_path / "net.safetensors").predict(X), before)
    with pytest.raises(ValueError, match="widths"):
        net.partial_fit(X, Y)
    assert np.array_equal(net.predict(X), before)


def test_features_with_a_gradient_do_not_record_the_fit():
    torch = pytest.importorskip("torch")
    features = torch.asarray(X, requires_grad=True)
    for solver in ("lbfgs", "adam"):
        model = xclf.SoftmaxClassifier(reg=1e-2, solver=solver).fit(features, Y)
        assert not model.coef_.requires_grad
        assert not model.decision_function(features).requires_grad


def test_a_missing_number_of_narrow_floats_is_located():
    torch = pytest.importorskip("torch")
    rows = torch.asarray(X).to(torch.bfloat16)
    rows[7, 2] = float("nan")
    with pytest.raises(ValueError, match="row 7, column 2"):
        xclf.SoftmaxClassifier().fit(rows, Y)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", ">i4", "i2", "f2", "f4", "?"])
def test_labels_of_every_dtype_come_back_from_a_device(dtype):
    torch = pytest.importorskip("torch")
    labels = (Y % 2).astype(dtype)
    model = xclf.SoftmaxClassifier(reg=1e-2).fit(torch.asarray(X), labels)
    guess = model.predict(torch.asarray(X))
    assert isinstance(guess, torch.Tensor)
    assert set(guess.tolist()) <= {0, 1}


def test_a_diverging_fit_keeps_its_best_parameters():
    with np.errstate(all="ignore"), pytest.warns(match="not finite"):
        model = xclf.SoftmaxClassifier(solver="sgd", learning_rate=1e300).fit(X * 1e10, Y)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.objective_)


def test_rows_without_weight_are_not_drawn():
    weights = np.zeros(len(Y))
    weights[[0, 60, 120]] = 5.0
    options = {"solver": "adam", "max_iter": 20, "random_state": 0}
    some = xclf.SoftmaxClassifier(**options).fit(X, Y, sample_weight=weights)
    alone = xclf.SoftmaxClassifier(**options).fit(X[weights > 0], Y[weights > 0])
    np.testing.assert_allclose(some.coef_, alone.coef_, rtol=1e-12)


def test_a_part_with_few_weighted_rows_is_no_divergence():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6000, 3)), np.arange(6000) % 3
    weights = np.zeros(6000)
    weights[:3] = 1.0
    model = xclf.SoftmaxClassifier(random_state=0)
    model.partial_fit(x, y, classes=[0, 1, 2], sample_weight=weights)
    assert np.isfinite(model.objective_)
    assert model.coef_.any()


def test_squares_that_overflow_are_one_clear_error():
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="so large"):
        xclf.SoftmaxClassifier().fit(X * 1e200, Y)


def test_large_weights_do_not_overflow():
    plain = xclf.SoftmaxClassifier(reg=1e-2).fit(X, Y)
    heavy = xclf.SoftmaxClassifier(reg=1e-2).fit(X, Y, sample_weight=np.full(len(Y), 1e307))
    np.testing.assert_allclose(heavy.coef_, plain.coef_, rtol=1e-6)


@pytest.mark.parametrize("reg", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("standardize", [False, True])
def test_fewer_rows_than_features(reg, standardize):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 600)), np.arange(40) % 3
    options = {"reg": reg, "standardize": standardize, "max_iter": 300 if reg else 50}
    weights = rng.uniform(0.5, 2.0, 40)
    if reg:
        model = xclf.SoftmaxClassifier(**options).fit(x, y, sample_weight=weights)
        assert model.converged_
        assert model.n_iter_ < 80
    else:  # separable: there is no optimum to converge to
        with pytest.warns(match="did not converge"):
            xclf.SoftmaxClassifier(tol=0.0, **options).fit(x, y)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e5])
def test_standardised_float32_features_may_lie_far_from_zero(offset):
    rng = np.random.default_rng(1)
    z = rng.standard_normal((2000, 20)).astype(np.float32)
    y = (z @ rng.standard_normal((20, 4)) + rng.gumbel(size=(2000, 4))).argmax(axis=1)
    model = xclf.SoftmaxClassifier(standardize=True)
    if offset < 1e5:
        model.fit(z + np.float32(offset), y)
        assert model.converged_
    else:
        # What float32 stores of an intercept of w . offset is off by half a unit in its last place,
        # 2^-24 |w| 1e5: scores by 1e-3, and the objective by the square of that.
        with pytest.warns(ConvergenceWarning, match="rounding left nothing to gain"):
            model.fit(z + np.float32(offset), y)
        assert model.dual_gap_ < 1e-4 * model.objective_
    assert model.n_iter_ < 100


def test_fits_in_threads_leave_the_thread_limit_as_it_was():
    from threadpoolctl import threadpool_info

    before = [pool["num_threads"] for pool in threadpool_info()]
    first, second = blas_threads(X, 1), blas_threads(X, 1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert [pool["num_threads"] for pool in threadpool_info()] == before
    fits = [threading.Thread(target=xclf.SoftmaxClassifier().fit, args=(X, Y)) for _ in range(3)]
    for fit in fits:
        fit.start()
    for fit in fits:
        fit.join()
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_a_callback_may_answer_with_a_numpy_boolean():
    model = xclf.SoftmaxClassifier(callbacks=[lambda event: np.float64(event.step) >= 3])
    assert model.fit(X, Y).n_iter_ == 3


def test_a_part_is_one_epoch_of_one():
    seen = []
    model = xclf.SoftmaxClassifier(callbacks=[seen.append])
    model.partial_fit(X, Y, classes=[0, 1, 2]).partial_fit(X, Y)
    assert [(event.step, event.total) for event in seen] == [(1, 1), (1, 1)]


def test_a_moved_model_shares_no_memory():
    model = xclf.SoftmaxClassifier(reg=1e-2).fit(X, Y)
    assert not np.shares_memory(model.to_namespace(np).coef_, model.coef_)


def test_missing_string_labels_of_a_data_frame():
    pandas = pytest.importorskip("pandas")
    labels = pandas.Series(["a", "b", None] * 50, dtype="string")
    with pytest.raises(ValueError, match="row 2"):
        xclf.SoftmaxClassifier().fit(X, labels)


def test_any_real_number_is_a_parameter(tmp_path):
    model = xclf.SoftmaxClassifier(reg=Fraction(1, 100)).fit(X, Y)
    model.save(tmp_path / "model.safetensors")
    assert xclf.load(tmp_path / "model.safetensors").reg == pytest.approx(0.01)


def test_scores_of_rows_and_labels_in_two_places_are_refused():
    strict = pytest.importorskip("array_api_strict")
    model = xclf.SoftmaxClassifier(reg=1e-2).fit(X, Y)
    with pytest.raises(ValueError, match="move y"):
        model.score(X, strict.asarray(Y, device=strict.Device("device1")))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_sparse_tensors_are_refused_at_the_border():
    torch = pytest.importorskip("torch")
    dense = torch.asarray(X)
    for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
        with pytest.raises(TypeError, match="must be dense"):
            xclf.SoftmaxClassifier().fit(sparse, Y)


def test_complex_features_are_one_line():
    with pytest.raises(ValueError, match="Complex data not supported") as caught:
        xclf.SoftmaxClassifier().fit(X + 0j, Y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", [xclf.SoftmaxClassifier, xclf.SVMClassifier])
def test_rows_left_out_at_every_kth_place(cls):
    """The sample that shapes the preconditioner took every k-th row: those without weight alone."""
    rng = np.random.default_rng(0)
    for step, n in ((3, 100), (5, 3000)):
        x = rng.normal(size=(n, 4))
        y = (x[:, 0] > 0).astype(int)
        weights = (np.arange(n) % step != 0) * 1.0
        kept = weights > 0
        got = cls(reg=1e-2).fit(x, y, sample_weight=weights)
        want = cls(reg=1e-2).fit(x[kept], y[kept])
        assert got.converged_
        assert got.objective_ == pytest.approx(want.objective_, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*did not converge:")
def test_more_iterations_never_give_a_worse_svm():
    """A fit that ends early gives the best parameters it met, not the last."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:300].astype(np.float32), y[:300]
    reached = []
    for max_iter in (20, 40, 80):
        model = xclf.SVMClassifier(reg=1e-4, max_iter=max_iter, tol=1e-7).fit(x, y)
        # History is of float32 sums, the objective of float64 ones.
        assert model.objective_ <= min(model.history_["loss"]) * (1 + 1e-3)
        reached.append(model.objective_)
    assert reached == sorted(reached, reverse=True)


@pytest.mark.parametrize("wrong", [{"scoring": "acuracy"}, {"error_score": "riase"},
                                   {"scoring": ["accuracy", "neg_log_loss"]}])  # fmt: skip
def test_a_search_refuses_wrong_parameters_before_it_trains(wrong, monkeypatch):
    def train(*_):
        raise AssertionError("trained")

    monkeypatch.setattr("xclf.sweep._search.train_fits", train)
    x, y = load_digits(return_X_y=True)
    search = xclf.SweepCV(xclf.SoftmaxClassifier(), {"reg": [0.1, 1.0]}, **wrong)
    with pytest.raises(ValueError, match=r"scoring|error_score|refit"):
        search.fit(x, y)


MASKED = np.ma.masked_less(X, 0.15)


def test_what_is_masked_is_not_fitted():
    model = xclf.SoftmaxClassifier(reg=1e-2)
    with pytest.raises(ValueError, match="X has 5 masked values, the first at index 9 3: fill"):
        model.fit(MASKED, Y)
    with pytest.raises(ValueError, match="y has 1 masked values, the first at index 3"):
        model.fit(X, np.ma.masked_array(Y, np.arange(150) == 3))
    with pytest.raises(ValueError, match="sample_weight has 150 masked values"):
        model.fit(X, Y, sample_weight=np.ma.masked_all(150))
    model.fit(np.ma.masked_array(X), Y)  # nothing under the mask
    with pytest.raises(ValueError, match="X has 5 masked values"):
        model.predict(MASKED)


@pytest.mark.parametrize("x", [X[:, 0], X[None], np.array(1.0)], ids=["1-D", "3-D", "0-D"])
def test_one_line_for_rows_of_another_shape(x):
    with pytest.raises(ValueError, match=r"must have shape \(rows, features\), got") as error:
        xclf.SVMClassifier().fit(x, Y)
    assert "\n" not in str(error.value)


def test_advice_leaves_out_what_is_done_already():
    with pytest.warns(ConvergenceWarning, match=r"raise max_iter or tol, or scale"):
        xclf.SoftmaxClassifier(max_iter=1).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match=r"raise max_iter or tol$"):
        xclf.SoftmaxClassifier(max_iter=1, standardize=True).fit(X, Y)


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    model = xclf.SoftmaxClassifier().fit(X, Y)
    target = tmp_path / "no folder" / "model.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        model.save(target)
    assert error.value.filename == str(target)
