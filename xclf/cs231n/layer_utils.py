"""Layers that come in pairs: an affine map followed by a ReLU."""

from __future__ import annotations

from typing import Any

from xclf._array_api import Array
from xclf.cs231n._uncovered import missing
from xclf.cs231n.layers import affine_backward, affine_forward, relu_backward, relu_forward

__all__ = ["affine_relu_backward", "affine_relu_forward"]


def affine_relu_forward(x: Array, w: Array, b: Array) -> tuple[Array, Any]:
    """out = max(0, x' w + b). Shapes as in `affine_forward`. Returns (out, cache)."""
    scores, affine_cache = affine_forward(x, w, b)
    out, relu_cache = relu_forward(scores)
    return out, (affine_cache, relu_cache)


def affine_relu_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """(dx, dw, db): the gradients through `affine_relu_forward`."""
    affine_cache, relu_cache = cache
    return affine_backward(relu_backward(dout, relu_cache), affine_cache)


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
