"""Pictures of a fitted model: weight templates and curves. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._atomic_write import atomic_write

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")

_MOST_TEMPLATES = 100


def guess_shape(n_features: int) -> tuple[int, int, int] | None:
    """(height, width, channels) of rows that are square images, or None."""
    if n_features == 3072:  # CIFAR
        return 32, 32, 3
    side = math.isqrt(n_features)
    return (side, side, 1) if side * side == n_features and side >= 4 else None


def templates(
    model: Any, shape: tuple[int, int, int], channel_first: bool
) -> tuple[np.ndarray, list[str]]:
    """The first layer's weights as pictures (M, height, width, channels) in 0..1, and their titles.

    One for each class of a linear model or hidden unit of a net, each scaled to its own range.
    """
    if hasattr(model, "coef_"):
        weights = _array_api.to_host(model.coef_)
        labels = model.classes_.tolist()
        titles = [str(label) for label in (labels if len(labels) > 2 else labels[1:])]
    else:
        weights = _array_api.to_host(model.weights_["w1"]).T
        titles = [f"unit {unit}" for unit in range(len(weights))]
    weights = weights[:_MOST_TEMPLATES]
    height, width, channels = shape
    if channel_first:
        images = weights.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    else:
        images = weights.reshape(-1, height, width, channels)
    low = images.min(axis=(1, 2, 3), keepdims=True)
    span = images.max(axis=(1, 2, 3), keepdims=True) - low
    return (images - low) / np.where(span > 0.0, span, 1.0), titles[: len(images)]


def draw(
    model: Any, path: Path, shape: tuple[int, int, int] | None, channel_first: bool
) -> list[str]:
    """Write the picture of `model` to `path` (.png, .pdf or .svg), whole or not at all.

    It has the templates if rows are images, and the curves of `history_`; their names are returned.
    Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no window

    contents = ["objective"]
    pictures, titles = (
        (np.empty((0,)), []) if shape is None else templates(model, shape, channel_first)
    )
    columns = min(10, max(1, len(titles)))
    grid_rows = -(-len(titles) // columns)
    figure = Figure(figsize=(max(6.4, 1.1 * columns), 1.25 * grid_rows + 3.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[max(0.01, 1.25 * grid_rows), 3.4])
    if titles:
        contents.insert(0, f"{len(titles)} weight templates")
        _draw_templates(parts[0], pictures, titles, grid_rows, columns)
    _draw_curves(parts[1], model.history_)
    save_figure(figure, path)
    return contents


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure to `path`, whole or not at all."""
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150, format=path.suffix[1:])


def _draw_templates(
    part: Any, pictures: np.ndarray, titles: list[str], rows: int, columns: int
) -> None:
    axes = part.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    grey = pictures.shape[-1] == 1
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(picture[..., 0] if grey else picture, cmap="gray" if grey else None)
        axis.set_title(title, fontsize=8, parse_math=False)  # class names may hold $


def _draw_curves(part: Any, history: dict[str, list[float]]) -> None:
    axis = part.subplots()
    steps = np.arange(1, len(history["loss"]) + 1)
    axis.plot(steps, history["loss"], label="objective", color="C0")
    axis.set_xlabel("epoch or iteration")
    axis.set_ylabel("objective")
    losses = np.asarray(history["loss"])
    if losses.size and losses.min() > 0.0 and losses.max() > 20.0 * losses.min():
        axis.set_yscale("log")
    if np.isfinite(history["val_accuracy"]).any():
        other = axis.twinx()
        other.plot(steps, history["val_accuracy"], color="C1", label="validation accuracy")
        other.set_ylabel("validation accuracy")
    part.legend(loc="outside upper right", fontsize=8)
