"""Sections of `results.json` about data and models, for every command that writes results."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf.report.pictures import templates
from xclf.report.run import fingerprint


def data_facts(role: str, name: str, x: Array, y: Any, classes: int) -> dict[str, Any]:
    """An entry of `data`: some rows, by their role ("train", "validation" or "test") and name.

    labels : the fingerprint of the labels alone, which features of the same images share
    classes : of labels of one column; those of several tasks are counted instead
    """
    tasks = 1 if y is None or y.ndim == 1 else int(y.shape[1])
    counted: dict[str, Any] = {"classes": classes} if tasks == 1 else {"tasks": tasks}
    return {
        "role": role,
        "name": name,
        "rows": int(x.shape[0]),
        "features": int(x.shape[1]),
        "dtype": str(x.dtype).rpartition(".")[2],
        **counted,
        "fingerprint": fingerprint(x, y),
        "labels": None if y is None else fingerprint(y),
    }


def model_facts(model: Any) -> dict[str, Any]:
    """The section `model`: a fitted estimator, its parameters, and how its fit ended.

    Of several tasks: the parameters that all share, the most iterations, the mean objective.
    """
    return {
        "estimator": type(model).__name__,
        "parameters": _shared_parameters(getattr(model, "estimators_", None) or [model]),
        "converged": bool(np.all(model.converged_)),
        "iterations": int(np.max(model.n_iter_)),
        "objective": _finite(float(np.mean(model.objective_))),
        "dual_gap": _finite(_largest(getattr(model, "dual_gap_", None))),
    }


def _shared_parameters(models: Sequence[Any]) -> dict[str, Any]:
    first, *others = map(json_parameters, models)
    return {k: v for k, v in first.items() if all(own[k] == v for own in others)}


def _largest(value: Any) -> float | None:
    return None if value is None else float(np.max(value))


def json_parameters(model: Any) -> dict[str, Any]:
    """The parameters of an estimator as values of JSON, without its callbacks; None for a penalty
    that is not known."""
    parameters = dict(model.get_params(deep=False))
    if parameters["reg"] != parameters["reg"]:
        parameters["reg"] = None
    parameters.pop("callbacks", None)
    if isinstance(parameters.get("class_weight"), dict):
        weights = parameters["class_weight"].items()
        parameters["class_weight"] = {str(label): weight for label, weight in weights}
    return parameters


def history_facts(model: Any) -> dict[str, Any] | None:
    """The section `history`: objective and validation accuracy after each iteration or epoch; None
    of several tasks."""
    history = model.history_
    if isinstance(history, list):
        return None
    accuracy = [_finite(value) for value in history["val_accuracy"]]
    return {
        "iteration": list(range(1, len(history["loss"]) + 1)),
        "objective": [_finite(value) for value in history["loss"]],
        "train_accuracy": None,
        "validation_accuracy": accuracy if any(v is not None for v in accuracy) else None,
    }


def template_facts(model: Any, shape: tuple[int, int, int], channel_first: bool) -> dict[str, Any]:
    """The section `templates`: the first layer's weights as images, for rows that are images.

    shape : (height, width, channels) with 1 or 3 channels
    """
    images, names = templates(model, shape, channel_first)
    return {"shape": list(shape), "names": names, "images": [png_uri(image) for image in images]}


def png_uri(image: np.ndarray) -> str:
    """An image (height, width, 1 or 3) of values in 0..1 as a data URI of PNG.

    Rows of the file are not filtered, and compressed by zlib: few lines, so that a page with
    pictures needs no imaging library.
    """
    height, width, channels = image.shape
    pixels = np.round(255.0 * image).astype(np.uint8).reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)
    # 8 bits; grey or RGB; deflate, no interlace (PNG specification, 11.2.1).
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
