"""Fully connected nets for the Solver. The penalty is 0.5 * reg * sum(W^2) throughout.

`from cs231n.classifiers.fc_net import *` also brings the layer functions, as in the handouts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf.cs231n import layer_utils, layers
from xclf.cs231n._arrays import load_arrays, save_arrays
from xclf.cs231n.classifiers import _net
from xclf.cs231n.layer_utils import *  # noqa: F403
from xclf.cs231n.layers import *  # noqa: F403

__all__ = ["FullyConnectedNet", "TwoLayerNet", *layers.__all__, *layer_utils.__all__]


class TwoLayerNet:
    """affine - ReLU - affine - softmax, the penalty being 0.5 * reg * sum(W^2).

    params : W1 (D, H), b1 (H,), W2 (H, C), b2 (C,): NumPy at first, float64, drawn from NumPy's
             global stream as weight_scale * randn, W1 before W2; they move to where X is at the
             first use.
    """

    def __init__(
        self,
        input_dim: int = 3 * 32 * 32,
        hidden_dim: int = 100,
        num_classes: int = 10,
        weight_scale: float = 1e-3,
        reg: float = 0.0,
    ) -> None:
        self.reg = reg
        self.params: dict[str, Array] = dict(
            _net.initial((input_dim, hidden_dim, num_classes), weight_scale)
        )

    def loss(self, X: Array, y: Array | None = None) -> Any:
        """Scores (N, C) if y is None, else (loss, grads).

            loss = 1/N sum_i -log P(y_i) + reg/2 * (sum(W1^2) + sum(W2^2))

        X : (N, d_1, ..., d_k);  y : (N,) integers in [0, C), on the host or beside X. `grads` has
        the keys and shapes of `params`.
        """
        return _net.evaluate(self.params, X, y, 0.5 * self.reg)

    def save(self, fname: str | os.PathLike[str]) -> None:
        """Write `params` to a file of exactly this name (npz format, no pickle)."""
        save_arrays(fname, self.params)

    def load(self, fname: str | os.PathLike[str]) -> bool:
        """Read `params`, as NumPy arrays, from a file that `save` wrote. Returns True.

        Raises FileNotFoundError, or ValueError for a file that save() did not write.
        """
        self.params = dict(load_arrays(fname, self.params))
        return True


class FullyConnectedNet:
    """{affine - [norm] - ReLU - [dropout]} x len(hidden_dims) - affine - softmax.

    hidden_dims : the size of each hidden layer, any number of them
    dropout_keep_ratio : probability to keep a hidden value in training; 1 is no dropout
    dropout : the same under the name that older handouts use (0 is no dropout there)
    normalization : None, "batchnorm" or "layernorm"
    dtype : of parameters and computation, to which X is cast; "float64", np.float32, ...
    seed : makes every dropout mask the same, so that numeric gradients can be taken. It does so by
           seeding NumPy's global stream in every training loss, so batches repeat: not for training

    params : W1, b1, ..., and gamma1 (ones), beta1 (zeros), ... with normalisation. They are drawn
             in the order W1, W2, ... as weight_scale * randn and move to where X is at first use.

    The penalty is 0.5 * reg * sum(W^2); b, gamma and beta are free of it. Raises ValueError for an
    unknown normalisation, a ratio outside (0, 1], or both names of the ratio.
    """

    def __init__(
        self,
        hidden_dims: Sequence[int],
        input_dim: int = 3 * 32 * 32,
        num_classes: int = 10,
        dropout_keep_ratio: float = 1,
        normalization: str | None = None,
        reg: float = 0.0,
        weight_scale: float = 1e-2,
        dtype: Any = np.float32,
        seed: int | None = None,
        *,
        dropout: float | None = None,
    ) -> None:
        if normalization is not None and normalization not in _net.NORMALIZATIONS:
            allowed = ", ".join(map(repr, _net.NORMALIZATIONS))
            raise ValueError(f"normalization must be None, {allowed}; got {normalization!r}")
        self.reg, self.dtype, self.normalization = reg, dtype, normalization
        self.num_layers = 1 + len(hidden_dims)
        keep = _keep_ratio(dropout_keep_ratio, dropout)
        self.use_dropout = keep != 1
        self.dropout_param: dict[str, Any] = (
            {"mode": "train", "p": keep} if self.use_dropout else {}
        )
        if self.use_dropout and seed is not None:
            self.dropout_param["seed"] = seed
        sizes = (input_dim, *hidden_dims, num_classes)
        params = _net.initial(sizes, weight_scale)
        self.bn_params: list[dict[str, Any]] = []
        if normalization is not None:
            for k, size in enumerate(hidden_dims, start=1):
                params[f"gamma{k}"], params[f"beta{k}"] = np.ones(size), np.zeros(size)
                self.bn_params.append({"mode": "train"})
        host_dtype = np.dtype(_dtype_name(dtype))
        self.params: dict[str, Array] = {k: v.astype(host_dtype) for k, v in params.items()}

    def loss(self, X: Array, y: Array | None = None) -> Any:
        """Scores (N, C) if y is None, by the rules of test time, else (loss, grads).

        X : (N, d_1, ..., d_k);  y : (N,) integers in [0, C), on the host or beside X. `grads` has
        the keys and shapes of `params`.
        """
        for param in (self.dropout_param, *self.bn_params):
            param["mode"] = "test" if y is None else "train"
        return _net.evaluate(
            self.params,
            X,
            y,
            0.5 * self.reg,
            dtype=getattr(namespace(X), _dtype_name(self.dtype)),
            normalization=self.normalization,
            norm_params=self.bn_params,
            dropout_param=self.dropout_param if self.use_dropout else None,
        )


def _keep_ratio(dropout_keep_ratio: float, dropout: float | None) -> float:
    """The probability to keep a value, from the newer or the older parameter."""
    if dropout is not None and dropout_keep_ratio != 1:
        raise ValueError("dropout is the older name of dropout_keep_ratio: give one of the two")
    keep = dropout_keep_ratio if dropout is None else dropout or 1
    if not 0 < keep <= 1:
        raise ValueError(f"a value is kept with a probability in (0, 1], got {keep!r}")
    return keep


def _dtype_name(dtype: Any) -> str:
    """'float32' for np.float32, torch.float32, 'float32', ..."""
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype).rpartition(".")[2]
