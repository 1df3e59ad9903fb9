"""What a fitted model does: predict, score, move between namespaces, be saved."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators import _border as border
from xclf.estimators._block_scores import block_accuracy
from xclf.estimators._collections import map_lazily
from xclf.estimators._labels import host_labels, label_columns
from xclf.estimators._resume import Resume
from xclf.estimators._scores import best_class, decision, fitted_shape, map_scores
from xclf.estimators._tasks import common, exact_match, join_tasks, labels_of
from xclf.estimators._trained_on import TrainedOn
from xclf.estimators._types import A, HostRows
from xclf.estimators._values import computed, host_values, is_collection
from xclf.objectives import Layer


class FittedModel:
    """Prediction over raw layers that a subclass keeps as its fitted attributes."""

    classes_: Any
    n_features_in_: int
    n_iter_: int
    objective_: float
    converged_: bool
    grad_norm_: float
    history_: Any
    feature_names_in_: np.ndarray
    class_names_: list[str] | None = None
    _trained_on: TrainedOn | None = None
    _unit_rows: bool = False  # whether rows are divided by their Euclidean norm before anything
    _index_base: int | None  # of the svmlight file trained on
    _resume: Resume | None = None  # of a model that `partial_fit` trains
    device: Any
    max_memory: Any
    get_params: Any

    @abstractmethod
    def _widths(self, n_classes: int) -> tuple[int, ...]:
        """Layer widths from features to classes."""

    @abstractmethod
    def _layers(self) -> list[Layer]:
        """Raw layers with one score per class, from the fitted attributes."""

    @abstractmethod
    def _array_names(self) -> tuple[str, ...]:
        """Fitted attributes that are arrays, or dicts of arrays, of the model's namespace."""

    def _map_scores(self, X: Any, finish: Callable[[Array], Array]) -> Array | list[Array]:
        """finish(scores (*heads, C, n)) -> (n, *heads, ...) for every chunk of rows, put together;
        of several tasks a list of what each comes to.

        Only what `finish` keeps outlives a chunk: memory is bounded by the result.
        """
        check_is_fitted(self)
        X, models = border.check_x(self, X, reset=False), self._task_models
        if models is None:
            return map_scores([self], X, finish, stack=False)
        alike: dict[Any, list[int]] = {}
        for number, model in enumerate(models):
            alike.setdefault(fitted_shape(model), []).append(number)
        parts: dict[int, Array] = {}
        for numbers in alike.values():
            together = map_scores([models[k] for k in numbers], X, finish, stack=True)
            parts |= {k: together[:, place, ...] for place, k in enumerate(numbers)}
        return [parts[k] for k in range(len(models))]

    @property
    def _task_models(self) -> list[Self] | None:
        """The fitted models of several tasks; None for labels of one column."""
        return self.__dict__.get("estimators_")

    def _by_class(self, X: Any, finish: Callable[[Array], Array]) -> Any:
        """`_map_scores` with an entry for each class; of indicators, (N, T) of the second class."""
        if is_collection(X):
            check_is_fitted(self)
            if self._task_models is not None and not self._indicators:
                return [own._by_class(X, finish) for own in self._task_models]
            return map_lazily(self, X, lambda model, rows: model._by_class(rows, finish))
        values = self._map_scores(X, finish)
        if not isinstance(values, list) or isinstance(self.classes_, list):
            return values
        with _array_api.on_device(values[0]):
            second = [own if own.ndim == 1 else own[:, 1] for own in values]
            return _array_api.namespace(values[0]).stack(second, axis=1)

    @overload
    def decision_function(self, X: HostRows) -> NDArray[Any]: ...
    @overload
    def decision_function(self, X: A) -> A: ...
    def decision_function(self, X: Any) -> Any:
        """Scores, one per class.

        Parameters
        ----------
        X : array (N, D)
            Where the model is; rows in host memory also for a model that `device` put elsewhere.

        Returns
        -------
        array (N, C), or (N,) with two classes: the second's score minus the first's. Of several
        tasks a list of these; of multi-label indicators an array (N, T).
        """
        return self._by_class(X, decision)

    @overload
    def predict(self, X: HostRows) -> NDArray[Any]: ...
    @overload
    def predict(self, X: A) -> A: ...
    def predict(self, X: Any) -> Any:
        """The label with the largest score, for every row.

        Parameters
        ----------
        X : array (N, D)
            As in `decision_function`.

        Returns
        -------
        array (N,), where X is; strings as a NumPy array. Of several tasks (N, T), of multi-label
        indicators integers 0 and 1; strings beside numbers are objects.
        """
        if is_collection(X):
            check_is_fitted(self)
            return map_lazily(self, X, lambda model, rows: model.predict(rows))
        best = self._map_scores(X, best_class)
        if isinstance(best, list):
            assert self._task_models is not None
            own = [model.classes_ for model in self._task_models]
            return labels_of([np.arange(2)] * len(own) if self._indicators else own, best)
        if self.classes_.dtype.kind not in "biuf" or _array_api.is_host(best):
            return self.classes_[_array_api.to_host(best)]
        with _array_api.on_device(best):
            labels = _array_api.from_host(common(self.classes_), best)
            return _array_api.namespace(best).take(labels, best, axis=0)

    @property
    def _indicators(self) -> bool:
        """Whether the tasks are the columns of a multi-label indicator."""
        return self._task_models is not None and not isinstance(self.classes_, list)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean accuracy of `predict(X)` against y, computed on the host; of several tasks the share
        of rows of which all labels are right.

        Parameters
        ----------
        X, y, sample_weight : arrays
            As in `fit`.

        Returns
        -------
        float in [0, 1].
        """
        check_is_fitted(self)
        border.check_passed(self, y=y)
        border.check_same_device(X, y, "y")
        border.check_same_device(X, sample_weight, "sample_weight")
        if is_collection(X) and is_collection(y):
            share = block_accuracy(self.predict(X), y, sample_weight)
            if share is not None:
                return share
        y, sample_weight = computed(y), computed(sample_weight)
        weights = None if sample_weight is None else host_values(sample_weight)
        if self._task_models is not None:
            columns = label_columns(y)
            if columns is None or len(columns) != len(self._task_models):
                given = 1 if columns is None else len(columns)
                raise ValueError(
                    f"the model has {len(self._task_models)} tasks, y {given} columns of labels"
                )
            guess = _array_api.to_host(computed(self.predict(X)))
            return exact_match([labels for _, labels in columns], guess, weights)
        labels = host_labels(y)
        guess = _array_api.to_host(computed(self.predict(X)))
        return float(accuracy_score(labels, guess, sample_weight=weights))

    @property
    def loss_curve_(self) -> Any:
        """The objective after every epoch or iteration: `history_["loss"]`; a list of several
        tasks'."""
        check_is_fitted(self)
        if isinstance(self.history_, list):
            return [history["loss"] for history in self.history_]
        return self.history_["loss"]

    # Moving and keeping.

    def to_namespace(self, xp: Any, device: Any = None) -> Self:
        """A copy of the fitted model with its arrays in another library, or on another device.

            model.to_namespace(cupy)      # a model trained on the CPU now predicts CuPy arrays

        Parameters
        ----------
        xp : module
            Such as numpy, cupy or torch.
        device : device, default=None
            As that library names it; None is its default.
        """
        check_is_fitted(self)
        target = _array_api.compat_namespace(xp)
        moved = copy.copy(self)
        if self._task_models is not None:
            own = [model.to_namespace(xp, device) for model in self._task_models]
            join_tasks(moved, own, self._indicators)
            return moved
        moved.history_ = {key: list(values) for key, values in self.history_.items()}

        def move(a: Any) -> Any:
            if isinstance(a, dict):
                return {key: move(value) for key, value in a.items()}
            return _array_api.asarray(target, _array_api.to_host(a), device=device, copy=True)

        for name in self._array_names():
            setattr(moved, name, move(getattr(self, name)))
        if self._resume is not None:
            moved._resume = self._resume.moved(move)
        return moved

    def save(self, path: str | Path) -> None:
        """Write the fitted model to a file that `xclf.load` reads: safetensors, never pickle.

        Parameters
        ----------
        path : str or Path
            Ends in .safetensors or has no suffix; decimals ("reg0.01") are none.

        Raises
        ------
        ValueError
            For another suffix.
        OSError
            If the file cannot be written; a file that was there before stays as it was.
        """
        from xclf.estimators._files import save_model  # the other way round it needs the classes

        check_is_fitted(self)
        save_model(self, Path(path))

    # In other libraries.

    def to_torch(self) -> Any:
        """The model as a module of torch, whose outputs are the scores (N, C), to rounding.

            head = model.to_torch()     # a linear model: torch.nn.Linear(D, C)

        Returns
        -------
        torch.nn.Linear, of a net torch.nn.Sequential(Linear, ReLU, Linear); in the dtype of the
        model, on its device if it is of torch, else on the CPU. Output k is the score of
        `classes_[k]`, also of two classes. Its state dict is that of such a head. A model of a
        probe with `normalize` has a forward pre-hook that divides rows by their norm, which its
        state dict has not.

        Raises
        ------
        ImportError
            Without torch.
        """
        from xclf.estimators._exchange import to_torch

        check_is_fitted(self)
        return to_torch(self)

    def to_onnx(self, path: str | Path) -> None:
        """Write the model to an ONNX file.

        Its input is X (N, D), in the dtype of the model; its outputs are label (N,), the
        probabilities (N, C) of a model that has them, and scores (N, C), one a class. The graph of
        a model of a probe with `normalize` divides the rows by their norm.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        ImportError
            Without the package onnx.
        ValueError
            For labels that ONNX does not know, such as dates; weights of more than 2 GB.
        """
        from xclf.estimators._exchange import to_onnx

        check_is_fitted(self)
        to_onnx(self, Path(path))

    def to_sklearn(self, *, rows: float | None = None) -> Any:
        """The model as a fitted estimator of scikit-learn, with the same predictions to rounding.

        Parameters
        ----------
        rows : float, default=None
            Rows (the sum of their weights) that it was fitted to, by which `reg` becomes C or
            alpha; None leaves those at their defaults, which predictions do not depend on, or at
            what a model that `from_sklearn` has taken came with.

        Returns
        -------
        LogisticRegression, LinearSVC (crammer_singer), or of a net with the softmax MLPClassifier;
        of a model that `from_sklearn` has taken, and that was not fitted since, the same class
        with the same parameters. Of a probe with `normalize` it is the last step of a Pipeline,
        after a Normalizer.

        Raises
        ------
        ValueError
            For a net with a hinge, which scikit-learn has not.
        """
        from xclf.estimators._exchange_sklearn import to_sklearn

        check_is_fitted(self)
        return to_sklearn(self, rows)  # type: ignore[arg-type]
