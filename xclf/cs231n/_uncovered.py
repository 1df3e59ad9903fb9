"""What the course has and this package has not, and where imports of it go."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

COVERED = (
    "xclf.cs231n covers k-nearest neighbours, the linear classifiers and fully connected nets of "
    "the first two assignments"
)

#: Names of the course's convolutional and recurrent parts, which modules here lack.
NAMES = {
    "ThreeLayerConvNet": "classifiers.cnn",
    "CaptioningRNN": "classifiers.rnn",
    "CaptioningTransformer": "classifiers.transformer",
    **dict.fromkeys(
        (
            *("conv_forward_naive", "conv_backward_naive"),
            *("max_pool_forward_naive", "max_pool_backward_naive"),
            *("spatial_batchnorm_forward", "spatial_batchnorm_backward"),
            *("spatial_groupnorm_forward", "spatial_groupnorm_backward"),
        ),
        "layers",
    ),
    **dict.fromkeys(
        (
            *("conv_relu_forward", "conv_relu_backward"),
            *("conv_bn_relu_forward", "conv_bn_relu_backward"),
            *("conv_relu_pool_forward", "conv_relu_pool_backward"),
        ),
        "layer_utils",
    ),
}


def missing(module: str, name: str) -> Exception:
    """The error for a name that a module of this package lacks."""
    if name in NAMES:
        return ImportError(f"{name} is not part of it: {COVERED}, not convolutions or sequences")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


class CourseFinder(MetaPathFinder):
    """Finds `cs231n.NAME` that this package lacks, such as `features`, in a folder cs231n of the
    import path: the course's own file. Without one the error says what is covered."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The course's own file, in the place of a module that is not here."""
        first, _, rest = fullname.partition(".")
        if first != "cs231n" or not rest:
            return None
        folder = Path("cs231n", *rest.split(".")[:-1])
        places = [str(Path(entry or ".") / folder) for entry in sys.path]
        found = PathFinder.find_spec(fullname, places)
        if found is None:
            raise ModuleNotFoundError(
                f"there is no {fullname}: {COVERED}; for other parts keep the course's folder "
                "cs231n beside the notebook, where such files are found",
                name=fullname,
            )
        return found


def add_finder() -> None:
    """Put the finder behind the others, once."""
    finders: list[Any] = sys.meta_path
    if not any(isinstance(finder, CourseFinder) for finder in finders):
        finders.append(CourseFinder())
