"""SweepCV: scikit-learn's grid search over fits that are trained together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

import numpy as np
from sklearn import get_config
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.utils import indexable
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import _num_samples

from xclf import _array_api
from xclf._warnings import GatheredWarnings, warn_caller
from xclf.estimators import (
    BaseClassifier,
    check_passed,
    check_same_device,
    check_x,
    computed,
    host_labels,
    host_values,
    is_collection,
    label_columns,
    optimized_together,
)
from xclf.rows import Blocks
from xclf.sweep._block_search import RowsBeside, rows_beside, split_beside
from xclf.sweep._checkpoints import search_stage
from xclf.sweep._fits import Fold, last_step
from xclf.sweep._interrupted import (
    drop_unfinished,
    refit_if_uninterrupted,
    spread_over_folds,
    take_fold_model,
    without_failures,
)
from xclf.sweep._ledger import (
    FitLedger,
    Folds,
    OnHost,
    needs_predictions_only,
    on_row_numbers,
    on_rows,
    recording_estimator,
)
from xclf.sweep._plan import train_fits
from xclf.sweep._progress import NullProgress, Progress, on_terminal

#: The estimator; `best_estimator_` is of the same class.
E = TypeVar("E")


class SweepCV(GridSearchCV, Generic[E]):  # type: ignore[misc]
    """`GridSearchCV` that trains all candidates and folds together, in few passes over the data.

    The results, attributes and rules are those of scikit-learn's `GridSearchCV`; what differs is
    how the models are trained (Notes).

    Parameters
    ----------
    estimator : classifier of xclf, or Pipeline
        A Pipeline ends in such a classifier; its other steps are fitted once for each fold and each
        choice of their parameters.
    param_grid : dict of lists, or list of such dicts
        Values by parameter.
    scoring : str, callable, list or dict, default=None
        As in `GridSearchCV`. Scorers of scikit-learn get predictions on the host, any other
        callable the fitted model and its rows.
    n_jobs : int, default=None
        None or 1. The fits run in one process, which uses all cores for rows; any other value has
        no effect, and warns.
    refit : bool, str or callable, default=True
        As in `GridSearchCV`.
    cv : int, splitter or iterable, default=None
        As in `GridSearchCV`. Splitters see X; of a collection of Dask row numbers (N, 1).
    verbose : int, default=0
        1 shows a line of progress: fits finished, the best accuracy so far, time left. The
        estimator's own callbacks get the events of whole passes, whose models an event's `heads`
        counts, and end all of them if they say so.
    error_score : "raise" or float, default=nan
        As in `GridSearchCV`.
    return_train_score : bool, default=False
        As in `GridSearchCV`.

    Attributes
    ----------
    cv_results_ : dict of arrays
        Fit and score times are shares of what was done together.
    best_estimator_, best_score_, best_params_, best_index_ : of the best candidate
        The first is fitted to all rows; a full-batch softmax starts from the mean of the winner's
        models on the folds.
    scorer_, n_splits_, refit_time_, multimetric_, classes_ : as in `GridSearchCV`
    n_features_in_, feature_names_in_ : as in `GridSearchCV`

    Notes
    -----
    Fits that differ by reg, margin, class_weight, learning_rate, momentum or random_state are heads
    of one model, which share every read of X. Heads of full-batch solvers span the folds too, which
    are row weights there, zero outside the fold (where the candidates of one fold fill a product by
    themselves, folds follow each other instead, each over its own rows); they reach the solver's
    tolerance as single fits do. Heads of minibatch solvers share the batches that a single fit to
    the same rows with the same random_state draws, and equal it up to rounding: folds and seeds are
    trained one after the other. Any other parameter (hidden, loss, batch_size, max_iter, ...) makes
    groups, and so does each fold with standardize=True, which has a mean and scale of its own.

    X may be an array of any library that the estimators take, with labels beside it or in host
    memory. At a time as many heads are trained as fit in the estimator's max_memory, or 2 GB.

    Warns once about all fits that did not converge. Raises TypeError for other estimators.

    Examples
    --------
    >>> import xclf
    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> search = xclf.SweepCV(xclf.SoftmaxClassifier(), {"reg": [1e-3, 1e-2, 1e-1, 1.0]}, cv=3)
    >>> search.fit(x, y).best_params_
    {'reg': 0.01}
    """

    pre_dispatch = "2*n_jobs"  # read by the parent class; nothing is dispatched here

    best_estimator_: E
    best_params_: dict[str, Any]
    best_score_: float
    best_index_: int
    cv_results_: dict[str, Any]

    def __init__(
        self,
        estimator: E,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        error_score: Any = np.nan,
        return_train_score: bool = False,
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.scoring = scoring
        self.n_jobs = n_jobs
        self.refit = refit
        self.cv = cv
        self.verbose = verbose
        self.error_score = error_score
        self.return_train_score = return_train_score

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Train every candidate on every fold, score, and refit the best on all rows.

        Parameters
        ----------
        X : array (N, D)
            As the estimators take them. Rows of a collection of Dask stay where they are, and
            labels, folds and weights beside them where the splits hold out each row once; else row
            numbers and weights of each fold are in this process. Scorers that need more than
            predicted labels take a pass for each fit, and get the labels and scores of a fold;
            callables that see rows get those of a fold.
        y : array (N,) or (N, T)
            Labels, where X is, or in host memory, of any library. Of T columns one candidate is
            chosen for all of them, by the scores of predictions (N, T).
        **params
            For `fit`, the splitter (`groups`) and the scorers, as `GridSearchCV` routes them; those
            with a value for each row are split with the rows.

        Returns
        -------
        The search itself.

        Raises
        ------
        KeyboardInterrupt
            For Ctrl-C. Candidates that were trained on every fold by then are scored; if there are
            none, those that have ended on most folds alike, over these folds; if no fit has ended,
            those under way, with their best parameters so far. All attributes are set, with NaN for
            the scores of other candidates and folds, and a note of the exception says how many
            folds count. `best_estimator_` is then the best candidate's model on the first of these
            folds; after Ctrl-C during the refit, what that had come to. Where no model had
            parameters the search stays as it was.
        """
        self._check()
        _check_places(X, {"y": y} | params)
        # What the second search would refuse, before anything is trained.
        self._validate_params()
        self._get_scorers()
        check_passed(self.estimator, X=X, y=y)
        if is_collection(X):
            X, y = optimized_together(X, y)
            options = {"max_memory": last_step(self.estimator).max_memory}
            X = check_x(type(last_step(self.estimator))(**options), X, reset=True)
        beside = rows_beside(self, X, y, params)
        if beside is not None:
            return self._fit_beside(X, beside)
        lazy, y = y, _host_labels(computed(y))
        if _array_api.is_host(X):
            X, y = indexable(X, y)
        params = {name: _on_host(value) for name, value in params.items()}
        for_fit, for_search, for_split = self._routed(params)
        rows = np.arange(_num_samples(X) if _array_api.is_host(X) else int(X.shape[0]))
        in_blocks = isinstance(X, Blocks)
        seen = rows[:, None] if in_blocks else X
        splitter = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        made = splitter.split(seen, y, **for_split)
        if in_blocks:
            beside = split_beside(self, X, lazy, params, made, splitter)
            if beside is not None:
                del y, rows, seen
                return self._fit_beside(X, beside)
            made = splitter.split(seen, y, **for_split)
        splits = [Fold(rows[train], rows[test]) for train, test in made]
        if in_blocks:  # whose rows are picked in their order
            splits = [Fold(np.sort(fold.train), np.sort(fold.test)) for fold in splits]
        candidates = list(ParameterGrid(self.param_grid))
        ledger = FitLedger(X, y, candidates, splits, refit_if_uninterrupted)
        return self._fit_splits(ledger, rows, y, for_fit, for_search)

    def _fit_beside(self, X: Any, beside: RowsBeside) -> Self:
        """`fit` of rows whose labels and folds are beside them: by the numbers of the folds."""
        candidates, splits = list(ParameterGrid(self.param_grid)), beside.splits
        own = (refit_if_uninterrupted, beside, self.scoring)
        ledger = FitLedger(X, None, candidates, splits, *own)
        folds = np.arange(len(splits))
        return self._fit_splits(ledger, folds, np.zeros(len(splits)), {}, {})

    def _fit_splits(
        self,
        ledger: FitLedger,
        rows: np.ndarray,
        y: Any,
        for_fit: dict[str, Any],
        for_search: dict[str, Any],
    ) -> Self:
        """Record, train, score and refit."""
        record = self._search(ledger, scoring=_no_score, refit=False, error_score="raise")
        record.fit(rows[:, None], y, **for_fit)
        ledger.replay()
        ledger.scores.train_too = self.return_train_score
        with search_stage(self, ledger):
            try:
                self._train(ledger)
            except KeyboardInterrupt as stopped:
                n_splits = len(ledger.splits)
                if folds := drop_unfinished(ledger):
                    ledger.refit = take_fold_model
                    with without_failures():
                        self._conclude(ledger, rows, y, for_search, error_score=np.nan)
                    spread_over_folds(self, folds, n_splits, stopped)
                raise
            self._conclude(ledger, rows, y, for_search, error_score=self.error_score)
            if ledger.interrupted:
                raise KeyboardInterrupt
        return self

    def _train(self, ledger: FitLedger) -> None:
        with GatheredWarnings(len(ledger.fits), "fits"), self._watch(ledger) as watch:
            train_fits(ledger, watch)

    def _conclude(
        self, ledger: FitLedger, rows: np.ndarray, y: Any, params: dict[str, Any], error_score: Any
    ) -> None:
        """Score and refit, and set the attributes."""
        search = self._search(
            ledger,
            scoring=on_row_numbers(self.scoring, ledger),
            refit=self.refit,
            error_score=error_score,
            return_train_score=self.return_train_score,
        )
        search.fit(rows[:, None], y, **params)
        self._set_results(search, ledger)

    def score(self, X: Any, y: Any = None, **params: Any) -> float:
        """The best model's score on X, y, by `scoring` (accuracy without)."""
        _check_places(X, {"y": y} | params)
        params = {name: _on_host(value) for name, value in params.items()}
        if self.scoring is None and is_collection(X):
            return super().score(X, y, **params)  # type: ignore[no-any-return]
        y = computed(y)
        scorer = getattr(self, "scorer_", None)
        if isinstance(scorer, dict):
            scorer = scorer.get(self.refit)
        if not needs_predictions_only(scorer):
            return super().score(X, _on_host(y), **params)  # type: ignore[no-any-return]
        check_passed(self.estimator, X=X, y=y)
        shadow: Any = copy.copy(self)
        if not _array_api.is_host(X) or is_collection(X):
            shadow.best_estimator_ = OnHost(self.best_estimator_)
        return super(SweepCV, shadow).score(X, _host_labels(y), **params)  # type: ignore[no-any-return]

    @property
    def set_callbacks(self) -> Any:
        """Not here: scikit-learn's callbacks follow one fit after the other.

        Raises AttributeError, which is how scikit-learn finds out who takes them.
        """
        raise AttributeError(
            "SweepCV does not take scikit-learn's callbacks, as its fits run together: verbose=1 "
            "shows progress, and the estimator's own callbacks get the events of every pass"
        )

    def _check(self) -> None:
        model = last_step(self.estimator)
        if not isinstance(model, BaseClassifier):
            raise TypeError(
                "SweepCV trains xclf's classifiers, or a Pipeline that ends in one, got "
                f"{type(model).__name__}: use sklearn.model_selection.GridSearchCV for others"
            )
        if self.n_jobs not in (None, 1):
            warn_caller(
                f"SweepCV: n_jobs={self.n_jobs} has no effect: all fits run in one process, which "
                "uses every core"
            )

    def _routed(self, params: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Parameters for the estimator, for estimator and scorers, and for the splitter."""
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **params)
            for_fit = dict(routed.estimator.fit)
            return for_fit, for_fit | dict(routed.scorer.score), dict(routed.splitter.split)
        groups = params.pop("groups", None)
        return params, params, {"groups": groups}

    def _search(self, ledger: FitLedger, **options: Any) -> GridSearchCV:
        """scikit-learn's search over the same grid, with a recording estimator and row numbers."""
        model = recording_estimator(clone(self.estimator), ledger)
        return GridSearchCV(model, self.param_grid, cv=Folds(ledger.splits), n_jobs=1, **options)

    def _watch(self, ledger: FitLedger) -> NullProgress:
        console = getattr(self, "_console", None)  # where the shell prints
        if not self.verbose and console is None:
            return NullProgress(ledger)
        return Progress(ledger, console or on_terminal())

    def _set_results(self, search: GridSearchCV, ledger: FitLedger) -> None:
        """Set the attributes of the finished search, without its recording estimators."""
        for name, value in vars(search).items():
            if name.endswith("_") and not name.startswith("_"):
                setattr(self, name, value)
        n_splits = len(ledger.splits)
        seconds = {
            "fit": [fit.fit_seconds for fit in ledger.fits],
            "score": [fit.score_seconds for fit in ledger.fits],
        }
        for what, values in seconds.items():
            table = np.asarray(values).reshape(-1, n_splits)
            if what == "score":
                table += self.cv_results_["mean_score_time"][:, None]
            self.cv_results_[f"mean_{what}_time"] = table.mean(axis=1)
            self.cv_results_[f"std_{what}_time"] = table.std(axis=1)
        self.scorer_ = (
            check_scoring(self.estimator) if self.scoring is None else on_rows(search.scorer_)
        )
        if self.refit:
            self.best_estimator_ = search.best_estimator_.template
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_


def _no_score(model: Any, X: Any, y: Any = None, sample_weight: Any = None) -> float:
    return 0.0


def _check_places(X: Any, beside: dict[str, Any]) -> None:
    for name, values in beside.items():
        check_same_device(X, values, name)


def _on_host(values: Any) -> Any:
    """Labels and the like where splitters and scorers want them; what is no array as it is."""
    return values if _array_api.is_host(values) else host_values(values)


def _host_labels(y: Any) -> Any:
    """y on the host as splitters and scorers can take it; ValueError for missing labels."""
    columns = label_columns(y)
    if columns is not None:
        if len({labels.dtype.kind in "OUT" for _, labels in columns}) > 1:
            raise ValueError(
                "y has columns of strings beside columns of numbers, which scikit-learn's "
                "splitters do not take: pass all as strings, y.astype(str)"
            )
        return np.stack([labels for _, labels in columns], axis=1)
    labels, given = host_labels(y), _on_host(y)
    return given if getattr(given, "dtype", labels.dtype) == labels.dtype else labels
