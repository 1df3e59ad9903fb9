"""The classifiers, as scikit-learn estimators."""

from xclf.estimators._files import load
from xclf.estimators._linear import SoftmaxClassifier, SVMClassifier
from xclf.estimators._two_layer import TwoLayerClassifier

__all__ = ["SVMClassifier", "SoftmaxClassifier", "TwoLayerClassifier", "load"]
