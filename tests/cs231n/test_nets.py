"""Course nets: loss from the formula, both penalty conventions, gradients, training, files."""

from __future__ import annotations

import numpy as np
import pytest

from xclf import _array_api
from xclf.cs231n.classifiers import fc_net, neural_net
from xclf.cs231n.gradient_check import eval_numerical_gradient

# Central differences with h = 1e-5 of losses of order 1: truncation h^2 / 6, rounding eps / h.
GRADIENT = 1e-7


def relative_error(a, b):
    return np.max(np.abs(a - b)) / np.maximum(np.max(np.abs(a)), 1e-12)


def expected_loss(params, X, y):
    """The notes' formula with plain NumPy, without the penalty."""
    hidden = np.maximum(0, X.reshape(len(X), -1) @ params["W1"] + params["b1"])
    scores = hidden @ params["W2"] + params["b2"]
    exp = np.exp(scores)
    p = exp / exp.sum(axis=1, keepdims=True)
    return scores, -np.log(p[np.arange(len(y)), y]).mean()


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, 2, 4)), np.array([0, 1, 2, 2, 1, 0])


def old_net():
    np.random.seed(1)
    return neural_net.TwoLayerNet(8, 5, 3, std=0.5)


def new_net(reg=0.0):
    np.random.seed(1)
    return fc_net.TwoLayerNet(input_dim=8, hidden_dim=5, num_classes=3, weight_scale=0.5, reg=reg)


def test_weights_come_from_the_global_stream_w1_first():
    for net in (old_net(), new_net()):
        np.random.seed(1)
        np.testing.assert_array_equal(net.params["W1"], 0.5 * np.random.randn(8, 5))
        np.testing.assert_array_equal(net.params["W2"], 0.5 * np.random.randn(5, 3))
        assert not net.params["b1"].any()
        assert not net.params["b2"].any()


def test_defaults_are_the_course_s():
    net = fc_net.TwoLayerNet()
    assert net.params["W1"].shape == (3072, 100)
    assert net.params["W2"].shape == (100, 10)
    assert net.reg == 0.0
    assert abs(net.params["W1"].std() - 1e-3) < 1e-5
    assert abs(neural_net.TwoLayerNet(3072, 50, 10).params["W1"].std() - 1e-4) < 1e-6


def test_one_convention_halves_the_penalty_and_the_other_does_not(data):
    X, y = data
    old, new = old_net(), new_net(reg=0.6)
    scores, expected = expected_loss(old.params, X, y)
    squares = sum((old.params[name] ** 2).sum() for name in ("W1", "W2"))
    np.testing.assert_allclose(old.loss(X.reshape(6, 8)), scores, rtol=1e-12)
    np.testing.assert_allclose(new.loss(X), scores, rtol=1e-12)
    loss, grads = old.loss(X.reshape(6, 8), y, reg=0.6)
    assert loss == pytest.approx(expected + 0.6 * squares, rel=1e-13)
    half, half_grads = new.loss(X, y)
    assert half == pytest.approx(expected + 0.3 * squares, rel=1e-13)
    difference = grads["W2"] - half_grads["W2"]
    np.testing.assert_allclose(difference, 0.6 * old.params["W2"], rtol=1e-10)
    np.testing.assert_allclose(grads["b1"], half_grads["b1"], rtol=1e-13)


def nets(dtype=np.float64):
    yield "old", old_net(), {"reg": 0.3}
    yield "new", new_net(reg=0.3), {}
    for hidden in ([], [6], [7, 5, 6]):
        for kwargs in ({}, {"normalization": "batchnorm"}, {"normalization": "layernorm"}):
            for keep in (1, 0.75):
                np.random.seed(2)
                yield (
                    f"{len(hidden)} hidden, {kwargs}, keep {keep}",
                    fc_net.FullyConnectedNet(
                        hidden,
                        input_dim=8,
                        num_classes=3,
                        reg=0.3,
                        weight_scale=0.5,
                        dtype=dtype,
                        dropout_keep_ratio=keep,
                        seed=123,
                        **kwargs,
                    ),
                    {},
                )


@pytest.mark.parametrize("case", list(nets()), ids=lambda case: case[0])
def test_every_gradient_passes_a_numeric_check_through_params_in_place(case, data):
    X, y = data
    _, net, kwargs = case
    _, grads = net.loss(X, y, **kwargs)
    assert list(grads) == list(net.params)
    for name in net.params:
        numeric = eval_numerical_gradient(
            lambda _: net.loss(X, y, **kwargs)[0], net.params[name], verbose=False
        )
        # Before batch normalisation a bias has no effect: both gradients are rounding.
        if np.max(np.abs(grads[name])) > 1e-9:
            assert relative_error(grads[name], numeric) < GRADIENT, name
        else:
            assert np.max(np.abs(numeric)) < 1e-9, name


@pytest.mark.parametrize("make", [new_net, lambda: next(nets())[1]])
def test_parameters_move_to_where_the_images_are(backend, make, data):
    X, y = data
    X = X.reshape(6, 8)
    expected, _ = make().loss(X, y)
    net = make()
    loss, grads = net.loss(backend.asarray(X), y)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    for name, values in net.params.items():
        assert _array_api.same_device(values, backend.asarray(X))
        assert _array_api.same_device(grads[name], backend.asarray(X))
        assert values.dtype == backend.dtype("float64")


def test_a_numeric_gradient_through_moved_parameters_is_seen(backend, data):
    if str(backend) == "numpy-readonly":
        pytest.skip("parameters are NumPy's own there: the NumPy backend covers it")
    X, y = data
    net = new_net(reg=0.1)
    X = backend.asarray(X)
    _, grads = net.loss(X, y)
    numeric = eval_numerical_gradient(lambda _: net.loss(X, y)[0], net.params["W2"], verbose=False)
    assert relative_error(backend.to_host(grads["W2"]), backend.to_host(numeric)) < GRADIENT


def test_pixels_of_integers_are_taken(data):
    _, y = data
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    scores, _ = expected_loss(new_net().params, pixels.astype(float), y)
    np.testing.assert_allclose(new_net().loss(pixels), scores, rtol=1e-12)


# --- FullyConnectedNet --------------------------------------------------------------------------


def test_a_deeper_net_without_hidden_extras_is_the_two_layer_net(data):
    X, y = data
    np.random.seed(1)
    deep = fc_net.FullyConnectedNet(
        [5], input_dim=8, num_classes=3, reg=0.6, weight_scale=0.5, dtype=np.float64
    )
    loss, grads = deep.loss(X, y)
    expected, expected_grads = new_net(reg=0.6).loss(X, y)
    assert loss == expected
    for name in expected_grads:
        np.testing.assert_array_equal(grads[name], expected_grads[name])


@pytest.mark.parametrize("dtype", [np.float32, "float64", np.float64])
def test_dtype_is_that_of_parameters_and_results(backend, dtype, data):
    X, y = data
    net = fc_net.FullyConnectedNet(
        [5], input_dim=8, num_classes=3, dtype=dtype, normalization="batchnorm"
    )
    _, grads = net.loss(backend.asarray(X), y)
    name = np.dtype(dtype).name
    assert all(values.dtype == backend.dtype(name) for values in grads.values())
    assert net.loss(backend.asarray(X)).dtype == backend.dtype(name)


def test_a_torch_dtype_names_the_same():
    torch = pytest.importorskip("torch")
    net = fc_net.FullyConnectedNet([5], input_dim=8, num_classes=3, dtype=torch.float64)
    assert net.loss(torch.ones((2, 8))).dtype == torch.float64


def test_dropout_is_on_in_training_and_off_at_test_time(data):
    X, y = data
    np.random.seed(0)
    net = fc_net.FullyConnectedNet(
        [50], input_dim=8, num_classes=3, weight_scale=1.0, dropout_keep_ratio=0.5, dtype=np.float64
    )
    assert len({float(net.loss(X, y)[0]) for _ in range(3)}) == 3
    np.testing.assert_array_equal(net.loss(X), net.loss(X))
    _, plain = expected_loss(net.params, X, y)
    scores = net.loss(X)
    np.testing.assert_allclose(scores, expected_loss(net.params, X, y)[0], rtol=1e-12)
    assert plain > 0


def test_a_seed_makes_every_training_loss_the_same(data):
    X, y = data
    net = fc_net.FullyConnectedNet(
        [20], input_dim=8, num_classes=3, dropout_keep_ratio=0.5, seed=3, weight_scale=1.0
    )
    assert len({float(net.loss(X, y)[0]) for _ in range(3)}) == 1


def test_older_handouts_call_it_dropout():
    assert not fc_net.FullyConnectedNet([4], dropout=0).use_dropout
    assert not fc_net.FullyConnectedNet([4], dropout=1).use_dropout
    assert fc_net.FullyConnectedNet([4], dropout=0.25).dropout_param["p"] == 0.25


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"normalization": "group"}, "'batchnorm', 'layernorm'"),
        ({"dropout_keep_ratio": 0}, r"\(0, 1\]"),
        ({"dropout_keep_ratio": 0.5, "dropout": 0.5}, "one of the two"),
    ],
)
def test_a_net_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fc_net.FullyConnectedNet([4], **kwargs)


# --- training and files --------------------------------------------------------------------------


def toy():
    rng = np.random.default_rng(4)
    y = np.arange(60) % 3
    X = 2 * np.eye(3)[y] @ rng.standard_normal((3, 8)) + 0.1 * rng.standard_normal((60, 8))
    return X, y


def train_old(asarray=np.asarray, **kwargs):
    X, y = toy()
    np.random.seed(6)
    net = neural_net.TwoLayerNet(8, 10, 3, std=0.1)
    settings = {"learning_rate": 0.3, "num_iters": 60, "batch_size": 20, **kwargs}
    return net, net.train(asarray(X), y, asarray(X[:9]), y[:9], **settings)


def test_training_learns_and_two_seeded_runs_are_identical():
    net, stats = train_old()
    _, again = train_old()
    assert stats == again
    assert set(stats) == {"loss_history", "train_acc_history", "val_acc_history"}
    assert len(stats["loss_history"]) == 60
    # 60 rows in batches of 20: an epoch is 3 steps, and 60 steps begin 20 of them.
    assert len(stats["train_acc_history"]) == len(stats["val_acc_history"]) == 20
    X, y = toy()
    assert np.mean(net.predict(X) == y) == 1.0
    assert stats["val_acc_history"][-1] == 1.0


def test_training_is_the_same_on_every_backend(backend):
    _, expected = train_old(num_iters=20)
    _, stats = train_old(backend.asarray, num_iters=20)
    np.testing.assert_allclose(stats["loss_history"], expected["loss_history"], rtol=1e-9)
    assert stats["val_acc_history"] == expected["val_acc_history"]


def test_validation_labels_that_do_not_pair_with_rows_are_refused():
    X, y = toy()
    net = neural_net.TwoLayerNet(8, 10, 3)
    with pytest.raises(ValueError, match=r"y must have shape \(60,\)"):
        net.train(X, y, X, y[:, None], num_iters=1)


def test_the_learning_rate_decays_after_the_first_step_of_each_epoch():
    X, y = toy()
    net, _ = train_old(num_iters=4, learning_rate=0.2, learning_rate_decay=0.5, reg=0.01)
    np.random.seed(6)
    by_hand = neural_net.TwoLayerNet(8, 10, 3, std=0.1)
    for rate in (0.2, 0.1, 0.1, 0.1):
        rows = np.random.choice(60, 20)
        _, grads = by_hand.loss(X[rows], y[rows], 0.01)
        for name in grads:
            by_hand.params[name] = by_hand.params[name] - rate * grads[name]
    for name in net.params:
        np.testing.assert_allclose(net.params[name], by_hand.params[name], rtol=1e-12)


def test_verbose_training_prints_every_hundredth_iteration(capsys):
    _, stats = train_old(num_iters=101, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"iteration {k} / 101: loss {stats['loss_history'][k]:f}" for k in (0, 100)]


def test_a_net_is_saved_under_the_given_name_and_read_back(backend, data, tmp_path):
    X, _ = data
    net = new_net()
    scores = net.loss(backend.asarray(X))
    net.save(tmp_path / "best_two_layer_net.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["best_two_layer_net.npy"]
    other = fc_net.TwoLayerNet(input_dim=8, hidden_dim=5, num_classes=3)
    assert other.load(tmp_path / "best_two_layer_net.npy") is True
    again = other.loss(backend.asarray(X))
    np.testing.assert_array_equal(backend.to_host(again), backend.to_host(scores))


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", W=np.ones(3))
    with pytest.raises(ValueError, match=r"w\.npz: holds \['W'\]"):
        new_net().load(tmp_path / "w.npz")
