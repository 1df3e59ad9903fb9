"""Classifiers of the course. The nets, which share a name, are in `neural_net` and `fc_net`."""

from typing import Any

from xclf.cs231n._uncovered import missing
from xclf.cs231n.classifiers import fc_net, linear_svm, neural_net, softmax
from xclf.cs231n.classifiers.k_nearest_neighbor import KNearestNeighbor
from xclf.cs231n.classifiers.linear_classifier import LinearClassifier, LinearSVM, Softmax

__all__ = [
    "KNearestNeighbor",
    "LinearClassifier",
    "LinearSVM",
    "Softmax",
    "fc_net",
    "linear_svm",
    "neural_net",
    "softmax",
]


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
