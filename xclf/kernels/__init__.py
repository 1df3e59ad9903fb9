"""The formulas: pure functions of arrays, each loss or layer with its gradient beside it.

Written once against the Array API standard: NumPy, CuPy, torch and any other namespace that
array-api-compat knows run the same lines. One head and K heads are the same code. Nothing here
checks values, holds state, draws random numbers or reads anything on the host.
"""

from xclf.kernels._cross_entropy import cross_entropy, log_softmax
from xclf.kernels._hinge import hinge, proximal_hinge, squared_hinge
from xclf.kernels._layers import affine, affine_grad, l2, relu, relu_grad
from xclf.kernels._reductions import one_hot

__all__ = [
    "affine",
    "affine_grad",
    "cross_entropy",
    "hinge",
    "l2",
    "log_softmax",
    "one_hot",
    "proximal_hinge",
    "relu",
    "relu_grad",
    "squared_hinge",
]
