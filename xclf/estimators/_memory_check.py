"""Whether a fit can keep to its `max_memory`, by shapes alone: before any work."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xclf._sparse import SparseMatrix, is_sparse
from xclf.estimators._collections import client
from xclf.estimators._devices import PlacedRows
from xclf.estimators._head import Head, loss_of
from xclf.estimators._settings import resolve
from xclf.estimators._values import is_collection
from xclf.objectives import Network
from xclf.rows import FEW, Blocks, ClusterEngine
from xclf.training import memory_budget

if TYPE_CHECKING:
    from xclf.estimators._base import BaseClassifier


def check_memory(model: BaseClassifier, X: Any, classes: int, *, parts: bool = False) -> None:
    """ValueError where the model's `max_memory` is less than a fit to dense rows X, an array of
    NumPy or a collection, takes in any case. Of others, and of what X itself takes, `fit` knows.

    parts : whether fits of rows in blocks are to parts of them, which are weights then
    """
    x = _counted(X)
    if model.max_memory is None or x is None:
        return
    model, placed = copy.copy(model), PlacedRows(x)
    model.n_features_in_ = int(x.shape[1])
    loss, single = loss_of(model), placed.dtype == np.float32
    settings = resolve(model, auto=model._auto_solver, loss=type(loss), single=single)
    head = Head(model, settings, loss, np.arange(classes), np.empty(0))
    network = Network(head.widths, bias=bool(model.fit_intercept))
    in_blocks = x.shape[0] < X.shape[0] or isinstance(X, Blocks)
    vectors = int((parts and in_blocks) or model.class_weight is not None)
    memory_budget(head.shape(network, x, placed.dtype, vectors), model.max_memory)


def _counted(X: Any) -> Any:
    """X as memory is planned for it; None where that is not known yet."""
    if isinstance(X, Blocks):
        return None if isinstance(X, SparseMatrix) else X.counted
    if isinstance(X, np.ndarray):
        return X
    known = is_collection(X) and hasattr(type(X), "numblocks") and X.ndim == 2
    if not known or is_sparse(X._meta) or any(map(math.isnan, X.shape)):
        return None
    there = client()
    few = X.shape[0] * X.shape[1] <= FEW  # which come to this process
    processes = 1 if there is None or few else ClusterEngine(there).processes
    rows = math.ceil(X.shape[0] / processes)
    return np.broadcast_to(np.zeros(1, X.dtype), (rows, X.shape[1]))
