"""The course facade: the package `cs231n` that the CS231n notebooks import, on this library.

    import xclf.cs231n

    xclf.cs231n.install()
    from cs231n.classifiers import LinearSVM  # and the rest of the notebook, unchanged

Functions take NumPy, CuPy, torch and other arrays of the Array API standard; results live where
the arrays do. Two conventions for the penalty are the course's own: the linear losses and
`neural_net.TwoLayerNet` add `reg * sum(W^2)`, everything in `fc_net` adds `0.5 * reg * sum(W^2)`.
"""

from __future__ import annotations

import sys

from xclf.cs231n import (
    classifiers,
    data_utils,
    gradient_check,
    layer_utils,
    layers,
    optim,
    solver,
    vis_utils,
)
from xclf.cs231n._uncovered import add_finder

__all__ = [
    "classifiers",
    "data_utils",
    "gradient_check",
    "install",
    "layer_utils",
    "layers",
    "optim",
    "solver",
    "vis_utils",
]


def install() -> None:
    """Make `import cs231n`, and its submodules listed here, find this package.

    It replaces any package of that name imported before; calling it again changes nothing. Modules
    that are not here, such as `features`, are found in a folder cs231n beside the notebook.
    """
    for name, module in list(sys.modules.items()):
        if name == __name__ or name.startswith(f"{__name__}."):
            sys.modules[f"cs231n{name.removeprefix(__name__)}"] = module
    add_finder()
