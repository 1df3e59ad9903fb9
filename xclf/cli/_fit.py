"""The work behind `xclf train`: an estimator from options, the fit, the report."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning

from xclf import _xp
from xclf.cli._console import FitProgress, UserError
from xclf.cli._devices import Place
from xclf.cli._results import class_labels, measure, show
from xclf.cli._source import Split
from xclf.estimators import check_parameters
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
        weights[int(key) if key.lstrip("-").isdigit() else key] = weight
    return weights


def make_estimator(kind: Any, options: dict[str, Any], start: Path | None) -> Any:
    """An estimator of class `kind` with `options` (None: not given); or `start`, to go on from."""
    known = kind().get_params(deep=False)
    for name in ("hidden", "loss", "margin"):
        if options.get(name) is not None and name not in known:
            raise UserError(f"--{name} does not belong to this --model ({kind.__name__})")
    given = {name: value for name, value in options.items() if name in known and value is not None}
    check_parameters(kind.__name__, given)
    if start is None:
        return kind(**given)
    model = load_model(start)
    if type(model) is not kind:
        raise UserError(f"--start {start} is a {type(model).__name__}, not a {kind.__name__}")
    # Options that were left at their defaults do not override what the model was trained with.
    return model.set_params(**{"warm_start": True, **given})


def check_writable(path: Path) -> None:
    """`UserError` before the work rather than after it, if `path` cannot be written."""
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: give a file name")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")


def predict_rows(model: Any, place: Place, x: np.ndarray) -> np.ndarray:
    """Predicted labels on the host, chunk by chunk."""
    parts = [
        _xp.to_host(model.predict(place.put(x[start : start + _SCORED_ROWS])))
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

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        """Fit with progress; on Ctrl-C keep, and save, the best model so far."""
        self.rows = len(y)
        self._announce(x)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with FitProgress(self.console) as progress:
                    self.model.set_params(callbacks=[progress])
                    self._place_model()
                    self.model.fit(self.place.put(x), y)
            except KeyboardInterrupt:
                self._keep_interrupted()
                raise
        self.seconds = time.perf_counter() - start
        for warning in caught:
            if issubclass(warning.category, ConvergenceWarning | UserWarning):
                self.console.print(f"warning: {warning.message}", style="yellow")

    def report(self) -> dict[str, Any]:
        """Measure on the test rows, print, save; returns what --json prints."""
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
            "saved": None,
        }
        self._show_fit()
        show(self.console, test)
        self.console.print(f"test accuracy {test['accuracy']:.4f}", style="bold")
        if self.out_path is not None:
            model.save(self.out_path)
            result["saved"] = str(self.out_path)
            self.console.print(f"saved {self.out_path}")
        return result

    def _place_model(self) -> None:
        """A model to go on from must be where its rows will be."""
        if hasattr(self.model, "classes_") and self.place.xp is not None:
            moved = self.model.to_namespace(self.place.xp, self.place.index)
            self.model.__dict__.update(moved.__dict__)

    def _keep_interrupted(self) -> None:
        if not hasattr(self.model, "n_iter_"):
            self.console.print("interrupted before there was a model")
        elif self.out_path is None:
            self.console.print("interrupted; with --out the best model so far would be saved")
        else:
            self.model.save(self.out_path)
            self.console.print(f"interrupted; saved the best model so far, {self.out_path}")

    def _announce(self, x: np.ndarray) -> None:
        split, model = self.split, self.model
        table = Table.grid(padding=(0, 2))
        table.add_row("data", f"{split.train.source}: {len(x)} rows x {x.shape[1]}, {x.dtype}")
        table.add_row("test", f"{len(split.y_test)} rows, {split.how}")
        table.add_row("model", f"{model}".replace("\n", " ").replace("  ", ""))
        table.add_row("backend", self.place.text)
        self.console.print(table)

    def _show_fit(self) -> None:
        model = self.model
        unit = "iterations" if len(model.loss_curve_) == 0 or model.converged_ else "steps"
        state = "converged" if model.converged_ else "not converged"
        table = Table.grid(padding=(0, 2))
        table.add_row("objective", f"{model.objective_:.8g}")
        table.add_row(unit, f"{model.n_iter_} ({state})")
        table.add_row("time", f"{self.seconds:.2f} s")
        self.console.print(table)


def _plain_parameters(model: Any) -> dict[str, Any]:
    told = model.get_params(deep=False)
    told.pop("callbacks")
    weight = told.get("class_weight")
    if isinstance(weight, dict):
        told["class_weight"] = {str(key): value for key, value in weight.items()}
    return dict(told)
