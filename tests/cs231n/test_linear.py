"""The course's linear losses and classifiers, held against the notes' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xclf import _array_api
from xclf.cs231n.classifiers import LinearClassifier, LinearSVM, Softmax
from xclf.cs231n.classifiers.linear_svm import svm_loss_naive, svm_loss_vectorized
from xclf.cs231n.classifiers.softmax import softmax_loss_naive, softmax_loss_vectorized
from xclf.gradcheck import check_gradient

PAIRS = {
    "svm": (svm_loss_naive, svm_loss_vectorized),
    "softmax": (softmax_loss_naive, softmax_loss_vectorized),
}
# Both forms add the same terms in another order. With N D C = 2000 terms of order 1 they differ by
# at most gamma_2000 = 2.2e-13 of the sum of their sizes.
PARITY = 1e-12


@pytest.fixture(params=list(PAIRS))
def pair(request):
    return PAIRS[request.param]


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((20, 25)), rng.standard_normal((25, 4))
    return W, X, rng.integers(0, 4, 20)


@pytest.mark.parametrize("reg", [0.0, 0.7])
def test_the_naive_and_the_vectorised_loss_agree(backend, pair, problem, reg):
    W, X, y = problem
    naive, vectorised = pair
    loss, dW = vectorised(backend.asarray(W), backend.asarray(X), backend.asarray(y), reg)
    naive_loss, naive_dW = naive(backend.asarray(W), backend.asarray(X), backend.asarray(y), reg)
    assert abs(float(loss) - float(naive_loss)) <= PARITY * float(loss)
    difference = np.abs(backend.to_host(dW) - backend.to_host(naive_dW))
    assert np.max(difference) <= PARITY * np.max(np.abs(backend.to_host(dW)))


@pytest.mark.parametrize("label, row", [(-1, 3), (4, 0)])
def test_a_label_that_is_no_class_is_named_by_both_forms(backend, pair, problem, label, row):
    W, X, y = problem
    y[row] = label
    for loss in pair:
        with pytest.raises(ValueError, match=f"from 0 to 3; got {label} in row {row}"):
            loss(backend.asarray(W), backend.asarray(X), backend.asarray(y), 0.1)


@pytest.mark.parametrize("y", [np.zeros(19, dtype=int), np.zeros((20, 1), dtype=int), np.zeros(20)])
def test_labels_that_are_no_class_numbers_of_the_rows(pair, problem, y):
    for loss in pair:
        with pytest.raises(ValueError, match="one class number, an integer, for each of the 20"):
            loss(*problem[:2], y, 0.1)


def test_the_loss_and_gradient_are_those_of_the_formula():
    # One image (1, 2), three classes, W = [[1, 0, 2], [0, 1, 0]]: scores 1, 2, 2, true class 0.
    W, X, y = np.array([[1.0, 0, 2], [0, 1, 0]]), np.array([[1.0, 2]]), np.array([0])
    penalty = 0.5 * (1 + 4 + 1)
    for loss in PAIRS["svm"]:
        value, dW = loss(W, X, y, 0.5)
        assert value == (2 - 1 + 1) + (2 - 1 + 1) + penalty
        np.testing.assert_array_equal(dW, [[-2 + 1, 1, 1 + 2], [-4, 2 + 1, 2]])
    total = math.e + 2 * math.e**2
    p = np.array([math.e, math.e**2, math.e**2]) / total
    for loss in PAIRS["softmax"]:
        value, dW = loss(W, X, y, 0.5)
        assert value == pytest.approx(-math.log(p[0]) + penalty, rel=1e-14)
        expected = np.outer([1, 2], p - [1, 0, 0]) + W
        np.testing.assert_allclose(dW, expected, rtol=1e-14)


@pytest.mark.parametrize("loss", [PAIRS["svm"][1], PAIRS["softmax"][1]])
def test_the_gradient_passes_a_gradient_check(loss, problem):
    W, X, y = problem
    report = check_gradient(lambda W: loss(W, X, y, 0.3), W)
    assert report.passed, str(report)


def test_a_numpy_loss_prints_and_rounds_like_a_float(pair, problem):
    for loss in pair:
        value, _ = loss(*problem, 0.1)
        assert isinstance(value, float)
        assert f"{round(value, 2):.2f}" == f"{value:.2f}"
        assert float("%f" % value) == pytest.approx(value, abs=1e-6)  # noqa: UP031


def test_labels_may_stay_on_the_host(backend, pair, problem):
    W, X, y = problem
    _, vectorised = pair
    loss, dW = vectorised(backend.asarray(W), backend.asarray(X), y, 0.1)
    expected, _ = vectorised(W, X, y, 0.1)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert _array_api.same_device(dW, backend.asarray(W))
    assert dW.dtype == backend.dtype("float64")


def test_weights_and_rows_that_live_apart_are_refused(pair, problem):
    torch = pytest.importorskip("torch")
    W, X, y = problem
    with pytest.raises(TypeError, match="W is numpy on cpu, but X is torch on cpu"):
        pair[1](W, torch.asarray(X), y, 0.0)


def test_integer_pixels_are_computed_with_in_the_dtype_of_the_weights(backend, pair):
    _, vectorised = pair
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    W, y = np.linspace(-1, 1, 8).reshape(4, 2), np.array([0, 1, 1])
    loss, dW = vectorised(backend.asarray(W), backend.asarray(pixels), backend.asarray(y), 0.0)
    expected, _ = vectorised(W, pixels.astype(float), y, 0.0)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert dW.dtype == backend.dtype("float64")


# --- training ---------------------------------------------------------------------------------


@pytest.fixture
def blobs():
    rng = np.random.default_rng(1)
    y = np.arange(90) % 3
    centres = np.array([[3.0, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]])
    return centres[y] + 0.1 * rng.standard_normal((90, 4)), y


@pytest.mark.parametrize("model", [LinearSVM, Softmax])
def test_two_seeded_runs_give_identical_losses(model, blobs):
    runs = []
    for _ in range(2):
        np.random.seed(3)
        runs.append(model().train(*blobs, learning_rate=0.1, num_iters=30, batch_size=20))
    assert runs[0] == runs[1]
    assert len(runs[0]) == 30
    assert all(type(loss) is float for loss in runs[0])


@pytest.mark.parametrize("model", [LinearSVM, Softmax])
def test_a_seeded_run_is_the_same_on_every_backend_and_learns(backend, model, blobs):
    X, y = blobs
    np.random.seed(3)
    on_numpy = model()
    losses = on_numpy.train(X, y, learning_rate=0.1, num_iters=60, batch_size=20)
    np.random.seed(3)
    here = model()
    ours = here.train(backend.asarray(X), y, learning_rate=0.1, num_iters=60, batch_size=20)
    # 60 steps of products of length 20; no margin of this data is closer to 0 than the difference.
    np.testing.assert_allclose(ours, losses, rtol=1e-10)
    np.testing.assert_allclose(backend.to_host(here.W), on_numpy.W, rtol=1e-9, atol=1e-12)
    predicted = here.predict(backend.asarray(X))
    assert _array_api.same_device(predicted, backend.asarray(X))
    assert np.mean(backend.to_host(predicted) == y) == 1.0


def test_the_random_stream_is_weights_first_then_one_choice_for_each_step(blobs):
    X, y = blobs
    np.random.seed(5)
    model = LinearSVM()
    losses = model.train(X, y, learning_rate=0.05, reg=0.01, num_iters=3, batch_size=7)
    np.random.seed(5)
    W = 0.001 * np.random.randn(4, 3)
    for expected in losses:
        rows = np.random.choice(90, 7, replace=True)
        loss, dW = svm_loss_naive(W, X[rows], y[rows], 0.01)
        assert loss == pytest.approx(expected, rel=1e-12)
        W = W - 0.05 * dW
    np.testing.assert_allclose(model.W, W, rtol=1e-12)


def test_training_again_goes_on_from_the_weights_there_are(blobs):
    model = LinearSVM()
    model.train(*blobs, num_iters=1)
    before = model.W
    model.train(*blobs, learning_rate=0.0, num_iters=2)
    np.testing.assert_array_equal(model.W, before)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_weights_take_the_floating_dtype_of_the_rows(backend, blobs, name):
    X, y = blobs
    model = Softmax()
    settings = {"learning_rate": np.float64(1e-3), "reg": np.float64(1e-3)}
    model.train(backend.asarray(X, name), y, num_iters=2, batch_size=10, **settings)
    assert model.W.dtype == backend.dtype(name)


def test_verbose_prints_every_hundredth_iteration(blobs, capsys):
    np.random.seed(0)
    losses = LinearSVM().train(*blobs, num_iters=101, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"iteration {k} / 101: loss {losses[k]:f}" for k in (0, 100)]


def test_weights_are_saved_under_the_given_name_and_read_back(backend, blobs, tmp_path):
    X, y = blobs
    model = LinearSVM()
    model.train(backend.asarray(X), y, num_iters=5)
    model.save(tmp_path / "best.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["best.npy"]
    again = LinearSVM()
    assert again.load(tmp_path / "best.npy") is True
    np.testing.assert_array_equal(again.W, backend.to_host(model.W))
    rows = backend.asarray(X)
    np.testing.assert_array_equal(
        backend.to_host(again.predict(rows)), backend.to_host(model.predict(rows))
    )


def test_a_pickled_file_is_refused(tmp_path):
    np.save(tmp_path / "old.npy", {"W": np.ones(3)}, allow_pickle=True)
    with pytest.raises(ValueError, match=r"old\.npy.*pickled files are not read"):
        LinearSVM().load(tmp_path / "old.npy")
    np.savez(tmp_path / "other.npz", b=np.ones(3))
    with pytest.raises(ValueError, match=r"holds \['b'\], not \['W'\]"):
        LinearSVM().load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        LinearSVM().load(tmp_path / "missing.npz")


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="nothing to save"):
        LinearSVM().save(tmp_path / "w.npz")
    model = LinearSVM()
    model.W = np.array([object()], dtype=object)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        model.save(tmp_path / "w.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "labels", [np.array([0, 1]), np.array([0, 1, -1]), np.array([0.0, 1, 1]), np.array([[0, 1, 1]])]
)
def test_labels_that_do_not_fit_are_refused_before_training(labels):
    with pytest.raises(ValueError, match="y must hold"):
        LinearSVM().train(np.ones((3, 2)), labels)


def test_what_is_not_there_yet_is_said():
    with pytest.raises(ValueError, match="call train"):
        LinearSVM().predict(np.ones((3, 2)))
    with pytest.raises(NotImplementedError, match="use LinearSVM or Softmax"):
        LinearClassifier().train(np.ones((3, 2)), np.array([0, 1, 1]))
