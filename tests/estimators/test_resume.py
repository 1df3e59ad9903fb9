"""`partial_fit` goes on from a file, or on another backend, as it would have gone on without."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, load
from xclf._tensor_file import write_tensors
from xclf.estimators import ModelFileError
from xclf.optim import SOLVERS

MINIBATCH = [name for name, solver in SOLVERS.items() if not solver.full_batch]
X = np.random.default_rng(0).normal(size=(60, 4))
Y = np.arange(60) % 3


def _in_parts(model, dtype=np.float64, y=Y):
    model.partial_fit(X.astype(dtype), y, classes=np.unique(y))
    return model.partial_fit(X.astype(dtype), y)


def _parameters(model):
    return np.concatenate([np.ravel(part) for layer in model._layers() for part in layer])


@pytest.mark.parametrize("solver", MINIBATCH)
@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier, TwoLayerClassifier])
@pytest.mark.parametrize("dtype, y", [(np.float32, Y), (np.float64, Y % 2)])
def test_bit_for_bit(cls, solver, dtype, y, tmp_path):
    model = _in_parts(cls(solver=solver, batch_size=16, random_state=0), dtype, y)
    model.save(tmp_path / "model")
    others = [load(tmp_path / "model"), model.to_namespace(np)]
    for one in (model, *others):
        one.partial_fit(X.astype(dtype), y).partial_fit(X.astype(dtype), y)
    for one in others:
        np.testing.assert_array_equal(_parameters(one), _parameters(model))
        assert one.n_iter_ == model.n_iter_ == 4


@pytest.mark.parametrize("bits", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_generator_of_numpy(bits, tmp_path):
    rng = np.random.Generator(getattr(np.random, bits)(7))
    rng.integers(5, size=3, dtype=np.int32)  # half of a word is left over
    model = _in_parts(SoftmaxClassifier(solver="sgd", batch_size=7, random_state=rng))
    with pytest.warns(UserWarning, match="random_state is a generator"):
        model.save(tmp_path / "model")
    back = load(tmp_path / "model")
    for one in (model, back):
        one.partial_fit(X, Y)
    np.testing.assert_array_equal(_parameters(back), _parameters(model))


def test_a_generator_that_no_file_can_name_starts_anew(tmp_path):
    class Own(np.random.PCG64):
        pass

    model = SoftmaxClassifier(solver="adam", random_state=np.random.Generator(Own(0)))
    with pytest.warns(UserWarning, match="random_state is a generator"):
        _in_parts(model).save(tmp_path / "model")
    assert np.isfinite(_parameters(load(tmp_path / "model").partial_fit(X, Y))).all()


def test_another_solver_starts_with_a_state_of_its_own(tmp_path):
    model = _in_parts(SoftmaxClassifier(solver="adam", random_state=0))
    model.save(tmp_path / "model")
    for one in (model, back := load(tmp_path / "model")):
        one.set_params(solver="momentum").partial_fit(X, Y)
    np.testing.assert_array_equal(_parameters(back), _parameters(model))


def test_a_fit_leaves_nothing_to_go_on_from(tmp_path):
    model = _in_parts(SoftmaxClassifier(solver="adam", random_state=0)).fit(X, Y)
    model.save(tmp_path / "model")
    with safe_open(tmp_path / "model", framework="numpy") as file:
        assert set(file.keys()) == {"coef_", "intercept_"}


def _swap(key, value):
    def change(resume, arrays):
        resume[key] = value

    return change


def _replace(array):
    def change(resume, arrays):
        arrays["resume.0"] = array

    return change


FORGERIES = {
    "an unknown solver": _swap("solver", "sudden"),
    "a solver without a rule": _swap("solver", "lbfgs"),
    "another solver": _swap("solver", "momentum"),
    "a negative count": _swap("counts", [None, None, -1]),
    "a count that is text": _swap("counts", [None, None, "1"]),
    "a count for an array": _swap("counts", [1, None, 1]),
    "an array that is missing": _swap("counts", [None, None, None]),
    "too few parts": _swap("counts", [None, None]),
    "another generator": _swap("rng", {"bit_generator": "Generator"}),
    "no state of the generator": _swap("rng", {"bit_generator": "PCG64"}),
    "a huge state": _swap(
        "rng", {"bit_generator": "PCG64", "state": {"state": 10**60, "inc": 1}, "has_uint32": 0}
    ),
    "a list": _swap("rng", []),
    "another size": _replace(np.zeros(14)),
    "another dtype": _replace(np.zeros(15, dtype=np.float32)),
    "another shape": _replace(np.zeros((1, 15))),
}


@pytest.mark.parametrize("name", [None, *FORGERIES])
def test_a_forged_state_is_one_clear_error(name, tmp_path):
    path = tmp_path / "model.safetensors"
    _in_parts(SoftmaxClassifier(solver="adam", random_state=0)).save(path)
    with safe_open(path, framework="numpy") as file:
        body = json.loads(file.metadata()["xclf"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if name is not None:
        FORGERIES[name](body["resume"], arrays)
    text = json.dumps(body)
    write_tensors(path, "xclf-model", text, arrays)
    if name is None:
        load(path).partial_fit(X, Y)
        return
    with pytest.raises(ModelFileError):
        load(path)


@pytest.mark.parametrize("way", [lambda model, path: model, lambda model, path: load(path)])
def test_the_velocity_goes_on(way, tmp_path):
    """At a tiny rate the gradient stays: the second step is 1 + momentum times the first."""
    model = SVMClassifier(solver="momentum", momentum=0.5, learning_rate=1e-9, batch_size=60)
    model.partial_fit(X, Y, classes=np.unique(Y)).save(tmp_path / "model.safetensors")
    first = _parameters(model)
    model = way(model, tmp_path / "model.safetensors").partial_fit(X, Y)
    np.testing.assert_allclose(_parameters(model), 2.5 * first, rtol=1e-6, atol=1e-20)
