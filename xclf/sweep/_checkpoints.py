"""A search as a stage of the checkpoint that its estimator has among its callbacks."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

from xclf.estimators import checkpoint_of, parameters_as_text
from xclf.rows import fingerprint
from xclf.sweep._fits import first_steps, last_step
from xclf.sweep._ledger import FitLedger


def search_stage(search: Any, ledger: FitLedger) -> contextlib.AbstractContextManager[Any]:
    """The search over the fits of `ledger`, for a `with` statement.

    Its fits are stages inside this one, which know their rows and labels themselves.
    """
    template = search.estimator
    checkpoint = checkpoint_of(last_step(template).callbacks)
    if checkpoint is None:
        return contextlib.nullcontext()
    folds = hashlib.sha256()
    for split in ledger.splits:
        folds.update(f"{fingerprint(split.train)}{fingerprint(split.test)}".encode())
    facts = {
        "estimator": type(last_step(template)).__name__,
        **parameters_as_text(last_step(template)),
        "steps": [f"{name}: {step!r}" for name, step in first_steps(template)],
        "grid": repr(ledger.candidates),
        "folds": f"sha256:{folds.hexdigest()}",
        "scoring": _name(search.scoring),
        "refit": _name(search.refit),
    }
    return checkpoint.stage("search", facts)


def _name(value: Any) -> str:
    """A text that is the same in every process."""
    if isinstance(value, dict):
        return repr({key: _name(one) for key, one in value.items()})
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else repr(value)
