"""Accelerators of fits on CuPy rows: none is on by default until a device has shown its worth."""

from xclf.accelerate.cuda.loss_kernel import LOSS_KERNEL
from xclf.accelerate.cuda.relu_kernels import RELU_KERNELS
from xclf.accelerate.cuda.step_graphs import STEP_GRAPHS
from xclf.accelerate.cuda.update_kernels import UPDATE_KERNELS

#: In the order in which they are applied: graphs record whatever the others have put in place.
CUDA = (LOSS_KERNEL, RELU_KERNELS, UPDATE_KERNELS, STEP_GRAPHS)

__all__ = ["CUDA", "LOSS_KERNEL", "RELU_KERNELS", "STEP_GRAPHS", "UPDATE_KERNELS"]
