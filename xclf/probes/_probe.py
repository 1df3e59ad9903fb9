"""`probe`: the whole job of a linear probe in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xclf._warnings import warn_caller
from xclf.estimators import BaseClassifier, checkpoint_of, parameters_as_text
from xclf.probes._feature_set import probe_features
from xclf.probes._few_shot import FewShot, check_draws
from xclf.probes._measure import prediction_chunks
from xclf.probes._outcome import Outcome, Settings
from xclf.probes._outputs import check_folder, write_folder
from xclf.probes._parts import Sources, feature_sets
from xclf.probes._plan import make_plan
from xclf.probes._progress import Stages, on_standard_error
from xclf.probes._protocols import Parameter
from xclf.probes._result import ProbeInterrupted, ProbeResult
from xclf.probes._results import (
    for_others,
    judged_by,
    plain,
    results_of,
    times_and_memory,
    trained_on,
)
from xclf.probes._scores import METRICS, scores_on
from xclf.probes._splits import Draws
from xclf.report.class_names import name_classes
from xclf.report.metrics import TOP_K


def probe(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    protocol: str = "dinov2",
    estimator: str | BaseClassifier = "softmax",
    C: Any = None,
    reg: Any = None,
    learning_rate: Any = None,
    folds: int | None = None,
    shots: Any = None,
    tries: int = 10,
    metric: str = "accuracy",
    top_k: int = TOP_K,
    normalize: bool = False,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    verbose: int | bool = 0,
    **parameters: Any,
) -> ProbeResult:
    """Linear probe: choose the penalty on validation rows, refit, test.

    Parameters
    ----------
    train : (X, y), path, or several
        Rows (N, D) of any Array API library with labels (N,), or (N, T) of T tasks, which train
        together and each choose a value of their own; or what `xclf.data.load` reads. A
        dict by name, a list, or 'layers/*.npy,labels.npy' are several feature sets of the same
        rows, layers for example: each is probed, and the best on the validation rows is the result.
    val : as train, or a share
        Rows that the candidates are judged by. By default a stratified share of the training rows
        (0.1 in the protocols here).
    test : as train, a dict or list of several sets, or a share
        Rows that the probe is judged by. By default those that the training data ships, or a
        stratified share of 0.2; 0 for none. For several feature sets: rows for each.
    protocol : {"dinov2", "simclr", "clip", "dinov2-linear"}, default="dinov2"
        Candidates and solver: the guide's page "probe" has each with its source.
    estimator : {"softmax", "svm", "two-layer"} or a classifier of xclf, default="softmax"
        Parameters that it leaves at their defaults are the protocol's.
    C, reg, learning_rate : array of float, default=None
        A grid in the place of the protocol's: one of them. C is scikit-learn's.
    folds : int, default=None
        Judge candidates on so many stratified folds, in the place of validation rows.
    shots : array of int, default=None
        Few-shot: numbers of training rows of each class.
    tries : int, default=10
        Draws for each of `shots`.
    metric : {"accuracy", "mean_per_class", "average_precision"}, default="accuracy"
        What candidates are judged by, and what curves show. Average precision is that of each class
        against the rest, of two classes that of the second: for multi-label indicators.
    top_k : int, default=5
        Measure the share of rows whose class is among the k best, of more than k classes.
    normalize : bool, default=False
        Whether rows are divided by their Euclidean norm. The model then divides those that it
        predicts, too.
    seed : int, default=0
        Of shares, folds, draws and minibatches.
    out : str or path, default=None
        Folder for results.json, model.safetensors, predictions.parquet (.csv without pyarrow) and
        report.html.
    verbose : int, default=0
        1 shows the stages on standard error, with the time that each has left.
    **parameters
        Of the estimator: standardize, fit_intercept, tol, max_iter, device, max_memory, ... With a
        `Checkpoint` among `callbacks` a probe that was killed goes on from there.

    Returns
    -------
    ProbeResult

    Raises
    ------
    ValueError, TypeError
        For bad arguments and rows, before any fit.
    ProbeInterrupted
        For Ctrl-C once there is a model: a KeyboardInterrupt whose `result` is the best so far,
        which is also in `out`.

    Warns
    -----
    ConvergenceWarning
        Once, with the number of fits that did not converge.

    Examples
    --------
    >>> import xclf
    >>> from sklearn.datasets import load_digits
    >>> result = xclf.probe(load_digits(return_X_y=True), C=[1e-4, 1e-2, 1.0], shots=[1, 10])
    >>> result.accuracy > 0.9
    True
    >>> [point["shots"] for point in result.few_shot["points"]]
    [1, 10]
    """
    return run_probe(
        train,
        val,
        test,
        protocol=protocol,
        estimator=estimator,
        C=C,
        reg=reg,
        learning_rate=learning_rate,
        folds=folds,
        shots=shots,
        tries=tries,
        metric=metric,
        top_k=top_k,
        normalize=normalize,
        seed=seed,
        out=out,
        console=on_standard_error() if verbose else None,
        **parameters,
    )


def run_probe(
    train: Any,
    val: Any,
    test: Any,
    *,
    protocol: str,
    estimator: str | BaseClassifier,
    C: Any,
    reg: Any,
    learning_rate: Any,
    folds: int | None,
    shots: Any,
    tries: int,
    metric: str,
    top_k: int,
    normalize: bool,
    seed: int,
    out: str | PathLike[str] | None,
    console: Any,
    reading: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> ProbeResult:
    """`probe` with its progress on a rich console, or None.

    reading : options of `xclf.data.load`, for rows in files
    """
    grids: dict[Parameter, Any] = {"C": C, "reg": reg, "learning_rate": learning_rate}
    plan = make_plan(protocol, estimator, grids, seed, parameters)
    _check(val, folds, metric, top_k)
    read = {"max_memory": plan.estimator.max_memory, **(reading or {})}
    wanted = check_draws(shots, tries, seed)
    settings = Settings(plan, folds, metric, normalize, seed, wanted, read, top_k)
    sets = feature_sets(train, val, test)
    folder = None if out is None else Path(out)
    if folder is not None:
        check_folder(folder)
    job = _Job(settings, sets, Stages(console))
    with _one_warning(), _checkpointed(settings):
        result = job.run()
    if folder is not None:
        job.write(folder, result)
    if result.interrupted:
        raise ProbeInterrupted(result)
    return result


class _Job:
    """A probe under way: what is done when Ctrl-C comes is kept."""

    def __init__(self, settings: Settings, sets: list[Sources], stages: Stages) -> None:
        self.settings, self.sets, self.stages = settings, sets, stages
        self.best: Outcome | None = None
        self.points: list[dict[str, Any]] = []
        self.best_point = 0
        self.few_shot: FewShot | None = None
        self.interrupted = False

    def run(self) -> ProbeResult:
        try:
            for sources in self.sets:
                self._add(probe_features(self.settings, sources, self.stages))
                if self.interrupted:
                    break
            if self.settings.draws is not None and not self.interrupted:
                self._shoot(self.settings.draws)
        except KeyboardInterrupt:
            if self.best is None:
                raise
            self.interrupted = True
        return self._result()

    def _add(self, outcome: Outcome) -> None:
        """Take the probe of a feature set; of equally good ones the first is the best."""
        self.interrupted = outcome.interrupted
        metric, tests = self.settings.metric, outcome.tests
        self.points.append(
            {
                "name": outcome.name,
                "score": outcome.score,
                "chosen": self.settings.plan.protocol.values[outcome.search.chosen],
                "test": float(scores_on([outcome.model], tests[0], metric)[0]) if tests else None,
            }
        )
        if self.best is None or outcome.score > self.best.score:
            self.best, self.best_point = outcome, len(self.points) - 1

    def _shoot(self, draws: Draws) -> None:
        best, settings = self.best, self.settings
        assert best is not None
        measured = best.tests[0] if best.tests else best.val
        assert measured is not None  # it was checked before the search
        chosen = [settings.plan.protocol.values[k] for k in best.choices or [best.search.chosen]]
        self.few_shot = FewShot(
            settings.plan, best.train, best.rows, best.val, chosen, measured, settings.metric
        )
        self.few_shot.run(draws, self.stages)

    def write(self, folder: Path, result: ProbeResult) -> None:
        """Write the folder of results, with predictions for the test rows."""
        assert self.best is not None
        # Rows here are divided by their norms already.
        predictions = prediction_chunks(self.best.model, self.best.tests)
        write_folder(folder, result.results, result.model, predictions)

    def _result(self) -> ProbeResult:
        assert self.best is not None
        if self.best.train.tasks is None:
            name_classes(self.best.model, self.best.train.class_names)
        results = results_of(self.settings, self.best)
        known = trained_on(self.settings, self.best, results)
        model = for_others(self.best.model, self.best.train, known)
        if self.few_shot is not None and self.settings.draws is not None:
            results["few_shot"] = plain(self.few_shot.results(self.settings.draws))
        if len(self.sets) > 1:
            layers = {
                "metric": self.settings.metric,
                "data": judged_by(self.settings),
                "points": self.points,
                "best": self.best_point,
            }
            results["layers"] = plain(layers)
        results |= times_and_memory(self.stages.times)
        results["interrupted"] = self.interrupted
        return ProbeResult(model, results, self.interrupted)


def _checkpointed(settings: Settings) -> AbstractContextManager[Any]:
    """The probe as a stage of the checkpoint that its estimator has among its callbacks.

    Its fits are stages inside this one, which know their rows and labels themselves.
    """
    plan = settings.plan
    checkpoint = checkpoint_of(plan.estimator.callbacks)
    if checkpoint is None:
        return nullcontext()
    facts = {
        "estimator": type(plan.estimator).__name__,
        **parameters_as_text(plan.estimator),
        "protocol": plan.protocol.name,
        "grid": f"{plan.protocol.parameter} {plan.protocol.values}",
        "draws": repr(settings.draws),
        **{name: getattr(settings, name) for name in ("folds", "metric", "normalize", "seed")},
    }
    return checkpoint.stage("probe", facts)


def _check(val: Any, folds: Any, metric: str, top_k: Any) -> None:
    if not isinstance(top_k, int | np.integer) or isinstance(top_k, bool) or top_k < 2:
        raise ValueError(f"top_k must be a whole number, 2 or more, got {top_k!r}")
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if folds is not None:
        if not isinstance(folds, int | np.integer) or isinstance(folds, bool) or folds < 2:
            raise ValueError(f"folds must be a whole number, 2 or more, got {folds!r}")
        if val is not None:
            raise ValueError("val and folds both judge the candidates: give one of them")
    elif isinstance(val, int | float) and not isinstance(val, bool) and val == 0:
        raise ValueError("val=0 leaves no rows to judge the candidates by: give folds")


@contextmanager
def _one_warning() -> Iterator[None]:
    """Repeat warnings once each, and say in one line how many fits did not converge."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    unfinished = [str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning)]
    if unfinished:
        text = f"{len(unfinished)} fits did not converge; the first: {unfinished[0]}"
        warn_caller(text, ConvergenceWarning)
    others = [(str(w.message), w.category) for w in caught]
    for message, category in dict.fromkeys(others):
        if not issubclass(category, ConvergenceWarning):
            warn_caller(message, category)
