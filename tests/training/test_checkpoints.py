"""The state of every method: many heads that go on from a checkpoint end bit by bit alike."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from kill_cases import RaiseAt

from xclf.objectives import Network, loss_named
from xclf.training import (
    Checkpoint,
    CheckpointError,
    Monitor,
    fit_augmented_lagrangian,
    fit_lbfgs,
    results_of,
    trees_of,
)
from xclf.training._trees import pack, unpack

X, Y = blobs(60, 5, 3)
REG = np.array([1e-1, 1e-2, 1e-3, 1e-4])
FOLDS = np.random.default_rng(0).uniform(size=(2, 60))


def _fit(loss, dtype, kept, number=None):
    network = Network((5, 3))
    problem = problem_on(
        Backend.NUMPY, network, X.astype(dtype), Y, loss=loss, reg=REG, weights=FOLDS, dtype=dtype
    )
    rows = replace(problem.rows, heads=np.array([0, 1, 0, 1]))
    own = {"margin": np.ones(4)} if loss == "hinge" else {}
    problem = replace(
        problem, rows=rows, objective=replace(problem.objective, loss=loss_named(loss, **own))
    )
    callbacks = [] if number is None else [RaiseAt(number, ZeroDivisionError)]
    monitor = Monitor(callbacks, "iteration", 3000, checkpoint=kept)
    method = fit_augmented_lagrangian if loss == "hinge" else fit_lbfgs
    results = method(problem, np.zeros((4, 18)), tol=1e-9, max_iter=3000, monitor=monitor)
    return results, monitor


def _bits(results, monitor):
    trees = [
        {name: getattr(value, "tobytes", lambda value=value: repr(value))() for name, value in one}
        for one in (tree.items() for tree in trees_of(results))
    ]
    return trees, monitor.history["loss"]


@pytest.mark.parametrize(
    "loss, dtype",
    [
        ("softmax", "float32"),
        ("softmax", "float64"),
        pytest.param("hinge", "float32", marks=pytest.mark.long),
        ("hinge", "float64"),
    ],
)
def test_heads_that_have_left_and_line_searches_that_go_on(loss, dtype, tmp_path, monkeypatch):
    """Float32 fits of the hinge end in float64: `widen`."""
    monkeypatch.setattr("xclf._atomic_write._flush", lambda part: None)  # which is slow
    module = sys.modules["xclf.training.augmented_lagrangian"]
    monkeypatch.setattr(module, "_HARD", 12)  # rounds until a fit in float32 gives up
    fit = module._AugmentedLagrangianFit
    wide, widen = [], fit.widen
    monkeypatch.setattr(fit, "widen", lambda self: wide.append(self.steps) or widen(self))
    whole = _bits(*_fit(loss, dtype, None))
    steps = len(whole[1])
    assert bool(wide) is (loss == "hinge" and dtype == "float32")
    kept = Checkpoint(tmp_path / "c", every=0 if steps < 1000 else 0.02)
    done = 0
    for part in (0.02, 0.3, 0.8):
        number = max(2, int(part * steps)) - done
        with pytest.raises(ZeroDivisionError):
            _fit(loss, dtype, kept, number)
        done += number - 1
    results, monitor = _fit(loss, dtype, kept)
    assert _bits(results, monitor) == whole
    assert _bits(*_fit(loss, dtype, kept, 1)) == whole  # without an event


def test_a_tree_comes_back_as_it_was():
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    tree = {
        "arrays": [fortran, np.zeros((0, 2), dtype=np.float32), np.array([True, False])],
        "views": (fortran[::-1], np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0)),
        "numbers": (1, 2.5, True, None, "text", float("nan"), 2**127),
        "scalar": np.float32(0.1),
    }
    arrays = []
    back = unpack(pack(tree, arrays), arrays, X)
    assert repr(back) == repr(tree)
    assert back["arrays"][0].flags.f_contiguous
    assert not back["arrays"][0].flags.c_contiguous
    assert type(back["scalar"]) is np.float32
    # The order of the axes in memory, which decides how products are computed.
    assert np.argsort(back["views"][1].strides).tolist() == [1, 0, 2]
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    arrays = []
    unpack(pack(frozen, arrays), arrays, X)[0] = 5.0  # fits write to what they go on with
    assert frozen[0] == 0.0


def test_results_come_back():
    results, _ = _fit("softmax", "float64", None)
    again = results_of(trees_of([*results, None]))
    assert again[-1] is None
    assert [one.reason for one in again[:-1]] == [one.reason for one in results]


def test_stages_inside_stages(tmp_path):
    """What has ended is not done again, what failed fails again, and the order is kept."""
    kept, done = Checkpoint(tmp_path / "c", every=0), []

    def work(last):
        with kept.stage("all", {"n": 3}):
            for k in range(3):
                with kept.stage("part", {"k": k}) as stage:
                    if (value := stage.value(X)) is not None:
                        done.append((k, value))
                    elif k == last:
                        raise KeyboardInterrupt
                    else:
                        stage.finish(10 * k)

    for last in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            work(last)
    work(None)
    assert done == [(0, 0), (0, 0), (1, 10)]
    with (
        pytest.raises(CheckpointError, match="n was 3, is 4; remove it"),
        kept.stage("all", {"n": 4}),
    ):
        pass
    with pytest.raises(CheckpointError, match="'all' comes here, not 'fit'"), kept.stage("fit"):
        pass


def test_a_stage_that_failed_fails_again(tmp_path):
    kept, seen = Checkpoint(tmp_path / "c", every=0), []

    def part(stage, name):
        with kept.stage("inside") as inside:
            seen.append((name, inside.value(X)))
            inside.finish(name)
        if name == "bad":
            raise ValueError(name)
        stage.finish(name)

    def work():
        with kept.stage("all"):
            for name in ("bad", "good"):
                try:
                    with kept.stage("part", {"name": name}) as stage:
                        if stage.value(X) is None:
                            part(stage, name)
                except ValueError:
                    seen.append("failed")

    work()
    work()
    assert seen == [("bad", None), "failed", ("good", None), ("bad", None), "failed"]


def test_long_facts_are_named_alone(tmp_path):
    """Of more than eighty characters together nothing is printed."""
    for other, says in ((38, r"n was '1+', is '2+'; remove"), (39, "n differs; remove")):
        path = tmp_path / f"{other}"
        kept = Checkpoint(path, every=0)
        with contextlib.suppress(KeyboardInterrupt), kept.stage("fit", {"n": "1" * 38}):
            with kept.stage("part") as part:
                part.finish(1)
            raise KeyboardInterrupt
        kept = Checkpoint(path, every=0)
        with pytest.raises(CheckpointError, match=says), kept.stage("fit", {"n": "2" * other}):
            pass


@pytest.mark.parametrize("every, rest", [(10.0, 49.0), (60.0, 60.0), (0.0, 0.0)])
def test_writing_takes_a_fiftieth_of_the_time_at_most(tmp_path, monkeypatch, every, rest):
    """Where it takes a second; at `every=0` each state is written."""
    kept, clock = Checkpoint(tmp_path / "c", every=every), iter([100.0, 101.0])
    now = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("xclf.training.checkpoint.time", now)
    kept._write()
    assert kept._due == pytest.approx(101.0 + rest, rel=1e-12)
