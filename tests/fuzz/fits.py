"""Fits of small problems of every scale, held against the oracles."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tests.fuzz import oracles
from tests.fuzz.cases import HangError, Outcome, generator, time_limit
from xclf import SoftmaxClassifier, SVMClassifier

#: Seconds of processor time of one fit.
TIME_LIMIT = 20.0

#: Of sums in float64 over at most 80 x 5 losses, and of the oracle's own columns.
SLACK = 1e-11

DTYPES = ("float64", "float32", "float16", "int8", "int64", "uint8", "bool")
MINIBATCH = ("sgd", "momentum", "nesterov", "rmsprop", "adam")


@dataclass(frozen=True, eq=False)
class Fit:
    """Rows, labels, weights or None, and the parameters of a model; `loss` is one of them."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Any:
        options = dict(self.options)
        if options["loss"] == "softmax":
            del options["loss"]
            return SoftmaxClassifier(**options)
        return SVMClassifier(**options)

    def snippet(self) -> str:
        options = {k: v for k, v in self.options.items() if v != "softmax"}
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
        name = type(self.model()).__name__
        rows = np.array2string(self.x, separator=", ", threshold=10**6, max_line_width=95)
        if self.x.dtype.kind == "f":
            rows = str(self.x.astype(float).tolist())
        weight = (
            "" if self.weights is None else f", sample_weight=np.array({self.weights.tolist()})"
        )
        return (
            f"x = np.array({rows}, dtype={str(self.x.dtype)!r})\ny = np.array({self.y.tolist()})\n"
            f"model = xclf.{name}({arguments}).fit(x, y{weight})"
        )


def draw(seed: int, index: int) -> Fit:
    """Case `index`: few rows, columns of every scale, constant, alike, far off; every option."""
    r = generator(seed, "fits", index)
    classes, features = int(r.integers(2, 6)), int(r.integers(1, 13))
    n = int(r.integers(classes, 81)) if r.random() < 0.7 else int(r.integers(classes, 16))
    y = r.permutation(np.r_[np.arange(classes), r.integers(0, classes, n - classes)])
    apart = r.choice([0.0, 1.0, 4.0])
    x = r.standard_normal((n, features)) + apart * r.standard_normal((classes, features))[y]
    dtype = str(r.choice(DTYPES, p=[0.4, 0.3, 0.06, 0.06, 0.06, 0.06, 0.06]))
    x = _columns(r, x, dtype)
    weights = None
    if r.random() < 0.35:
        weights = r.uniform(0.1, 2.0, n) * (r.random(n) > r.choice([0.0, 0.3]))
        if r.random() < 0.2:
            weights *= 10.0 ** r.integers(-6, 7)
        weights[0] = max(weights[0], 0.5)
    return Fit(x, y, weights, _options(r, classes))


def _columns(r: np.random.Generator, x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bool":
        return x > r.normal()
    if dtype in ("int8", "int64", "uint8"):
        size = r.choice([3.0, 30.0]) if dtype != "int64" else 10.0 ** r.integers(0, 10)
        top = {"int8": 127, "uint8": 255, "int64": 2**62}[dtype]
        low = 0 if dtype == "uint8" else -top
        return np.clip(np.round(size * x + r.choice([0, 20])), low, top).astype(dtype)
    features = x.shape[1]
    widest = {"float64": 30, "float32": 30, "float16": 2}[dtype]
    exponent = float(r.choice([0, 2, 8, widest], p=[0.5, 0.2, 0.2, 0.1]))
    x = x * 10.0 ** (min(exponent, widest) * r.uniform(-1, 1, features))
    for how in r.choice(
        ["constant", "offset", "near", "same", "rows", "zero", "nothing"], int(r.integers(0, 3))
    ):
        j, k = r.integers(0, features, 2)
        size = np.abs(x[:, j]).max() or 1.0
        if how == "constant":
            x[:, j] = 10.0 ** r.integers(-3, 5)
        elif how == "offset":
            x[:, j] += size * 10.0 ** r.integers(1, 10 if dtype == "float64" else 7)
        elif how in ("near", "same"):
            noise = 1e-6 * np.abs(x[:, k]).max() * x[:, j] / size
            x[:, j] = x[:, k] + (how == "near") * noise
        elif how == "rows":
            x[len(x) // 2 :] = x[: len(x) - len(x) // 2]
        elif how == "zero":
            x[:, j] = 0.0
    top = float(np.finfo(dtype).max) / 2
    return np.clip(x, -top, top).astype(dtype)


def _options(r: np.random.Generator, classes: int) -> dict[str, Any]:
    loss = str(r.choice(["softmax", "hinge", "squared_hinge"], p=[0.76, 0.08, 0.16]))
    reg = 0.0 if r.random() < 0.06 else float(10.0 ** r.uniform(*_REG[int(r.integers(0, 3))]))
    options: dict[str, Any] = {"loss": loss, "reg": float(f"{reg:.3g}")}
    if r.random() < 0.25:
        options["fit_intercept"] = False
    if r.random() < 0.35:
        options["standardize"] = True
    if loss != "softmax" and r.random() < 0.3:
        options["margin"] = float(r.choice([1e-3, 0.5, 3.0, 100.0]))
    if r.random() < 0.15:
        options["class_weight"] = "balanced"
    elif r.random() < 0.1:
        heavy = r.choice([0.0, 0.1, 1.0, 10.0], classes)
        heavy[r.integers(0, classes)] = 1.0
        options["class_weight"] = {k: float(w) for k, w in enumerate(heavy)}
    if r.random() < 0.06:
        options["tol"] = float(r.choice([1e-2, 1e-4, 1e-10]))
    if r.random() < 0.04:
        options["max_iter"] = int(r.choice([1, 3, 20]))
    if r.random() < 0.15:
        solver = str(r.choice(MINIBATCH))
        options |= {"solver": solver, "max_iter": int(r.integers(1, 6)), "random_state": 0}
        options |= {"batch_size": int(r.choice([1, 7, 32]))}
        options.pop("tol", None)
    return options


#: Powers of ten between which `reg` is drawn, each range as often as the others.
_REG = ((-12, -6), (-6, -1), (-1, 3))


def row_share(case: Fit) -> np.ndarray:
    """The weight of each row, class weights times row weights, as a share of all."""
    weights = np.ones(len(case.y)) if case.weights is None else case.weights.astype(float)
    kind = case.options.get("class_weight")
    if kind == "balanced":
        counts = np.bincount(case.y, weights=weights)
        with np.errstate(all="ignore"):
            weights = weights * np.where(counts > 0, counts.sum() / counts, 0.0)[case.y]
    elif kind is not None:
        weights = weights * np.array([kind.get(label, 1.0) for label in case.y.tolist()])
    return weights / weights.sum()


def check(case: Fit) -> Outcome:
    """Fit, and hold what the model says of itself against the oracle."""
    model, ended = case.model(), None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with time_limit(TIME_LIMIT):
                model.fit(case.x, case.y, sample_weight=case.weights)
                predicted = model.predict(case.x)
                scores = model.decision_function(case.x)
        except HangError:
            ended = Outcome("hang", f"no end within {TIME_LIMIT:g} s")
        except ValueError as error:
            ended = _refusal(error)
        except Exception as error:
            ended = Outcome("exception", f"{type(error).__name__}: {error}")
    if ended is not None:
        return ended
    leaked = [one for one in caught if one.category is not ConvergenceWarning]
    if leaked:
        return Outcome("warning", f"{leaked[0].category.__name__}: {leaked[0].message}")
    if not np.isfinite(scores).all() or not np.isin(predicted, model.classes_).all():
        return Outcome("unsound data", "predictions are not finite")
    return _promises(case, model, bool(caught))


def _refusal(error: ValueError) -> Outcome:
    """A refusal says in one line which argument to change."""
    words = ("X", "y", "weight", "reg", "margin", "class", "tol", "learning_rate")
    text = str(error)
    named = any(word in text for word in words) and "\n" not in text.strip()
    return Outcome("refused", text) if named else Outcome("exception", f"ValueError: {text}")


def _promises(case: Fit, model: Any, warned: bool) -> Outcome:
    share, single = row_share(case), case.x.dtype != np.float64
    full_batch = "solver" not in case.options
    got = oracles.reached(model, case.x, case.y, share)
    error = (1e-6 if single else 1e-9) * abs(got)
    slack = SLACK * abs(got) + oracles.rounding(model, case.x, case.y, share)
    if not abs(model.objective_ - got) <= error + slack:
        return Outcome("wrong objective", f"objective_ {model.objective_!r}, at coef_ {got!r}")
    if not full_batch:
        return Outcome("minibatch")
    if warned is bool(model.converged_):
        return Outcome("warning", f"converged_ is {model.converged_}, warned: {warned}")
    gap = getattr(model, "dual_gap_", None)
    within = distance(case)
    if case.options["loss"] == "hinge" and case.options["reg"] == 0.0:
        within = np.inf  # `converged_` speaks of the gradient of a smoothed problem
    best = oracles.optimum(oracles.problem(model, case.x, case.y, share))
    floor = max(best, 0.0)
    # Beside float32 rows weights are rounded too: `objective_` may be less than `got`.
    if gap is not None and min(got, model.objective_) - gap > floor + slack:
        return Outcome("wrong bound", f"objective {got!r}, dual_gap_ {gap!r}, optimum <= {best!r}")
    if model.converged_ and got - floor > within * got + slack:
        far = (got - best) / best if best else np.inf
        return Outcome("silent wrong", f"{far:.3g} above {best!r}: {got!r}")
    return Outcome("converged" if model.converged_ else "not converged")


def distance(case: Fit) -> float:
    """The relative distance from the optimum that `converged_` stands for, as documented."""
    single = case.x.dtype != np.float64
    if case.options["loss"] == "hinge":
        return float(case.options.get("tol", 1e-4 if single else 1e-6))
    return float(max(case.options.get("tol", 0.0), 1e-6))


def group(case: Fit) -> str:
    loss = case.options["loss"]
    return loss if "solver" not in case.options else f"{loss}, minibatch"


def smaller(case: Fit) -> Iterator[Fit]:
    """Simpler cases, the boldest steps first."""
    n, features = case.x.shape
    size = n // 2
    while size >= 1:
        for start in range(0, n, size):
            keep = np.r_[0:start, min(start + size, n) : n]
            if len(np.unique(case.y[keep])) >= 2:
                weights = None if case.weights is None else case.weights[keep]
                if weights is None or weights.any():
                    yield _relabelled(
                        replace(case, x=case.x[keep], y=case.y[keep], weights=weights)
                    )
        size //= 2
    for column in range(features if features > 1 else 0):
        yield replace(case, x=np.delete(case.x, column, axis=1))
    if case.weights is not None:
        yield replace(case, weights=None)
        if not np.isin(case.weights, (0.0, 1.0)).all():
            yield replace(case, weights=(case.weights > 0).astype(float))
    for name in set(case.options) - {"loss", "reg"}:
        yield replace(case, options={k: v for k, v in case.options.items() if k != name})
    if case.x.dtype.kind == "f":
        with np.errstate(all="ignore"):
            digits = np.floor(np.log10(np.abs(case.x.astype(float))))
            unit = 10.0 ** np.where(np.isfinite(digits), digits, 0)
            rounded = (np.round(case.x / unit, 1) * unit).astype(case.x.dtype)
        if (rounded != case.x).any() and np.isfinite(rounded).all():
            yield replace(case, x=rounded)


def _relabelled(case: Fit) -> Fit:
    kept, y = np.unique(case.y, return_inverse=True)
    weight = case.options.get("class_weight")
    if isinstance(weight, dict):
        weight = {k: weight[int(label)] for k, label in enumerate(kept)}
        return replace(case, y=y, options=case.options | {"class_weight": weight})
    return replace(case, y=y)


def shrink(case: Fit, name: str, most: int = 400) -> Fit:
    """The simplest case that still ends as `name`, after at most `most` fits."""
    tried, going = 0, True
    while going and tried < most:
        going = False
        for one in smaller(case):
            tried += 1
            if tried > most:
                break
            if check(one).name == name:
                case, going = one, True
                break
    return case


def run_case(seed: int, index: int, shrinking: bool) -> tuple[str, Outcome]:
    case = draw(seed, index)
    outcome = check(case)
    if outcome.broken and shrinking and outcome.name != "hang":
        least = shrink(case, outcome.name)
        outcome = replace(check(least), snippet=least.snippet())
    elif outcome.broken:
        drawn = f"from tests.fuzz import fits\ncase = fits.draw({seed}, {index})"
        fitted = "case.model().fit(case.x, case.y, sample_weight=case.weights)"
        outcome = replace(outcome, snippet=f"{drawn}  # {case.options!r}\n{fitted}")
    return group(case), outcome
