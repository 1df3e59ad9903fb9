"""The classifiers, as scikit-learn estimators."""

from xclf.estimators._files import ModelFileError, check_model_path, load
from xclf.estimators._linear import SoftmaxClassifier, SVMClassifier
from xclf.estimators._settings import check_parameters, in_full_batches
from xclf.estimators._two_layer import TwoLayerClassifier

__all__ = [
    "ModelFileError",
    "SVMClassifier",
    "SoftmaxClassifier",
    "TwoLayerClassifier",
    "check_model_path",
    "check_parameters",
    "in_full_batches",
    "load",
]
