"""Fitted models in other libraries: as a module of torch, as an ONNX graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._atomic_write import atomic_write
from xclf._extras import needs
from xclf._version import __version__
from xclf.estimators._fitted import FittedModel

#: The version of the operators that graphs use, and of their container: old runtimes read both.
_OPSET, _IR_VERSION = 17, 8

# What a file of the format can hold.
_MOST_BYTES = 2**31 - 2**20


def layers_on_host(model: FittedModel) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weights (M, D), biases (M,)) of each layer, with one output a class.

    Raises ValueError for a model of several tasks.
    """
    if model._task_models is not None:
        raise ValueError(
            "a model of several tasks is no single module or graph: take each of its estimators_"
        )
    layers = [tuple(_array_api.to_host(part) for part in layer) for layer in model._layers()]
    return [(np.ascontiguousarray(w), np.ascontiguousarray(b[:, 0])) for w, b in layers]


def torch_weights(model: FittedModel) -> dict[str, np.ndarray]:
    """The arrays of `to_torch`'s module, by the names in its state dict."""
    layers = layers_on_host(model)
    if len(layers) == 1:
        return dict(zip(("weight", "bias"), layers[0], strict=True))
    return {
        f"{2 * number}.{name}": array
        for number, layer in enumerate(layers)
        for name, array in zip(("weight", "bias"), layer, strict=True)
    }


def to_torch(model: FittedModel) -> Any:
    """See `FittedModel.to_torch`."""
    layers = layers_on_host(model)
    try:
        import torch
    except ImportError:
        raise ImportError(needs("to_torch", "torch")) from None
    like = model._layers()[0].w
    place = _array_api.device(like) if isinstance(like, torch.Tensor) else "cpu"
    parts: list[Any] = []
    for w, b in layers:
        layer = torch.nn.utils.skip_init(torch.nn.Linear, w.shape[1], w.shape[0])
        layer.weight.data = torch.from_numpy(w.copy()).to(place)
        layer.bias.data = torch.from_numpy(b.copy()).to(place)
        parts += [torch.nn.ReLU(), layer] if parts else [layer]
    module = parts[0] if len(parts) == 1 else torch.nn.Sequential(*parts)
    if model._unit_rows:
        module.register_forward_pre_hook(_divided_by_norm)
    return module


def _divided_by_norm(_: Any, given: tuple[Any]) -> Any:
    """A hook of torch: rows of Euclidean norm 1, the largest value out of each first, as squares
    overflow and underflow; rows of zeros stay."""
    (x,) = given
    largest = x.abs().amax(dim=-1, keepdim=True)
    x = x / largest.where(largest > 0, 1.0)
    norm = x.square().sum(dim=-1, keepdim=True).sqrt()
    return x / norm.where(norm > 0, 1.0)


def to_onnx(model: FittedModel, path: Path) -> None:
    """See `FittedModel.to_onnx`."""
    layers = layers_on_host(model)
    try:
        import onnx
    except ImportError:
        raise ImportError(needs("to_onnx", "onnx")) from None
    if sum(w.nbytes + b.nbytes for w, b in layers) > _MOST_BYTES:
        raise ValueError("an ONNX file holds at most 2 GB, which the weights exceed")
    softmax, unit = hasattr(model, "predict_proba"), model._unit_rows
    graph = _graph(onnx.helper, layers, _labels(model.classes_), softmax, unit)
    proto = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="xclf",
        producer_version=__version__,
    )
    names = getattr(model, "feature_names_in_", None)
    about = {"class": type(model).__name__, "classes": json.dumps(model.classes_.tolist())}
    if names is not None:
        about["feature_names"] = json.dumps([str(name) for name in names])
    onnx.helper.set_model_props(proto, about)
    onnx.checker.check_model(proto)
    data = proto.SerializeToString()
    with atomic_write(path) as part:
        part.write_bytes(data)


def _graph(
    make: Any,
    layers: list[tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    softmax: bool,
    unit: bool,
) -> Any:
    """X (N, D) -> label (N,), probabilities (N, C) of a softmax model, scores (N, C).

    unit : whether rows are divided by their norm first
    """
    kind = make.np_dtype_to_tensor_dtype(layers[0][0].dtype)
    arrays = {"classes": labels}
    nodes, x = [], "X"
    if unit:
        nodes, x = _unit_nodes(make), "unit"
        arrays["smallest"] = np.asarray(np.finfo(layers[0][0].dtype).tiny, layers[0][0].dtype)
    for number, (w, b) in enumerate(layers, start=1):
        last = number == len(layers)
        arrays |= {f"w{number}": w, f"b{number}": b}
        z = "scores" if last else f"z{number}"
        nodes.append(make.make_node("Gemm", [x, f"w{number}", f"b{number}"], [z], transB=1))
        if not last:
            x = f"h{number}"
            nodes.append(make.make_node("Relu", [z], [x]))
    nodes.append(make.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0))
    nodes.append(make.make_node("Gather", ["classes", "best"], ["label"]))
    wide = ["scores"]
    if softmax:
        nodes.append(make.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        wide = ["probabilities", "scores"]
    tensors = [_tensor(make, name, array) for name, array in arrays.items()]
    what = make.make_tensor_value_info
    return make.make_graph(
        nodes,
        "xclf",
        [what("X", kind, ["N", layers[0][0].shape[1]])],
        [what("label", tensors[0].data_type, ["N"])]
        + [what(name, kind, ["N", len(labels)]) for name in wide],
        tensors,
    )


def _unit_nodes(make: Any) -> list[Any]:
    """X -> unit (N, D), as `_divided_by_norm` has it."""
    node = make.make_node
    return [
        node("Abs", ["X"], ["sizes"]),
        node("ReduceMax", ["sizes"], ["largest"], axes=[1], keepdims=1),
        node("Max", ["largest", "smallest"], ["largest_"]),
        node("Div", ["X", "largest_"], ["scaled"]),
        node("ReduceL2", ["scaled"], ["norm"], axes=[1], keepdims=1),
        node("Max", ["norm", "smallest"], ["norm_"]),
        node("Div", ["scaled", "norm_"], ["unit"]),
    ]


def _tensor(make: Any, name: str, array: np.ndarray) -> Any:
    kind = make.np_dtype_to_tensor_dtype(array.dtype)
    if array.dtype == object:
        return make.make_tensor(name, kind, array.shape, [text.encode() for text in array])
    return make.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)


def _labels(classes: np.ndarray) -> np.ndarray:
    """Classes as ONNX has them: int64, float64, or texts as objects."""
    if classes.dtype.kind in "biu":
        return classes.astype(np.int64)
    if classes.dtype.kind == "f":
        return classes.astype(np.float64)
    if classes.dtype.kind == "U" or all(isinstance(label, str) for label in classes):
        return classes.astype(object)
    raise ValueError(
        f"labels of dtype {classes.dtype} have no equivalent in ONNX: train on numbers or texts"
    )
