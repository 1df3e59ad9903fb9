"""SweepCV held against GridSearchCV on random small grids."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from tests.fuzz.cases import HangError, Outcome, generator, time_limit
from xclf import SoftmaxClassifier, SVMClassifier, SweepCV

#: Seconds of processor time of one search.
TIME_LIMIT = 120.0


def draw(seed: int, index: int) -> tuple[Any, dict[str, list[Any]], np.ndarray, np.ndarray, dict]:
    """(estimator, grid, x, y, options of the search)"""
    r = generator(seed, "sweeps", index)
    classes, features = int(r.integers(2, 5)), int(r.integers(1, 7))
    n = int(r.integers(6 * classes, 60))
    y = r.permutation(np.arange(n) % classes)
    x = r.standard_normal((n, features)) + r.standard_normal((classes, features))[y]
    x = x.astype(r.choice(["float64", "float32"]))
    kind = str(r.choice(["softmax", "hinge", "squared_hinge", "minibatch"], p=[0.5, 0.1, 0.2, 0.2]))
    grid: dict[str, list[Any]] = {"reg": (10.0 ** r.uniform(-4, 1, int(r.integers(1, 4)))).tolist()}
    extra = str(r.choice(["none", "class_weight", "standardize", "fit_intercept", "margin"]))
    if extra == "class_weight":
        grid[extra] = [None, "balanced"]
    elif extra in ("standardize", "fit_intercept"):
        grid[extra] = [False, True]
    estimator: Any = SoftmaxClassifier(random_state=0)
    if kind == "minibatch":
        solver = str(r.choice(["sgd", "momentum", "nesterov", "rmsprop", "adam"]))
        estimator.set_params(solver=solver, max_iter=3, batch_size=8)
    elif kind != "softmax":
        estimator = SVMClassifier(loss=kind, random_state=0)
        if extra == "margin":
            grid[extra] = [0.5, 2.0]
    options: dict[str, Any] = {"cv": int(r.integers(2, 4))}
    if isinstance(estimator, SoftmaxClassifier) and r.random() < 0.5:
        options["scoring"] = "neg_log_loss"
    return estimator, grid, x, y, options


def run_case(seed: int, index: int) -> tuple[str, Outcome]:
    estimator, grid, x, y, options = draw(seed, index)
    group = "softmax" if isinstance(estimator, SoftmaxClassifier) else estimator.loss
    group += "" if estimator.solver == "auto" else ", minibatch"
    call = f"from tests.fuzz import sweeps\nsweeps.draw({seed}, {index})"
    call += f"  # {estimator!r}, {grid!r}, {options!r}".replace("\n", " ")
    try:
        with time_limit(TIME_LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = SweepCV(clone(estimator), grid, **options).fit(x, y)
            theirs = GridSearchCV(clone(estimator), grid, **options).fit(x, y)
            outcome = compare(ours, theirs, x, y)
    except HangError:
        outcome = Outcome("hang", f"no end within {TIME_LIMIT:g} s", call)
    except Exception as error:
        outcome = Outcome("exception", f"{type(error).__name__}: {error}", call)
    if outcome.broken:
        outcome = Outcome(outcome.name, outcome.detail, call)
    return group, outcome


def compare(ours: Any, theirs: Any, x: np.ndarray, y: np.ndarray) -> Outcome:
    """The same tables; scores differ by what fits of the same tolerance may."""
    got, want = ours.cv_results_, theirs.cv_results_
    if list(got) != list(want) or got["params"] != want["params"]:
        return Outcome("wrong scores", "another table")
    within = False
    folds = list(StratifiedKFold(theirs.cv).split(x, y))
    for split, (train, test) in enumerate(folds):
        for k, params in enumerate(want["params"]):
            a, b = (float(one[f"split{split}_test_score"][k]) for one in (got, want))
            if a == b or (np.isnan(a) and np.isnan(b)):
                continue
            where = f"split {split}, {params}: {a!r}, GridSearchCV {b!r}"
            model = clone(theirs.estimator).set_params(**params).fit(x[train], y[train])
            apart = distance(model, x)
            if theirs.scoring is not None:
                if not abs(a - b) <= apart:
                    return Outcome("wrong scores", where)
            elif abs(a - b) * len(test) > ties(model, x[test], apart) + 1e-9:
                return Outcome("wrong scores", where)
            within = True
    return Outcome("equal within the tolerance" if within else "equal")


def distance(model: Any, x: np.ndarray) -> float:
    """How far the difference of two scores of a row may lie apart in two fits that are both within
    tol of the optimum, relative.

    The objective is strongly convex: reg |W - W*|^2 is at most its distance from the optimum. The
    biases, which are not penalised, may move as the scores do. Minibatch fits that take the same
    steps differ by the rounding of their sums.
    """
    single = x.dtype == np.float32
    if model.solver != "auto":
        return 1e-3 if single else 1e-9
    tol = 1e-6 if getattr(model, "loss", "") != "hinge" or not single else 1e-4
    rows = [x, (x - x.mean(axis=0)) / x.std(axis=0)]
    longest = max(float(np.linalg.norm(one, axis=1).max()) for one in rows)
    apart = 2.0 * np.sqrt(tol * model.objective_ / model.reg)
    return float(np.sqrt(2.0) * apart * (longest + 1.0))


def ties(model: Any, x: np.ndarray, apart: float) -> int:
    """Rows whose two best scores are nearer to each other than `apart`."""
    scores = model.decision_function(x)
    if scores.ndim == 1:
        return int((np.abs(scores) <= apart).sum())
    best = np.sort(scores, axis=1)
    return int((best[:, -1] - best[:, -2] <= apart).sum())
