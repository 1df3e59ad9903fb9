"""What a fitted model does: predict, score, move between namespaces, be saved."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators import _border as border
from xclf.estimators._devices import to_model_device
from xclf.estimators._labels import host_labels
from xclf.estimators._resume import Resume
from xclf.kernels import log_softmax
from xclf.objectives import Layer, Network
from xclf.rows import MemoryBudget, map_rows, parse_bytes


class FittedModel:
    """Prediction over raw layers that a subclass keeps as its fitted attributes."""

    classes_: np.ndarray
    n_features_in_: int
    history_: dict[str, list[float]]
    feature_names_in_: np.ndarray
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

    def _map_scores(self, X: Any, finish: Callable[[Array], Array]) -> Array:
        """finish(scores (C, n)) -> (n, ...) for every chunk of rows, put together.

        Only what `finish` keeps outlives a chunk: memory is bounded by the result.
        """
        check_is_fitted(self)
        X, layers = border.check_x(self, X, reset=False), self._layers()
        X = to_model_device(X, layers[0].w, self.device)
        border.check_same_as_model(layers[0].w, X)
        network = Network(fitted_widths(layers))
        budget = MemoryBudget(parse_bytes(self.max_memory))
        with _array_api.on_device(X):
            theta = network.flatten([(w, b) for w, b in layers])
            scores = partial(_scores, network, theta, finish)
            return map_rows(scores, X, theta.dtype, max(network.widths[1:]), budget)

    def decision_function(self, X: Any) -> Array:
        """Scores, one per class.

        Parameters
        ----------
        X : array (N, D)
            Where the model is; rows in host memory also for a model that `device` put elsewhere.

        Returns
        -------
        array (N, C), or (N,) with two classes: the second's score minus the first's.
        """
        return self._map_scores(X, _decision)

    def predict(self, X: Any) -> Array:
        """The label with the largest score, for every row.

        Parameters
        ----------
        X : array (N, D)
            As in `decision_function`.

        Returns
        -------
        array (N,), where X is; strings as a NumPy array.
        """
        best = self._map_scores(
            X, lambda scores: _array_api.namespace(scores).argmax(scores, axis=0)
        )
        if self.classes_.dtype.kind not in "biuf" or _array_api.is_host(best):
            return self.classes_[_array_api.to_host(best)]
        with _array_api.on_device(best):
            labels = _array_api.from_host(_common(self.classes_), best)
            return _array_api.namespace(best).take(labels, best, axis=0)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean accuracy of `predict(X)` against y, computed on the host.

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
        labels = host_labels(y)
        weights = None if sample_weight is None else border.host_values(sample_weight)
        guess = _array_api.to_host(self.predict(X))
        return float(accuracy_score(labels, guess, sample_weight=weights))

    @property
    def loss_curve_(self) -> list[float]:
        """The objective after every epoch or iteration: `history_["loss"]`."""
        check_is_fitted(self)
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


class ProbabilityMixin:
    """Class probabilities of models trained with the softmax loss."""

    _map_scores: Any

    def predict_log_proba(self, X: Any) -> Array:
        """Log-probabilities (N, C) of rows X (N, D), exact also close to 0 and 1."""
        return self._map_scores(X, _log_p)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N, C) of rows X (N, D): the softmax of the scores."""
        return self._map_scores(X, lambda scores: _array_api.namespace(scores).exp(_log_p(scores)))


def fitted_shape(model: FittedModel) -> tuple[tuple[int, ...], Any]:
    """(widths, dtype) of a fitted model: `stacked_scores` takes models that share both."""
    layers = model._layers()
    return fitted_widths(layers), layers[0].w.dtype


def stacked_scores(models: Sequence[FittedModel], X: Any) -> np.ndarray:
    """Scores (n, K, C) of models of the same widths, on the host: one first product for all."""
    layers = [model._layers() for model in models]
    first = layers[0][0].w
    X = to_model_device(border.check_x(models[0], X, reset=False), first, models[0].device)
    border.check_same_as_model(first, X)
    network = Network(fitted_widths(layers[0]))
    xp = _array_api.namespace(first)
    budget = MemoryBudget(parse_bytes(models[0].max_memory))
    with _array_api.on_device(X):
        theta = xp.stack([network.flatten([(w, b) for w, b in some]) for some in layers])

        def finish(x: Array) -> Array:
            return xp.permute_dims(network.forward(theta, x)[0], (2, 0, 1))

        width = len(models) * max(network.widths[1:])
        return _array_api.to_host(map_rows(finish, X, theta.dtype, width, budget))


def _scores(network: Network, theta: Array, finish: Callable[[Array], Array], x: Array) -> Array:
    return finish(network.forward(theta, x)[0])


def fitted_widths(layers: list[Layer]) -> tuple[int, ...]:
    """Layer widths from features to classes, as the arrays have them."""
    return (int(layers[0].w.shape[1]), *(int(layer.w.shape[0]) for layer in layers))


def _decision(scores: Array) -> Array:
    if scores.shape[0] == 2:
        return scores[1, :] - scores[0, :]
    return _array_api.namespace(scores).matrix_transpose(scores)


def _log_p(scores: Array) -> Array:
    return _array_api.namespace(scores).matrix_transpose(log_softmax(scores, axis=0))


def _common(labels: np.ndarray) -> np.ndarray:
    """Numeric labels in a dtype that every library has: native, signed, no half or long floats."""
    if labels.dtype.kind == "u":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f" and labels.dtype.itemsize not in (4, 8):
        return labels.astype(np.float64)
    return _array_api.native(labels)
