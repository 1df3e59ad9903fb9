"""What Ctrl-C leaves of a search: the candidates that were trained on every fold until then."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.exceptions import FitFailedWarning

from xclf.sweep._fits import last_step
from xclf.sweep._ledger import FitLedger
from xclf.sweep._refit import refit


class UnfinishedFitError(RuntimeError):
    """The failure of a fit that Ctrl-C ended."""


def drop_unfinished(ledger: FitLedger) -> bool:
    """Note as failed all fits but those of candidates that are trained on every fold; False if
    there are none.

    Candidates whose fits have ended count alone, if there are any; otherwise those count that were
    under way on every fold, with their best parameters so far.
    """
    folds = len(ledger.splits)
    candidates = [ledger.fits[k : k + folds] for k in range(0, len(ledger.fits), folds)]
    some = [fits for fits in candidates if any(fit.error is None for fit in fits)]
    kept = [fits for fits in some if all(fit.ended or fit.error for fit in fits)]
    kept = kept or [fits for fits in some if all(fit.trained or fit.error for fit in fits)]
    chosen = {id(fit) for fits in kept for fit in fits}
    for fit in ledger.fits:
        if id(fit) not in chosen:
            fit.fail(UnfinishedFitError("the search was interrupted before this fit had ended"))
    return bool(kept)


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
