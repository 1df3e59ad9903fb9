"""Update rules and the Solver: what they write, print, keep and restore."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from xclf.cs231n import optim
from xclf.cs231n.classifiers.fc_net import FullyConnectedNet, TwoLayerNet
from xclf.cs231n.solver import Solver

W, DW = np.array([1.0, -2.0, 3.0]), np.array([0.5, -1.0, 0.0])


# --- update rules --------------------------------------------------------------------------------


def test_sgd(backend):
    next_w, config = optim.sgd(backend.asarray(W), backend.asarray(DW))
    np.testing.assert_allclose(backend.to_host(next_w), W - 1e-2 * DW, rtol=1e-15)
    assert config == {"learning_rate": 1e-2}


def test_momentum(backend):
    v = np.array([1.0, 2.0, 3.0])
    config = {"learning_rate": 0.1, "velocity": backend.asarray(v)}
    next_w, same = optim.sgd_momentum(backend.asarray(W), backend.asarray(DW), config)
    assert same is config
    assert config["momentum"] == 0.9
    np.testing.assert_allclose(backend.to_host(config["velocity"]), 0.9 * v - 0.1 * DW, rtol=1e-15)
    np.testing.assert_allclose(backend.to_host(next_w), W + 0.9 * v - 0.1 * DW, rtol=1e-15)


def test_rmsprop(backend):
    cache = np.array([1.0, 2.0, 3.0])
    config = {"cache": backend.asarray(cache), "learning_rate": 0.1}
    next_w, _ = optim.rmsprop(backend.asarray(W), backend.asarray(DW), config)
    expected = 0.99 * cache + 0.01 * DW**2
    np.testing.assert_allclose(backend.to_host(config["cache"]), expected, rtol=1e-15)
    step = 0.1 * DW / (np.sqrt(expected) + 1e-8)
    np.testing.assert_allclose(backend.to_host(next_w), W - step, rtol=1e-15)
    assert (config["decay_rate"], config["epsilon"]) == (0.99, 1e-8)


def test_adam_advances_t_before_use(backend):
    m, v = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6])
    config = {"m": backend.asarray(m), "v": backend.asarray(v), "t": 5}
    next_w, _ = optim.adam(backend.asarray(W), backend.asarray(DW), config)
    m, v = 0.9 * m + 0.1 * DW, 0.999 * v + 0.001 * DW**2
    assert config["t"] == 6
    np.testing.assert_allclose(backend.to_host(config["m"]), m, rtol=1e-14)
    np.testing.assert_allclose(backend.to_host(config["v"]), v, rtol=1e-14)
    step = 1e-3 * (m / (1 - 0.9**6)) / (np.sqrt(v / (1 - 0.999**6)) + 1e-8)
    np.testing.assert_allclose(backend.to_host(next_w), W - step, rtol=1e-14)
    keys = {"learning_rate", "beta1", "beta2", "epsilon", "m", "v", "t"}
    assert set(config) == keys


def test_the_first_step_of_adam_is_the_learning_rate():
    next_w, config = optim.adam(W, DW, {"learning_rate": 0.2})
    assert config["t"] == 1
    np.testing.assert_allclose(next_w, W - 0.2 * np.sign(DW), rtol=1e-7)


@pytest.mark.parametrize("name", optim.__all__)
def test_rules_keep_the_dtype_and_leave_w_alone(backend, dtype, name):
    w, dw = backend.asarray(W, dtype), backend.asarray(DW, dtype)
    # What a search over 10 ** np.random.uniform(...) passes.
    config = {"learning_rate": np.float64(1e-2)}
    for _ in range(2):
        next_w, config = getattr(optim, name)(w, dw, config)
        assert next_w.dtype == backend.dtype(dtype)
    np.testing.assert_array_equal(backend.to_host(w), W)


# --- Solver --------------------------------------------------------------------------------------


def problem(asarray=np.asarray):
    rng = np.random.default_rng(4)
    y = np.arange(70) % 3
    X = 2 * np.eye(3)[y] @ rng.standard_normal((3, 8)) + 0.1 * rng.standard_normal((70, 8))
    X = asarray(X)
    return {"X_train": X[:60, :], "y_train": y[:60], "X_val": X[60:, :], "y_val": y[60:]}


def solver(data=None, **kwargs):
    np.random.seed(6)
    model = TwoLayerNet(input_dim=8, hidden_dim=10, num_classes=3, weight_scale=0.1, reg=0.01)
    settings = {"optim_config": {"learning_rate": 0.3}, "num_epochs": 4, "batch_size": 20}
    return Solver(model, data or problem(), **{**settings, "verbose": False, **kwargs})


@pytest.mark.parametrize("rule", optim.__all__)
def test_every_rule_learns(rule):
    rates = {"sgd": 0.3, "sgd_momentum": 0.1, "rmsprop": 0.01, "adam": 0.01}
    run = solver(update_rule=rule, optim_config={"learning_rate": rates[rule]}, num_epochs=20)
    run.train()
    assert run.best_val_acc == 1.0
    assert run.loss_history[-1] < 0.5 * run.loss_history[0]


def test_accuracies_are_noted_after_the_first_step_each_epoch_and_the_last_step():
    run = solver()
    run.train()
    assert len(run.loss_history) == 4 * 3
    assert all(type(loss) is float for loss in run.loss_history)
    assert len(run.train_acc_history) == len(run.val_acc_history) == 1 + 4
    assert run.epoch == 4

    one_step = solver(batch_size=60, num_epochs=1)
    one_step.train()
    assert len(one_step.loss_history) == len(one_step.val_acc_history) == 1

    none = solver(num_epochs=0)
    none.train()
    assert none.loss_history == none.val_acc_history == []


def test_two_seeded_runs_are_identical():
    runs = []
    for _ in range(2):
        run = solver(num_train_samples=10)
        run.train()
        runs.append((run.loss_history, run.train_acc_history, run.val_acc_history))
    assert runs[0] == runs[1]


def test_a_run_is_the_same_on_every_backend(backend):
    expected = solver(update_rule="adam", optim_config={})
    expected.train()
    run = solver(problem(backend.asarray), update_rule="adam", optim_config={})
    run.train()
    np.testing.assert_allclose(run.loss_history, expected.loss_history, rtol=1e-9)
    assert run.val_acc_history == expected.val_acc_history
    for name, values in expected.best_params.items():
        np.testing.assert_allclose(
            backend.to_host(run.best_params[name]), values, rtol=1e-7, atol=1e-10
        )


def test_batches_come_from_one_choice_for_each_step_after_the_weights():
    data = problem()
    run = solver(data, num_epochs=2, num_train_samples=None)
    run.train()
    np.random.seed(6)
    model = TwoLayerNet(input_dim=8, hidden_dim=10, num_classes=3, weight_scale=0.1, reg=0.01)
    for expected in run.loss_history:
        rows = np.random.choice(60, 20)
        loss, grads = model.loss(data["X_train"][rows], data["y_train"][rows])
        assert loss == pytest.approx(expected, rel=1e-12)
        for name in grads:
            model.params[name] = model.params[name] - 0.3 * grads[name]


class Scripted:
    """A model whose accuracy is written down beforehand: step k gives accuracies[k] correct."""

    def __init__(self, accuracies):
        self.params = {"w": np.zeros(1)}
        self.accuracies = accuracies

    def loss(self, X, y=None):
        if y is not None:
            return float(self.params["w"][0]), {"w": -np.ones(1)}
        right = self.accuracies[round(float(self.params["w"][0])) - 1]
        scores = np.zeros((len(X), 2))
        scores[: round(right * len(X)), 1] = 1
        return scores


@pytest.mark.parametrize("accuracies", [(0.2, 0.9, 0.4), (0.9, 0.2, 0.9), (0.0, 0.0, 0.0)])
def test_the_best_parameters_are_restored_and_ties_keep_the_first(accuracies):
    X, y = np.zeros((10, 1)), np.ones(10, dtype=int)
    data = {"X_train": X, "y_train": y, "X_val": X, "y_val": y}
    model = Scripted(accuracies)
    run = Solver(
        model,
        data,
        batch_size=10,
        num_epochs=3,
        optim_config={"learning_rate": 1.0},
        verbose=False,
    )
    run.train()
    assert run.val_acc_history == list(accuracies)
    assert run.best_val_acc == max(accuracies)
    assert model.params["w"][0] == 1 + accuracies.index(max(accuracies))
    assert run.best_params["w"][0] == model.params["w"][0]
    assert run.loss_history == [0.0, 1.0, 2.0]


def test_learning_rates_decay_at_the_end_of_each_epoch():
    run = solver(lr_decay=0.5, num_epochs=3)
    run.train()
    rates = {config["learning_rate"] for config in run.optim_configs.values()}
    assert rates == {0.3 * 0.5**3}
    assert run.optim_config == {"learning_rate": 0.3}


def test_printing_is_what_a_reader_of_the_course_expects(capsys):
    run = solver(num_epochs=2, print_every=2, verbose=True)
    run.train()
    losses, pairs = (
        run.loss_history,
        list(zip(run.train_acc_history, run.val_acc_history, strict=True)),
    )
    epochs = [f"train acc: {t:f}; val_acc: {v:f}" for t, v in pairs]
    assert capsys.readouterr().out.splitlines() == [
        f"(Iteration 1 / 6) loss: {losses[0]:f}",
        f"(Epoch 0 / 2) {epochs[0]}",
        f"(Iteration 3 / 6) loss: {losses[2]:f}",
        f"(Epoch 1 / 2) {epochs[1]}",
        f"(Iteration 5 / 6) loss: {losses[4]:f}",
        f"(Epoch 2 / 2) {epochs[2]}",
    ]


def test_check_accuracy_takes_a_sample_or_all_rows_in_batches():
    run = solver()
    X, y = run.X_train, run.y_train
    predicted = np.argmax(run.model.loss(X), axis=1)
    assert run.check_accuracy(X, y, batch_size=7) == np.mean(predicted == y)
    np.random.seed(0)
    sampled = run.check_accuracy(X, y, num_samples=25)
    np.random.seed(0)
    rows = np.random.choice(60, 25)
    assert sampled == np.mean(predicted[rows] == y[rows])


def test_checkpoints_hold_everything_and_no_pickle(backend, tmp_path):
    np.random.seed(0)
    model = FullyConnectedNet(
        [6], input_dim=8, num_classes=3, normalization="batchnorm", dropout_keep_ratio=0.9
    )
    run = Solver(
        model,
        problem(backend.asarray),
        update_rule="adam",
        num_epochs=2,
        batch_size=20,
        checkpoint_name=str(tmp_path / "run"),
        verbose=False,
    )
    run.train()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run_epoch_0.npz", "run_epoch_1.npz", "run_epoch_2.npz"]
    with np.load(tmp_path / "run_epoch_2.npz", allow_pickle=False) as stored:
        found = {name: stored[name] for name in stored.files}
    for name, values in run.best_params.items():
        np.testing.assert_array_equal(found[f"best_params/{name}"], backend.to_host(values))
    np.testing.assert_array_equal(
        found["optim/W1/m"], backend.to_host(run.optim_configs["W1"]["m"])
    )
    running = backend.to_host(model.bn_params[0]["running_mean"])
    np.testing.assert_array_equal(found["bn/1/running_mean"], running)
    np.testing.assert_array_equal(found["loss_history"], run.loss_history)
    np.testing.assert_array_equal(found["val_acc_history"], run.val_acc_history)
    settings = json.loads(str(found["settings"]))
    assert settings["update_rule"] == "adam"
    assert settings["epoch"] == 2
    assert settings["optim/W1"]["t"] == 6


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="'epochs', 'lr'"):
        solver(lr=1, epochs=3)
    with pytest.raises(ValueError, match="update_rule must be one of"):
        solver(update_rule="lion")
    data = problem()
    data["y_train"] = data["y_train"][:-1]
    with pytest.raises(ValueError, match="each of the 60 rows"):
        solver(data)


def test_a_loss_that_is_not_finite_is_noted_not_hidden():
    class Broken(Scripted):
        def loss(self, X, y=None):
            found = super().loss(X, y)
            return found if y is None else (math.nan, found[1])

    X, y = np.zeros((10, 1)), np.ones(10, dtype=int)
    data = {"X_train": X, "y_train": y, "X_val": X, "y_val": y}
    run = Solver(
        Broken((0.5,)),
        data,
        batch_size=10,
        num_epochs=1,
        verbose=False,
        optim_config={"learning_rate": 1.0},
    )
    run.train()
    assert math.isnan(run.loss_history[0])
