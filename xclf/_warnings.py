"""Warnings that point at the user's own line."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside this package, from which it was called."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_own(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


class GatheredWarnings:
    """A context of `count` fits, after which each of their warnings is repeated once, and one line
    says how many of them did not converge; a single fit warns at once.

    what : the fits, in words
    """

    def __init__(self, count: int, what: str) -> None:
        self.count, self.what = count, what
        self._catching = warnings.catch_warnings(record=True)

    def __enter__(self) -> None:
        if self.count > 1:
            self._caught = self._catching.__enter__()
            warnings.simplefilter("always")

    def __exit__(self, *error: Any) -> None:
        if self.count == 1:
            return
        self._catching.__exit__(*error)
        if error[0] is not None:
            return
        said = dict.fromkeys((str(one.message), one.category) for one in self._caught or ())
        unfinished = [
            str(one.message)
            for one in self._caught or ()
            if issubclass(one.category, ConvergenceWarning)
        ]
        if unfinished:
            warn_caller(
                f"{len(unfinished)} of {self.count} {self.what} did not converge; the first: "
                f"{unfinished[0]}",
                ConvergenceWarning,
            )
        for text, category in said:
            if not issubclass(category, ConvergenceWarning):
                warn_caller(text, category)


def _is_own(module: str) -> bool:
    return module == "xclf" or module.startswith("xclf.")
