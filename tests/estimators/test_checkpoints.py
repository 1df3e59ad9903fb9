"""A fit that was killed goes on from its checkpoint, and ends bit by bit where it had ended."""

from __future__ import annotations

import errno
import re
import warnings

import numpy as np
import pytest
from estimator_cases import blobs
from kill_cases import CASES, FEW, MANY, Heard, KillAt, RaiseAt, bits, child, ended
from sklearn.base import clone

import xclf
from xclf import Checkpoint, CheckpointError, SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf.training import checkpoint as module

X, Y = blobs(60, 5, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.checkpoint"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_killed_fit_ends_where_it_would_have_ended(path, name):
    make, (x, y) = CASES[name]
    whole = make().fit(x, y)
    steps = len(whole.history_["loss"])
    for number in (2, max(2, steps // 3)):
        kept = [KillAt(number), Checkpoint(path, every=0)]
        assert not ended(child(lambda kept=kept: make().set_params(callbacks=kept).fit(x, y)))
    heard = Heard()
    model = make().set_params(callbacks=[heard, Checkpoint(path, every=0)]).fit(x, y)
    assert bits(model) == bits(whole)
    assert len(heard.steps) == steps - max(2, steps // 3)  # it has not started anew
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    again = make().set_params(callbacks=[heard, Checkpoint(path)]).fit(x, y)
    assert bits(again) == bits(whole)
    assert len(heard.steps) == steps - max(2, steps // 3)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_a_small_problem_starts_anew(path, loss):
    whole = SVMClassifier(loss=loss, reg=1e-3).fit(*FEW)
    kept = [KillAt(3), Checkpoint(path, every=0)]
    assert not ended(child(lambda: clone(whole).set_params(callbacks=kept).fit(*FEW)))
    model = clone(whole).set_params(callbacks=[Checkpoint(path, every=0)]).fit(*FEW)
    assert bits(model) == bits(whole)


def _stopped(model, path, number, x=X, y=Y, **options):
    """Fit until an exception at this event."""
    kept = [RaiseAt(number, ZeroDivisionError), Checkpoint(path, every=0)]
    with pytest.raises(ZeroDivisionError):
        clone(model).set_params(callbacks=kept).fit(x, y, **options)


@pytest.mark.parametrize("model", [SoftmaxClassifier(reg=1e-5), SVMClassifier(reg=1e-1)])
def test_on_every_backend(backend, path, model):
    x, y = (X, Y) if isinstance(model, SoftmaxClassifier) else MANY
    x, y = backend.asarray(x), backend.asarray(y)
    whole = clone(model).fit(x, y)
    _stopped(model, path, 5, x, y)
    heard = Heard()
    again = clone(model).set_params(callbacks=[heard, Checkpoint(path)]).fit(x, y)
    assert heard.steps[0] == 5
    assert bits(again) == bits(whole)


TASKS = np.stack([Y, Y % 2, np.arange(60) % 4], axis=1)


@pytest.mark.parametrize(
    "model",
    [
        SoftmaxClassifier(reg=1e-5),
        SVMClassifier(reg=1e-3),
        SoftmaxClassifier(solver="adam", max_iter=5, random_state=0),
        TwoLayerClassifier(hidden=4, max_iter=5, random_state=0),
    ],
    ids=["softmax", "hinge", "adam", "net"],
)
def test_several_tasks(path, model):
    """Labels of 3, 2 and 4 classes train in passes of their own, with one checkpoint."""
    heard = Heard()
    whole = clone(model).set_params(callbacks=[heard]).fit(X, TASKS)
    events = len(heard.steps)
    for number in (3, events // 2):
        _stopped(model, path, number, y=TASKS)
    heard.steps.clear()
    again = clone(model).set_params(callbacks=[heard, Checkpoint(path)]).fit(X, TASKS)
    assert list(map(bits, again.estimators_)) == list(map(bits, whole.estimators_))
    assert len(heard.steps) < events
    with pytest.raises(CheckpointError, match="tasks was 3, is 2"):
        clone(model).set_params(callbacks=[Checkpoint(path)]).fit(X, TASKS[:, :2])


@pytest.mark.parametrize("state", [None, np.random.default_rng(3), np.random.RandomState(5)])
def test_random_numbers_go_on(path, state):
    """Also those that no seed repeats: what there is of them is in the file."""
    model = TwoLayerClassifier(hidden=4, solver="adam", max_iter=4, early_stopping=True)
    heard = Heard()
    kept = [heard, RaiseAt(3, ZeroDivisionError), Checkpoint(path, every=0)]
    with pytest.raises(ZeroDivisionError):
        model.set_params(random_state=state, callbacks=kept).fit(X, Y)
    first = model.set_params(callbacks=[Checkpoint(path)]).fit(X, Y)
    assert len(first.history_["loss"]) == 4
    second = clone(first).fit(X, Y)  # from the file, which has ended
    assert bits(second) == bits(first)


def test_a_generator_ends_where_it_would_have_ended(path):
    """For what is drawn from it after the fit."""
    rngs = [np.random.default_rng(7) for _ in range(3)]
    model = SoftmaxClassifier(solver="sgd", max_iter=4)
    model.set_params(random_state=rngs[0]).fit(X, Y)
    model.random_state = rngs[1]
    kept = [RaiseAt(2, ZeroDivisionError), Checkpoint(path, every=0)]
    with pytest.raises(ZeroDivisionError):
        model.set_params(callbacks=kept).fit(X, Y)
    for rng in (np.random.default_rng(7), rngs[2]):  # going on, and once it has ended
        model.set_params(callbacks=[Checkpoint(path)], random_state=rng).fit(X, Y)
        assert rng.bit_generator.state == rngs[0].bit_generator.state


WEIGHTS = np.linspace(0.5, 1.5, 60)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"x": X + 1e-9}, "X differs"),
        ({"x": X.astype(np.float32)}, "X differs"),
        ({"y": np.where(np.arange(60) == 7, 1 - np.minimum(Y, 1), Y)}, "y differs"),
        ({"y": Y + 10}, "y differs"),
        ({"weights": None}, "sample weights differs"),
        ({"weights": WEIGHTS[::-1]}, "sample weights differs"),
        ({"reg": 1e-3}, "reg was 1e-05, is 0.001"),
        (
            {"class_weight": {0: 2.0}},
            "class_weight was None, is '{0: 2.0}', sample weights differs",
        ),
        ({"random_state": 1}, "random_state was None, is 1"),
        ({"max_iter": 7, "tol": 1e-3}, "max_iter was None, is 7, tol was None, is 0.001"),
    ],
)
def test_other_work_is_refused(path, change, says):
    model = SoftmaxClassifier(reg=1e-5)
    _stopped(model, path, 3, sample_weight=WEIGHTS)
    before = path.read_bytes()
    x, y, weights = change.pop("x", X), change.pop("y", Y), change.pop("weights", WEIGHTS)
    other = model.set_params(callbacks=[Checkpoint(path)], **change)
    with pytest.raises(CheckpointError, match=re.escape(f"is of other work: {says}; remove it")):
        other.fit(x, y, sample_weight=weights)
    assert path.read_bytes() == before
    assert not hasattr(other, "classes_")


def test_another_start_is_refused(path):
    model = SoftmaxClassifier(reg=1e-5, warm_start=True, callbacks=[Checkpoint(path)]).fit(X, Y)
    with pytest.raises(CheckpointError, match="start differs"):
        model.fit(X, Y)


def test_another_class_is_refused(path):
    SVMClassifier(callbacks=[Checkpoint(path)]).fit(X, Y)
    with pytest.raises(CheckpointError, match="estimator was 'SVMClassifier', is 'SoftmaxClassif"):
        SoftmaxClassifier(callbacks=[Checkpoint(path)]).fit(X, Y)


def test_another_version_is_refused(path, monkeypatch):
    model = SoftmaxClassifier(callbacks=[Checkpoint(path)])
    with monkeypatch.context() as patch:
        patch.setattr(module, "__version__", "0.0")
        model.fit(X, Y)
    with pytest.raises(CheckpointError, match=r"is of xclf 0\.0, this is"):
        model.fit(X, Y)


def test_a_damaged_file_is_refused_and_stays(path):
    model = SoftmaxClassifier(callbacks=[Checkpoint(path)]).fit(X, Y)
    data = path.read_bytes()
    changed = bytearray(data)
    changed[-3] ^= 1
    model.save(path.parent / "m")
    other = (path.parent / "m").read_bytes()
    for damaged in (b"", data[:100], data[:-1], data + b"x", bytes(changed), other):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="remove it to start anew, or name another") as e:
            clone(model).fit(X, Y)
        assert "\n" not in str(e.value)
        assert str(path) in str(e.value)
        assert path.read_bytes() == damaged


def test_every_cut_is_refused_or_whole(path):
    """A file is replaced as a whole; even so, no part of one is taken for it."""
    _stopped(SoftmaxClassifier(reg=1e-5), path, 4)
    data = path.read_bytes()
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            SoftmaxClassifier(reg=1e-5, callbacks=[Checkpoint(path)]).fit(X, Y)


def test_a_folder_that_is_not_there(tmp_path):
    model = SoftmaxClassifier(callbacks=[Checkpoint(tmp_path / "no" / "c")])
    with pytest.raises(FileNotFoundError):
        model.fit(X, Y)
    assert not hasattr(model, "classes_")


def test_ctrl_c_and_a_callback_that_stops_are_not_the_end(path, monkeypatch):
    # The exact Newton's method starts anew; conjugate gradients go on.
    monkeypatch.setattr("xclf.training.full_batch.NEWTON_AT", (1000, 1000))
    whole = SoftmaxClassifier(reg=1e-5).fit(X, Y)
    for stop, number in ((RaiseAt(4), 4), (lambda event: event.step == 7, 7)):
        model = clone(whole).set_params(callbacks=[stop, Checkpoint(path, every=0)])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(X, Y)
        except KeyboardInterrupt:
            assert number == 4
        assert model.n_iter_ < whole.n_iter_
    heard = Heard()
    model.set_params(callbacks=[heard, Checkpoint(path)]).fit(X, Y)
    assert heard.steps[0] == 7
    assert bits(model) == bits(whole)


class Clock:
    """A clock that goes on by what writing takes."""

    def __init__(self, seconds):
        self.now, self.seconds, self.writes = 0.0, seconds, []

    def monotonic(self):
        return self.now

    def write(self, path, records):
        self.writes.append(self.now)
        self.now += self.seconds


@pytest.mark.parametrize(
    "every, seconds, apart", [(60.0, 0.5, 60.5), (60.0, 3.0, 150.0), (0.0, 3.0, 4.0)]
)
def test_writing_takes_two_percent_of_the_time(path, monkeypatch, every, seconds, apart):
    clock = Clock(seconds)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_write", clock.write)
    with Checkpoint(path, every=every).stage("work") as stage:
        for _ in range(1000):
            stage.offer(dict)
            clock.now += 1.0
    gaps = np.diff(clock.writes)
    assert len(gaps) > 3
    # A write comes with the first offer after it is due, at most a second late.
    assert np.all((gaps >= apart) & (gaps <= apart + 1.0))
    assert every == 0.0 or seconds * len(gaps) <= 0.02 * (clock.writes[-1] - clock.writes[0])


def test_a_full_disk_is_a_warning(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(module, "_write", full)
    model = SoftmaxClassifier(reg=1e-4, callbacks=[Checkpoint(path, every=0)])
    with pytest.warns(UserWarning, match="cannot be written, the fit goes on: .*No space") as seen:
        model.fit(X, Y)
    assert len(seen) == 1
    assert bits(model) == bits(SoftmaxClassifier(reg=1e-4).fit(X, Y))


def test_one_of_several_fits_at_a_time(path):
    """An object serves one fit after the other; copies of an estimator share it."""
    kept = Checkpoint(path)
    first = SoftmaxClassifier(callbacks=[kept]).fit(X, Y)
    assert clone(first).callbacks[0] is kept
    kept.remove()
    kept.remove()
    assert not path.exists()
    second = SVMClassifier(callbacks=[kept]).fit(X, Y)
    assert bits(second) == bits(SVMClassifier().fit(X, Y))


def test_partial_fit_has_no_use_for_it(path):
    SoftmaxClassifier(callbacks=[Checkpoint(path)]).partial_fit(X, Y, classes=np.unique(Y))
    assert not path.exists()


def test_a_saved_model_does_not_hold_it(path):
    model = SoftmaxClassifier(callbacks=[Checkpoint(path)]).fit(X, Y)
    model.save(path.parent / "m")
    assert xclf.load(path.parent / "m").callbacks is None


@pytest.mark.parametrize(
    "given, error, says",
    [
        ({"path": 5}, TypeError, "path must be a str or Path, got 5"),
        ({"path": "c", "every": -1}, ValueError, "every must be a number of seconds >= 0, got -1"),
        ({"path": "c", "every": float("nan")}, ValueError, "every must be"),
        ({"path": "c", "every": "1"}, ValueError, "every must be"),
    ],
)
def test_bad_arguments(given, error, says):
    with pytest.raises(error, match=says):
        Checkpoint(**given)
