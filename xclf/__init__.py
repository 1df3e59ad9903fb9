"""xclf: multiclass SVM, softmax and two-layer-net classifiers that train where your arrays live.

    import xclf
    model = xclf.SoftmaxClassifier(reg=1e-4).fit(X, y)   # X of NumPy, CuPy, torch, ...
    model.predict(X)                                     # in the namespace and on the device of X

No GPU library is imported here; an array brings its own.
"""

import importlib
from typing import TYPE_CHECKING, Any

from xclf import _interrupt, kernels  # noqa: F401  (it comes first: see there)
from xclf._version import __version__
from xclf.accelerate import accelerators
from xclf.estimators import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, from_sklearn, load
from xclf.gradcheck import GradientReport, check_gradient
from xclf.sweep import SweepCV
from xclf.training import Checkpoint, CheckpointError, Event

if TYPE_CHECKING:
    from xclf.probes import ProbeInterrupted, ProbeResult, probe

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Event",
    "GradientReport",
    "ProbeInterrupted",
    "ProbeResult",
    "SVMClassifier",
    "SoftmaxClassifier",
    "SweepCV",
    "TwoLayerClassifier",
    "__version__",
    "accelerators",
    "check_gradient",
    "from_sklearn",
    "kernels",
    "load",
    "probe",
]

# Imported at their first use: most programs need none of them.
_ROOMS = ("cs231n", "data")
_NAMES = dict.fromkeys(("ProbeInterrupted", "ProbeResult", "probe"), "xclf.probes")
# What takes the place of scikit-learn's.
_COUNTERPARTS = {
    "LogisticRegression": "SoftmaxClassifier",
    "LinearSVC": "SVMClassifier",
    "MLPClassifier": "TwoLayerClassifier",
    "GridSearchCV": "SweepCV",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"xclf.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    hint = f"; its counterpart is {_COUNTERPARTS[name]}" if name in _COUNTERPARTS else ""
    raise AttributeError(f"module 'xclf' has no attribute {name!r}{hint}")
