"""The classifiers, as scikit-learn estimators, and what trains several of them together."""

from xclf.estimators._base import BaseClassifier
from xclf.estimators._block_labels import (
    among_classes,
    block_targets,
    known_beside,
    put_beside,
    targets_beside,
    targets_joined,
    weights_beside,
)
from xclf.estimators._border import (
    check_passed,
    check_same_device,
    check_x,
)
from xclf.estimators._checkpoints import checkpoint_of, parameters_as_text
from xclf.estimators._devices import PlacedRows, place_rows, shares_rows
from xclf.estimators._exchange import torch_weights
from xclf.estimators._exchange_sklearn import from_sklearn
from xclf.estimators._files import ModelFileError, check_model_path, load
from xclf.estimators._fitting import TooManyHeadsError, fit_heads, heads_at_once
from xclf.estimators._foreign import HINTS
from xclf.estimators._head import Head, make_heads
from xclf.estimators._labels import (
    Targets,
    check_sample_weight,
    check_targets,
    check_y,
    encode,
    host_labels,
    label_columns,
    row_weights,
)
from xclf.estimators._linear import SoftmaxClassifier, SVMClassifier
from xclf.estimators._memory_check import check_memory
from xclf.estimators._scores import fitted_shape
from xclf.estimators._settings import check_parameters, unused_parameters, uses_full_batches
from xclf.estimators._shared_rows import SharedRows
from xclf.estimators._stacked import stacked_best, stacked_guess, stacked_scores, stacked_values
from xclf.estimators._tasks import exact_match, join_tasks
from xclf.estimators._together import in_passes
from xclf.estimators._trained_on import TrainedOn, hashes_of
from xclf.estimators._two_layer import TwoLayerClassifier
from xclf.estimators._unit_rows import dividing_rows, unit_rows
from xclf.estimators._values import computed, host_values, is_collection, optimized_together

__all__ = [
    "HINTS",
    "BaseClassifier",
    "Head",
    "ModelFileError",
    "PlacedRows",
    "SVMClassifier",
    "SharedRows",
    "SoftmaxClassifier",
    "Targets",
    "TooManyHeadsError",
    "TrainedOn",
    "TwoLayerClassifier",
    "among_classes",
    "block_targets",
    "check_memory",
    "check_model_path",
    "check_parameters",
    "check_passed",
    "check_same_device",
    "check_sample_weight",
    "check_targets",
    "check_x",
    "check_y",
    "checkpoint_of",
    "computed",
    "dividing_rows",
    "encode",
    "exact_match",
    "fit_heads",
    "fitted_shape",
    "from_sklearn",
    "hashes_of",
    "heads_at_once",
    "host_labels",
    "host_values",
    "in_passes",
    "is_collection",
    "join_tasks",
    "known_beside",
    "label_columns",
    "load",
    "make_heads",
    "optimized_together",
    "parameters_as_text",
    "place_rows",
    "put_beside",
    "row_weights",
    "shares_rows",
    "stacked_best",
    "stacked_guess",
    "stacked_scores",
    "stacked_values",
    "targets_beside",
    "targets_joined",
    "torch_weights",
    "unit_rows",
    "unused_parameters",
    "uses_full_batches",
    "weights_beside",
]
