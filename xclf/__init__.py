"""xclf: multiclass SVM, softmax and two-layer-net classifiers that train where your arrays live.

    import xclf
    model = xclf.SoftmaxClassifier(reg=1e-4).fit(X, y)   # X of NumPy, CuPy, torch, ...
    model.predict(X)                                     # in the namespace and on the device of X

No GPU library is imported here; an array brings its own.
"""

import importlib
from types import ModuleType

from xclf import _interrupt, kernels  # noqa: F401  (it comes first: see there)
from xclf._version import __version__
from xclf.accelerate import accelerators
from xclf.estimators import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, load
from xclf.gradcheck import GradientReport, check_gradient
from xclf.sweep import SweepCV
from xclf.training import Checkpoint, CheckpointError, Event

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Event",
    "GradientReport",
    "SVMClassifier",
    "SoftmaxClassifier",
    "SweepCV",
    "TwoLayerClassifier",
    "__version__",
    "accelerators",
    "check_gradient",
    "kernels",
    "load",
]

_ROOMS = ("cs231n", "data")  # imported at their first use: most programs need neither


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"xclf.{name}")
    raise AttributeError(f"module 'xclf' has no attribute {name!r}")
