"""The work behind `xclf train`: an estimator from options, the fit, the report."""

from __future__ import annotations

import math
import re
import secrets
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.exceptions import ConvergenceWarning

from xclf import _array_api
from xclf.cli._console import FitProgress, UserError, facts
from xclf.cli._devices import Place
from xclf.cli._results import class_labels, measure, show
from xclf.cli._source import Split, check_columns
from xclf.estimators import check_model_path, check_parameters, uses_full_batches
from xclf.estimators import load as load_model

#: Estimator parameters that an option of the same name sets.
PARAMETERS = (
    "reg",
    "standardize",
    "hidden",
    "loss",
    "margin",
    "solver",
    "max_iter",
    "tol",
    "batch_size",
    "learning_rate",
    "momentum",
    "lr_schedule",
    "early_stopping",
    "validation_fraction",
    "n_iter_no_change",
)

# Rows scored at once: the data may be a memory map that is larger than memory.
_SCORED_ROWS = 1 << 14


_MODEL_NAMES = {
    "SoftmaxClassifier": "softmax",
    "SVMClassifier": "svm",
    "TwoLayerClassifier": "two-layer",
}


def parse_class_weight(text: str | None) -> Any:
    """None, "balanced", or a dict from 'LABEL=WEIGHT,...'; whole numbers are int labels."""
    if text is None or text == "balanced":
        return text
    weights: dict[Any, float] = {}
    for part in text.split(","):
        key, found, value = part.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            found = ""
        if not found:
            raise UserError(
                f"--class-weight must be balanced or LABEL=WEIGHT,LABEL=WEIGHT,... got {text!r}"
            )
        weights[int(key) if re.fullmatch(r"-?[0-9]+", key) else key] = weight
    return weights


def make_estimator(kind: Any, options: dict[str, Any], start: Path | None) -> Any:
    """An estimator of class `kind` with `options`; or `start`, to go on from.

    options : None means not given: the default, or what `start` was trained with
    """
    known = kind().get_params(deep=False)
    for name, owner in (("hidden", "two-layer"), ("loss", "two-layer"), ("margin", "svm")):
        if options.get(name) is not None and name not in known:
            raise UserError(f"--{name} is for --model {owner} only")
    given = {name: value for name, value in options.items() if name in known and value is not None}
    check_parameters(kind, given)
    if start is None:
        return kind(**given)
    model = load_model(start)
    if type(model) is not kind:
        name = _MODEL_NAMES[type(model).__name__]
        raise UserError(f"--start {start} is a {type(model).__name__}: add --model {name}")
    if "hidden" in given and given["hidden"] != model.hidden:
        raise UserError(f"--start {start} has {model.hidden} hidden units: leave --hidden out")
    return model.set_params(**{"warm_start": True, **given})


def check_writable(path: Path, *inputs: str | Path) -> None:
    """`UserError` before the work rather than after it, if `path` cannot be written.

    inputs : what the command reads; a slip must not replace it
    """
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: give a file name")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    if path.exists():
        if not path.is_file():
            raise UserError(f"--out {path} is not an ordinary file: give another name")
        if any(Path(source).exists() and path.samefile(source) for source in inputs):
            raise UserError(f"--out {path} is what is read here: give another name")
    probe = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from None


def check_model_out(path: Path | None, *inputs: str | Path) -> None:
    """As `check_writable`, for a model, if there is a path; its suffix is checked too."""
    if path is None:
        return
    check_writable(path, *inputs)
    try:
        check_model_path(path)
    except ValueError as error:
        raise UserError(f"--out: {error}") from None


def repeat_warnings(console: Console, caught: list[warnings.WarningMessage]) -> None:
    """What a fit warned of, for people."""
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning | UserWarning):
            console.print(f"warning: {warning.message}", style="yellow")


def predict_rows(model: Any, place: Place, x: np.ndarray) -> np.ndarray:
    """Predicted labels on the host, chunk by chunk."""
    parts = [
        _array_api.to_host(model.predict(place.put(x[start : start + _SCORED_ROWS])))
        for start in range(0, len(x), _SCORED_ROWS)
    ]
    return np.concatenate(parts)


class Run:
    """One training in the shell."""

    def __init__(
        self, console: Console, model: Any, place: Place, split: Split, out_path: Path | None
    ) -> None:
        self.console, self.model, self.place = console, model, place
        self.split, self.out_path = split, out_path
        self.seconds = 0.0
        self.rows = 0
        self.progress = FitProgress(console)

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        """Fit with progress, and save; on Ctrl-C keep, and save, the best model so far."""
        self.rows = len(y)
        self._check_start(x, y)
        self.announce(x)
        before = getattr(self.model, "history_", None)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with self.progress as progress:
                    self.model.set_params(callbacks=[progress], device=self.place.device)
                    self._place_model()
                    self.model.fit(x, y)
            except KeyboardInterrupt:
                self._keep_interrupted(getattr(self.model, "history_", None) is not before)
                raise
        self.seconds = time.perf_counter() - start
        # At once: whatever the test rows or the reader of our output do now, the work is kept.
        if self.out_path is not None:
            self._save(self.out_path)
        repeat_warnings(self.console, caught)

    def adopt(self, model: Any, rows: int, seconds: float) -> None:
        """Take a model that was fitted on so many rows elsewhere, and save it."""
        self.model, self.rows, self.seconds = model, rows, seconds
        if self.out_path is not None:
            self._save(self.out_path)

    def report(self) -> dict[str, Any]:
        """Measure on the test rows and print; returns what --json prints."""
        model, split = self.model, self.split
        names = class_labels(model.classes_, split.train.class_names)
        guess = predict_rows(model, self.place, split.x_test)
        test = measure(split.y_test, guess, model.classes_, names)
        result = {
            "data": split.train.source,
            "model": type(model).__name__,
            "parameters": _plain_parameters(model),
            "place": self.place.text,
            "train_rows": self.rows,
            "features": int(model.n_features_in_),
            "objective": model.objective_ if math.isfinite(model.objective_) else None,
            "iterations": model.n_iter_,
            "converged": model.converged_,
            "seconds": self.seconds,
            "test": test,
            "saved": None if self.out_path is None else str(self.out_path),
        }
        self._show_fit()
        show(self.console, test)
        self.console.print(f"test accuracy {test['accuracy']:.4f}", style="bold")
        return result

    def _save(self, path: Path) -> None:
        """Save with the table's column names, which `predict` and `evaluate` compare."""
        names = self.split.train.feature_names
        if names is not None:
            self.model.feature_names_in_ = np.asarray(names, dtype=object)
        try:
            self.model.save(path)
        finally:
            # Rows come as plain arrays here: with names scikit-learn would ask for a data frame.
            self.model.__dict__.pop("feature_names_in_", None)

    def _place_model(self) -> None:
        """A model to go on from must be where its rows will be."""
        if hasattr(self.model, "classes_") and self.place.xp is not None:
            moved = self.model.to_namespace(self.place.xp, self.place.where)
            self.model.__dict__.update(moved.__dict__)

    def _check_start(self, x: np.ndarray, y: np.ndarray) -> None:
        """The estimator would begin anew with other features or classes; in the shell that is a
        slip."""
        model, data = self.model, self.split.train
        if not hasattr(model, "classes_"):
            return
        if model.n_features_in_ != x.shape[1]:
            raise UserError(
                f"--start was trained on {model.n_features_in_} features a row, "
                f"{data.source} has {x.shape[1]}"
            )
        trained = model.__dict__.pop("feature_names_in_", None)  # rows come as plain arrays
        if trained is not None:
            check_columns(data.feature_names, trained.tolist(), data.source)
        if not set(model.classes_.tolist()) & set(np.unique(y).tolist()):
            raise UserError(
                f"--start knows {model.classes_[:20].tolist()}, and none of the labels of "
                f"{data.source}: {np.unique(y)[:20].tolist()}"
            )

    def _keep_interrupted(self, learned: bool) -> None:
        if not learned:
            self.console.print("interrupted before there was a model: nothing to save")
        elif self.out_path is None:
            self.console.print("interrupted; with --out the best model so far would be saved")
        else:
            self._save(self.out_path)
            self.console.print(f"interrupted; saved the best model so far, {self.out_path}")

    def announce(self, x: np.ndarray) -> None:
        """Print what is about to be trained, on what and where."""
        split, model = self.split, self.model
        facts(
            self.console,
            ("data", f"{split.train.source}: {len(x)} rows x {x.shape[1]}, {x.dtype}"),
            ("test", f"{len(split.y_test)} rows, {split.how}"),
            ("model", " ".join(f"{model}".split())),
            ("backend", self.place.text),
        )

    def _show_fit(self) -> None:
        model, last = self.model, self.progress.last
        unit = "iteration" if uses_full_batches(model) else "epoch"
        most = "" if last is None else f" of at most {last.total}"
        if unit == "iteration" or model.converged_:
            most += ", converged" if model.converged_ else ", not converged"
        pairs = [
            ("objective", f"{model.objective_:.8g}"),
            (f"{unit}s", f"{model.n_iter_}{most}"),
            ("time", f"{self.seconds:.2f} s"),
        ]
        if self.out_path is not None:
            pairs.append(("saved", str(self.out_path)))
        facts(self.console, *pairs)


def _plain_parameters(model: Any) -> dict[str, Any]:
    told = model.get_params(deep=False)
    told.pop("callbacks")
    weight = told.get("class_weight")
    if isinstance(weight, dict):
        told["class_weight"] = {str(key): value for key, value in weight.items()}
    return dict(told)
