"""Cells as the notebooks have them, run after `install()`, on NumPy and where they allow others."""

from __future__ import annotations

import importlib
import random
import sys

import numpy as np
import pytest

import xclf.cs231n

SUBMODULES = (
    *("classifiers", "classifiers.k_nearest_neighbor", "classifiers.linear_classifier"),
    *("classifiers.linear_svm", "classifiers.softmax", "classifiers.neural_net"),
    *("classifiers.fc_net", "layers", "layer_utils", "optim", "solver", "gradient_check"),
    *("data_utils", "vis_utils"),
)


@pytest.fixture(autouse=True)
def installed():
    before = {name for name in sys.modules if name.partition(".")[0] == "cs231n"}
    assert xclf.cs231n.install() is None
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "cs231n"]:
        if name not in before:
            del sys.modules[name]


def rel_error(x, y):
    return np.max(np.abs(x - y) / (np.maximum(1e-8, np.abs(x) + np.abs(y))))


def test_every_module_is_found_under_the_course_s_name():
    xclf.cs231n.install()
    import cs231n

    assert cs231n is xclf.cs231n
    for name in SUBMODULES:
        found = importlib.import_module(f"cs231n.{name}")
        assert found is importlib.import_module(f"xclf.cs231n.{name}")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("cs231n.classifiers.cnn")


def test_the_namespace_is_exact():
    for module in (
        xclf.cs231n,
        *(importlib.import_module(f"cs231n.{name}") for name in SUBMODULES),
    ):
        assert all(hasattr(module, name) for name in module.__all__)
        assert len(set(module.__all__)) == len(module.__all__)


def test_star_imports_bring_the_layer_functions():
    scope = {}
    exec("from cs231n.classifiers.fc_net import *", scope)
    names = "affine_forward relu_backward softmax_loss svm_loss affine_relu_forward TwoLayerNet"
    assert set(names.split()) <= set(scope)


def test_cells_of_the_svm_notebook(capsys):
    from cs231n.classifiers import LinearSVM
    from cs231n.classifiers.linear_svm import svm_loss_naive, svm_loss_vectorized
    from cs231n.gradient_check import grad_check_sparse

    np.random.seed(0)
    random.seed(0)
    X_dev = np.hstack([10 * np.random.randn(50, 24), np.ones((50, 1))])
    y_dev = np.random.randint(10, size=50)
    W = np.random.randn(25, 10) * 0.0001

    loss, grad = svm_loss_naive(W, X_dev, y_dev, 0.000005)
    print("loss: %f" % (loss,))  # noqa: UP031
    # Scores near 0: nine margins near 1 for every image.
    assert capsys.readouterr().out.startswith("loss: 9.0") or abs(loss - 9) < 0.1

    f = lambda w: svm_loss_naive(w, X_dev, y_dev, 5e1)[0]  # noqa: E731
    loss, grad = svm_loss_naive(W, X_dev, y_dev, 5e1)
    capsys.readouterr()
    grad_check_sparse(f, W, grad)
    errors = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert len(errors) == 10
    assert max(errors) < 1e-6

    loss_vectorized, grad_vectorized = svm_loss_vectorized(W, X_dev, y_dev, 5e1)
    print("difference: %f" % (loss - loss_vectorized))
    difference = np.linalg.norm(grad - grad_vectorized, ord="fro")
    print("difference: %f" % difference)  # noqa: UP031
    assert capsys.readouterr().out == "difference: 0.000000\n" * 2

    svm = LinearSVM()
    loss_hist = svm.train(X_dev, y_dev, learning_rate=1e-4, reg=2.5e1, num_iters=150, verbose=True)
    assert "iteration 100 / 150: loss" in capsys.readouterr().out
    y_train_pred = svm.predict(X_dev)
    print("training accuracy: %f" % (np.mean(y_dev == y_train_pred),))  # noqa: UP031
    assert loss_hist[-1] < loss_hist[0]
    w = svm.W[:-1, :]
    w = w.reshape(4, 2, 3, 10)
    assert 255.0 * (w - np.min(w)) / (np.max(w) - np.min(w)) is not None


def test_cells_of_the_softmax_notebook(capsys):
    from cs231n.classifiers import Softmax
    from cs231n.classifiers.softmax import softmax_loss_naive, softmax_loss_vectorized

    np.random.seed(0)
    X_dev, y_dev = np.random.randn(40, 24), np.random.randint(10, size=40)
    W = np.random.randn(24, 10) * 0.0001
    loss, grad = softmax_loss_naive(W, X_dev, y_dev, 0.0)
    print("loss: %f" % loss)  # noqa: UP031
    print("sanity check: %f" % (-np.log(0.1)))
    first, second = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert abs(first - second) < 1e-3
    assert rel_error(grad, softmax_loss_vectorized(W, X_dev, y_dev, 0.0)[1]) < 1e-9
    softmax = Softmax()
    softmax.train(X_dev, y_dev, 1e-2, 1e-3, 20, 200, False)
    assert softmax.predict(X_dev).shape == (40,)


def test_cells_of_the_two_layer_notebook():
    from cs231n.classifiers.neural_net import TwoLayerNet
    from cs231n.gradient_check import eval_numerical_gradient
    from cs231n.vis_utils import visualize_grid

    np.random.seed(0)
    net = TwoLayerNet(4, 10, 3, std=1e-1)
    np.random.seed(1)
    X, y = 10 * np.random.randn(5, 4), np.array([0, 1, 2, 2, 1])
    loss, grads = net.loss(X, y, reg=0.05)
    for param_name in grads:
        f = lambda W: net.loss(X, y, reg=0.05)[0]  # noqa: E731
        param_grad_num = eval_numerical_gradient(f, net.params[param_name], verbose=False)
        assert rel_error(param_grad_num, grads[param_name]) < 1e-7
    stats = net.train(X, y, X, y, learning_rate=1e-1, reg=5e-6, num_iters=100, verbose=False)
    assert stats["loss_history"][-1] < 0.05 < loss
    assert (net.predict(X) == y).mean() == 1.0
    W1 = net.params["W1"].reshape(2, 2, 1, -1).transpose(3, 0, 1, 2)
    assert visualize_grid(W1, padding=3).astype("uint8").shape == (17, 17, 1)


def test_cells_of_the_fully_connected_notebook(capsys):
    from cs231n.classifiers.fc_net import FullyConnectedNet
    from cs231n.gradient_check import eval_numerical_gradient
    from cs231n.solver import Solver

    np.random.seed(231)
    N, D, H1, H2, C = 2, 6, 8, 7, 10  # smaller than the notebook's, which take seconds
    X, y = np.random.randn(N, D), np.random.randint(C, size=(N,))
    for reg in [0, 3.14]:
        model = FullyConnectedNet(
            [H1, H2], input_dim=D, num_classes=C, reg=reg, weight_scale=5e-2, dtype=np.float64
        )
        loss, grads = model.loss(X, y)
        print("Initial loss: ", loss)
        for name in sorted(grads):
            f = lambda _: model.loss(X, y)[0]  # noqa: B023, E731
            grad_num = eval_numerical_gradient(f, model.params[name], verbose=False, h=1e-5)
            print("%s relative error: %.2e" % (name, rel_error(grad_num, grads[name])))  # noqa: UP031
            assert rel_error(grad_num, grads[name]) < 1e-4
    capsys.readouterr()

    small_data = {
        "X_train": 50 * np.random.randn(50, 3, 4, 4),
        "y_train": np.random.randint(C, size=50),
        "X_val": 50 * np.random.randn(20, 3, 4, 4),
        "y_val": np.random.randint(C, size=20),
    }
    model = FullyConnectedNet([100, 100], input_dim=48, weight_scale=5e-2, dtype=np.float64)
    solver = Solver(
        model,
        small_data,
        print_every=10,
        num_epochs=20,
        batch_size=25,
        update_rule="sgd",
        optim_config={"learning_rate": 5e-3},
    )
    solver.train()
    assert capsys.readouterr().out.startswith("(Iteration 1 / 40) loss: ")
    assert max(solver.train_acc_history) == 1.0
    assert len(solver.loss_history) == 40


def test_cells_that_name_no_numpy_run_on_every_backend(backend):
    from cs231n.classifiers import LinearSVM, Softmax
    from cs231n.classifiers.fc_net import FullyConnectedNet
    from cs231n.layers import (
        affine_backward,
        affine_forward,
        relu_backward,
        relu_forward,
        softmax_loss,
    )
    from cs231n.solver import Solver

    np.random.seed(0)
    X, y = backend.asarray(np.random.randn(30, 3, 2, 2)), np.random.randint(4, size=30)
    w, b = backend.asarray(np.random.randn(12, 4)), backend.asarray(np.random.randn(4))
    out, fc_cache = affine_forward(X, w, b)
    out, relu_cache = relu_forward(out)
    loss, dx = softmax_loss(out, y)
    print("loss: %f" % loss)  # noqa: UP031
    dx, dw, db = affine_backward(relu_backward(dx, relu_cache), fc_cache)
    assert (tuple(dx.shape), tuple(dw.shape), tuple(db.shape)) == ((30, 3, 2, 2), (12, 4), (4,))

    rows = backend.xp.reshape(X, (30, -1))
    for classifier in (LinearSVM(), Softmax()):
        loss_hist = classifier.train(rows, y, learning_rate=1e-2, num_iters=5)
        assert len(loss_hist) == 5
        assert tuple(classifier.predict(rows).shape) == (30,)

    data = {"X_train": X, "y_train": y, "X_val": X, "y_val": y}
    model = FullyConnectedNet(
        [8], input_dim=12, num_classes=4, dropout_keep_ratio=0.8, normalization="layernorm"
    )
    solver = Solver(model, data, update_rule="adam", num_epochs=1, batch_size=10, verbose=False)
    solver.train()
    assert solver.check_accuracy(X, y) == solver.best_val_acc
