"""A training in the shell: the fit with its progress, the saved model, the report."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.exceptions import ConvergenceWarning

from xclf._sparse import is_sparse
from xclf.cli._checkpoint import make_checkpoint
from xclf.cli._console import (
    FitProgress,
    UserError,
    log,
    out,
    print_facts,
    print_last,
    warnings_log,
)
from xclf.cli._devices import choose
from xclf.cli._given import refuse
from xclf.cli._report import write_report
from xclf.cli._results import command_facts, evaluate_rows, measures, print_measures
from xclf.cli._source import (
    check_model_columns,
    check_test_size,
    read_split,
    reading_options,
)
from xclf.data import Dataset
from xclf.estimators import check_memory, hashes_of, row_weights, uses_full_batches
from xclf.report.class_names import name_classes, names_of_model
from xclf.report.number_text import plain, seconds
from xclf.report.results import json_parameters
from xclf.rows import RowSketch


def _shape(x: Any) -> str:
    """'1797 rows x 64'; of sparse rows with the entries that they have."""
    rows, features = x.shape
    return f"{rows} rows x {features}" + (f", {x.nnz} entries" if is_sparse(x) else "")


@contextmanager
def warnings_printed(console: Console) -> Iterator[None]:
    """Collects warnings, and prints those about a fit at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning | UserWarning):
            console.print(f"warning: {warning.message}", style="yellow")


class Training:
    """The training of `model` on the data and the device of a command's arguments `given`."""

    def __init__(self, given: dict[str, Any], model: Any) -> None:
        self.checkpoint = make_checkpoint(given)
        self.device = choose(given["device"])
        start = time.perf_counter()
        check_test_size(given)
        self.split, self.trained_on = read_split(
            given["data"],
            test=given["test"],
            test_size=given["test_size"],
            seed=model.random_state,
            like=model,
            **reading_options(given),
        )
        self._refuse_shares(given)
        classes, index = np.unique(np.asarray(self.split.train.y), return_inverse=True)
        row_weights(index, classes, model.class_weight, None)  # names of classes, before any word
        if self.device.name in (None, "cpu"):
            check_memory(model, self.split.train.x, len(classes), parts="folds" in given)
        self.json: bool = given["json"]
        self.full: bool = given["full"]
        self.console, self.log = out(json=self.json), log(json=self.json)
        self.model = model
        self.out_path: Path | None = given["out_path"]
        self.report_path: Path | None = given["report_path"]
        self.times = {"read": time.perf_counter() - start}
        self.seconds = 0.0
        self.rows = 0
        self.progress = FitProgress(self.log)

    def _refuse_shares(self, given: dict[str, Any]) -> None:
        """`UserError` for a share to hold out where test rows are given."""
        # A search without folds holds rows out, too.
        scored_by_folds = given.get("folds", 0) is not None
        if self.trained_on.test_size is None and given["test_size"] and scored_by_folds:
            refuse(["test_size"], given, f"the test rows are {self.split.origin}")

    def announce(self, rows: Dataset) -> None:
        """Print the rows to train on, the test rows, the model and the device."""
        print_facts(
            self.log,
            ("data", f"{rows.source}: {_shape(rows.x)}, {rows.x.dtype}"),
            ("test", self._about_test()),
            ("model", " ".join(f"{self.model}".split())),
            ("backend", self.device.text),
            *self._about_checkpoint(),
        )
        for name in rows.id_like[:3]:
            warnings_log().print(
                f"hint: the column {name!r} looks like the number of a row; --id {name} keeps it "
                "out of the features, and beside predictions",
                style="yellow",
            )

    def _about_test(self) -> str:
        test = self.split.test
        if test is None:
            return "nothing is held out: all rows are trained on"
        return f"{test.x.shape[0]} rows, {self.split.origin}"

    def _about_checkpoint(self) -> list[tuple[str, str]]:
        if self.checkpoint is None:
            return []
        path = self.checkpoint.path
        return [("checkpoint", f"{path}, going on from it" if path.exists() else f"{path}, new")]

    @property
    def callbacks(self) -> list[Any]:
        """The checkpoint, if there is one."""
        return [] if self.checkpoint is None else [self.checkpoint]

    def fit(self, rows: Dataset) -> None:
        """Fit with progress, and save; on Ctrl-C keep, and save, the best model so far."""
        self._check_start(rows)
        self.announce(rows)
        before = getattr(self.model, "history_", None)
        start = time.perf_counter()
        with warnings_printed(warnings_log()):
            try:
                with self.progress as progress:
                    callbacks = [progress, *self.callbacks]
                    self.model.set_params(callbacks=callbacks, device=self.device.name)
                    if hasattr(self.model, "classes_"):  # a model to go on from
                        self.model.__dict__.update(self.device.put_model(self.model).__dict__)
                    self.model.fit(rows.x, rows.y)
            except KeyboardInterrupt:
                self._keep_interrupted(getattr(self.model, "history_", None) is not before)
                raise
            # At once: whatever happens on the test rows or to our output, the model is kept.
            self.adopt(self.model, rows.x.shape[0], time.perf_counter() - start)

    def adopt(self, model: Any, rows: int, seconds: float) -> None:
        """Take a model that was fitted on so many rows, and save it."""
        self.model, self.rows, self.seconds = model, rows, seconds
        self._remember_data()
        if self.out_path is not None:
            self._save(self.out_path)

    def _remember_data(self) -> None:
        name_classes(self.model, self.split.train.class_names)
        self.model._trained_on = self.trained_on

    def report(self, kind: str, **sections: Any) -> dict[str, Any]:
        """Measure on the test rows, print, and write the page; returns what --json prints.

        kind : of the results;  sections : further ones of the page
        """
        model, test = self.model, self.split.test
        names, parts = names_of_model(model), {"train": self.split.train}
        self.times["fit"] = self.seconds
        measured: dict[str, Any] | None = None
        evaluated: dict[str, Any] = {}
        if test is not None:
            assert test.y is not None
            start = time.perf_counter()
            evaluated = evaluate_rows(model, self.device, test.x, test.y, names)
            self.times["test"] = time.perf_counter() - start
            measured, parts["test"] = measures(evaluated), test
        if self.report_path is not None:
            every = (model, self.device, parts, names, evaluated, self.times)
            write_report(self.report_path, kind, *every, **sections)
        self._print_fit()
        if measured is not None:
            print_measures(self.console, measured, full=self.full)
        if self.checkpoint is not None:  # all is done
            self.checkpoint.remove()
        return {
            **command_facts(kind, self.trained_on.fingerprint, None if test is None else test.y),
            "data": self.split.train.source,
            "model": type(model).__name__,
            "parameters": json_parameters(model),
            "place": self.device.text,
            "train_rows": self.rows,
            "features": int(model.n_features_in_),
            "objective": model.objective_ if math.isfinite(model.objective_) else None,
            "iterations": model.n_iter_,
            "converged": model.converged_,
            "seconds": self.seconds,
            "test": measured,
            "saved": None if self.out_path is None else str(self.out_path),
        }

    def print_accuracy(self, result: dict[str, Any]) -> None:
        """Print the line that the training comes to."""
        text = (
            f"trained on all {self.rows} rows; nothing was held out, --test gives rows to test on"
        )
        if result["test"] is not None:
            text = f"test accuracy {result['test']['accuracy']:.4f}"
        print_last(text, json=self.json)

    def _save(self, path: Path) -> None:
        """Save with the table's column names or the svmlight file's first index, which `predict`
        and `evaluate` compare, and a sketch of the rows, by which `evaluate` knows them again."""
        if self.trained_on.seen is None:
            hashes = hashes_of(self.split.train.x)
            self.trained_on = replace(self.trained_on, seen=RowSketch.of(hashes))
        self._remember_data()
        self.model._index_base = self.split.train.index_base
        names = self.split.train.feature_names
        if names is not None:
            self.model.feature_names_in_ = np.asarray(names, dtype=object)
        try:
            self.model.save(path)
        finally:
            # Rows come as plain arrays here: with names scikit-learn would ask for a data frame.
            self.model.__dict__.pop("feature_names_in_", None)

    def _check_start(self, rows: Dataset) -> None:
        """`UserError` for a model to go on from that has other features or no class of the rows:
        the estimator would start anew."""
        model = self.model
        if not hasattr(model, "classes_"):
            return
        if model.n_features_in_ != rows.x.shape[1]:
            raise UserError(
                f"--start was trained on {model.n_features_in_} features a row, "
                f"{rows.source} has {rows.x.shape[1]}"
            )
        check_model_columns(model, rows.feature_names, rows.source)
        assert rows.y is not None
        labels = np.unique(rows.y).tolist()
        if not set(model.classes_.tolist()) & set(labels):
            raise UserError(
                f"--start was trained on the classes {model.classes_[:20].tolist()}, none of which "
                f"is a label of {rows.source}: {labels[:20]}"
            )

    def _keep_interrupted(self, fitted: bool) -> None:
        if not fitted:
            self.log.print("interrupted before there was a model: nothing to save")
        else:
            self.keep_interrupted("interrupted")
        self.print_way_on()

    def keep_interrupted(self, what: str) -> None:
        """Save the best model so far, and say so after `what`."""
        if self.out_path is None:
            self.log.print(f"{what}; with --out the best model so far would be saved")
        else:
            self._save(self.out_path)
            self.log.print(f"{what}; saved the best model so far, {self.out_path}")

    def print_way_on(self) -> None:
        """Say how to go on, if there is a checkpoint."""
        if self.checkpoint is not None and self.checkpoint.path.exists():
            self.log.print(f"the same command with --resume goes on from {self.checkpoint.path}")

    def _print_fit(self) -> None:
        model, last = self.model, self.progress.last
        unit = "iteration" if uses_full_batches(model) else "epoch"
        steps = f"{model.n_iter_}" + ("" if last is None else f" of at most {last.total}")
        if unit == "iteration" or model.converged_:
            steps += ", converged" if model.converged_ else ", not converged"
        print_facts(
            self.console,
            ("objective", plain(float(model.objective_), 8)),
            (f"{unit}s", steps),
            ("time", seconds(self.seconds)),
            *([] if self.out_path is None else [("saved", str(self.out_path))]),
            *([] if self.report_path is None else [("report", str(self.report_path))]),
        )
