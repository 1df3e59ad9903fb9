"""Classifiers of the course. The nets, which share a name, are in `neural_net` and `fc_net`."""

from xclf.cs231n.classifiers import fc_net, linear_svm, neural_net, softmax
from xclf.cs231n.classifiers.linear_classifier import LinearClassifier, LinearSVM, Softmax

__all__ = [
    "LinearClassifier",
    "LinearSVM",
    "Softmax",
    "fc_net",
    "linear_svm",
    "neural_net",
    "softmax",
]
