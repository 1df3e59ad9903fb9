"""Fits and searches that are killed at random moments, again and again, until they end."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.fuzz.cases import Outcome
from tests.support.kill_cases import CASES, Case, bits, child, ended
from xclf import Checkpoint, SoftmaxClassifier, SVMClassifier, SweepCV

_GRID = {"reg": [1e-4, 1e-2, 1.0]}
_SEARCHES: dict[str, Case] = {
    "search, softmax": (lambda: SoftmaxClassifier(), CASES["softmax"][1]),
    "search, hinge": (lambda: SVMClassifier(), CASES["softmax"][1]),
    "search, momentum": (
        lambda: SoftmaxClassifier(solver="momentum", max_iter=8, random_state=0),
        CASES["softmax"][1],
    ),
}
_ALL = CASES | _SEARCHES

#: Kills of one case before it may end, at most.
MOST_KILLS = 12


def _fit(name: str, kept: Checkpoint | None) -> tuple[Any, ...]:
    """All that the fit leaves, with warnings that are not about checkpoints ignored."""
    make, (x, y) = _ALL[name]
    model = make().set_params(callbacks=None if kept is None else [kept])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name not in _SEARCHES:
            return bits(model.fit(x, y))
        search = SweepCV(model, _GRID, cv=3).fit(x, y)
    return bits(search.best_estimator_), search.cv_results_["mean_test_score"].tolist()


@functools.cache
def _whole(name: str) -> tuple[tuple[Any, ...], float]:
    """(what an unbroken fit leaves, its seconds)."""
    start = time.monotonic()
    return _fit(name, None), time.monotonic() - start


def resume(seed: int, index: int) -> tuple[str, Outcome]:
    """Kill a fit some times, and compare its end bit by bit with that of an unbroken one."""
    r = random.Random(f"{seed} resumed {index}")
    name = r.choice(list(_ALL))
    wanted, seconds = _whole(name)
    every = r.choice((0.0, 0.0, 0.01, 0.1))
    kills = 0
    with TemporaryDirectory() as home:
        path = Path(home) / "c"
        for _ in range(r.randrange(1, MOST_KILLS)):
            process = child(lambda: _fit(name, Checkpoint(path, every=every)))
            time.sleep(r.uniform(0.0, 1.5 * seconds + 0.05))
            os.kill(process, signal.SIGKILL)
            kills += not ended(process)
        try:
            got = _fit(name, Checkpoint(path, every=every))
        except ValueError as error:
            return name, Outcome("torn", f"{name}, {kills} kills: {error}")
        stray = sorted(file.name for file in Path(home).iterdir() if file != path)
    if got != wanted:
        return name, Outcome("wrong objective", f"{name}, {kills} kills, every={every}")
    if stray:
        return name, Outcome("stale part", f"{name}: {stray}")
    return name, Outcome("killed, and the same" if kills else "had ended")
