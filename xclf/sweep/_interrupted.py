"""What Ctrl-C leaves of a search: its candidates on the folds that they were trained on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.exceptions import FitFailedWarning

from xclf.sweep._fits import last_step
from xclf.sweep._ledger import FitLedger
from xclf.sweep._refit import refit


class UnfinishedFitError(RuntimeError):
    """The failure of a fit that Ctrl-C ended."""


def drop_unfinished(ledger: FitLedger) -> list[int]:
    """Keep in the ledger the folds that candidates can be compared over, and note as failed all
    fits but those that count, see `comparable`; the numbers of these folds, none if no fit counts.
    """
    shape = (-1, len(ledger.splits))
    trained = np.reshape([fit.trained and fit.error is None for fit in ledger.fits], shape)
    failed = np.reshape([fit.error is not None for fit in ledger.fits], shape)
    ended = trained & np.reshape([fit.ended for fit in ledger.fits], shape)
    some = trained.any(axis=1, keepdims=True)
    counts = comparable((ended | failed) & some, (trained | failed) & some)
    if not (counts & trained).any():
        return []
    for fit, count in zip(ledger.fits, counts.ravel().tolist(), strict=True):
        if not count:
            fit.fail(UnfinishedFitError("the search was interrupted before this fit had ended"))
    folds: list[int] = np.flatnonzero(counts.any(axis=0)).tolist()
    ledger.keep_folds(folds)
    return folds


def comparable(ended: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Which fits (candidates, folds) of an interrupted search count: bool, like both arguments.

    Those of the candidates that have ended on every fold. If there are none, those of the
    candidates that have ended on the fold that most have ended on, over the folds that all of these
    have ended on; if no fit has ended, likewise by those that were under way.

    ended, trained : bool (candidates, folds); whether parameters are final, and there are any
    """
    table = ended if ended.any() else trained
    every = table.all(axis=1)
    most = int(table.sum(axis=0).argmax())
    kept = np.asarray(every if every.any() else table[:, most])
    folds = np.asarray(table[kept].all(axis=0))
    return kept[:, None] & folds if kept.any() else np.zeros_like(table)


def spread_over_folds(
    search: Any, folds: list[int], n_splits: int, stopped: KeyboardInterrupt
) -> None:
    """Make results over some folds those of an interrupted search over all of them."""
    search.cv_results_ = with_missing_folds(search.cv_results_, folds, n_splits)
    search.n_splits_ = n_splits
    if len(folds) < n_splits:
        stopped.add_note(
            f"SweepCV: candidates are compared over {len(folds)} of {n_splits} folds, those that "
            "were done"
        )


def with_missing_folds(
    results: dict[str, Any], folds: Sequence[int], n_splits: int
) -> dict[str, Any]:
    """`cv_results_` of a search over `folds` alone as one over `n_splits`: NaN for the others."""
    spread: dict[str, Any] = {}
    for name, values in results.items():
        column = re.fullmatch(r"split(\d+)_(.+)", name)
        if column is None:
            spread[name] = values
        elif column[1] == "0":
            for k in range(n_splits):
                own = f"split{folds.index(k)}_{column[2]}" if k in folds else None
                missing = np.full(len(values), np.nan)
                spread[f"split{k}_{column[2]}"] = missing if own is None else results[own]
    return spread


def refit_if_uninterrupted(
    ledger: FitLedger, template: Any, y: Any, params: dict[str, Any]
) -> None:
    """`refit`; Ctrl-C leaves the best parameters so far, and is kept in mind by the ledger."""
    try:
        refit(ledger, template, y, params)
    except KeyboardInterrupt:
        ledger.interrupted = True
        if not hasattr(last_step(template), "n_iter_"):
            take_fold_model(ledger, template, y, params)


def take_fold_model(ledger: FitLedger, template: Any, y: Any, params: dict[str, Any]) -> None:
    """Instead of a refit: the candidate's model on the first fold that it was trained on."""
    wanted = _parameters(template)
    for fit in ledger.fits:
        if fit.error is None and _parameters(fit.template) == wanted:
            template.__dict__.update(fit.template.__dict__)
            return


def _parameters(template: Any) -> dict[str, str]:
    """All parameters but steps and callbacks, which copies of an estimator do not share."""
    every = template.get_params(deep=True).items()
    return {
        name: repr(value)
        for name, value in every
        if not hasattr(value, "get_params")
        and name.rpartition("__")[2] not in ("steps", "callbacks")
    }


@contextmanager
def without_failures() -> Iterator[None]:
    """No warnings of failed fits, which are those that were interrupted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitFailedWarning)
        warnings.filterwarnings("ignore", message=".*non-finite")
        yield
