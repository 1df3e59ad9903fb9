"""Pictures of a fitted model: weight templates and curves. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._atomic_write import atomic_write
from xclf.optim import SOLVERS
from xclf.report.class_names import names_of_model
from xclf.report.number_text import plain

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")

_MOST_TEMPLATES = 100

#: Colours that are told apart without colour vision too (Okabe and Ito), with marks and dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")


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
    images, titles = _weights(model, shape, channel_first)
    low = images.min(axis=(1, 2, 3), keepdims=True)
    span = images.max(axis=(1, 2, 3), keepdims=True) - low
    return (images - low) / np.where(span > 0.0, span, 1.0), titles


def _weights(
    model: Any, shape: tuple[int, int, int], channel_first: bool
) -> tuple[np.ndarray, list[str]]:
    """The weights that `templates` shows, as they are."""
    if hasattr(model, "coef_"):
        weights = _array_api.to_host(model.coef_)
        names = names_of_model(model)
        titles = names if len(names) > 2 else [f"{names[1]} - {names[0]}"]
    else:
        weights = _array_api.to_host(model.weights_["w1"]).T
        titles = [f"unit {unit}" for unit in range(len(weights))]
    weights = weights[:_MOST_TEMPLATES]
    height, width, channels = shape
    if channel_first:
        images = weights.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    else:
        images = weights.reshape(-1, height, width, channels)
    return images, titles[: len(images)]


def draw(
    model: Any, path: Path, shape: tuple[int, int, int] | None, channel_first: bool
) -> list[str]:
    """Write the picture of `model` to `path` (.png, .pdf or .svg), whole or not at all.

    It has the templates if rows are images, and the curves of `history_`; their names are returned.
    Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no window

    contents = ["objective"]
    images, titles = np.empty((0,)), list[str]()
    if shape is not None:
        images, titles = _weights(model, shape, channel_first)
    columns = min(10, max(1, len(titles)))
    grid_rows = -(-len(titles) // columns)
    heights = [max(0.01, 1.25 * grid_rows + 0.4), 3.4]
    figure = Figure(figsize=(max(6.4, 1.1 * columns), sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    if titles:
        assert shape is not None
        contents.insert(0, f"{len(titles)} weight templates")
        parts[0].suptitle(_heading(model, titles, colours=shape[2] == 3), fontsize=11)
        pictures = templates(model, shape, channel_first)[0] if shape[2] == 3 else images
        _draw_templates(parts[0], pictures, titles, grid_rows, columns)
    _draw_curves(parts[1], model)
    save_figure(figure, path)
    return contents


def _heading(model: Any, titles: list[str], *, colours: bool) -> str:
    name, several = type(model).__name__, "" if len(titles) == 1 else "s"
    what = f"class{several and 'es'}" if hasattr(model, "coef_") else f"hidden unit{several}"
    scaled = "each scaled to its own range" if colours else "each divided by its largest"
    return f"{name}: weights of {len(titles)} {what}, {scaled}"


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure to `path`, whole or not at all."""
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150, format=path.suffix[1:])


def _draw_templates(
    part: Any, pictures: np.ndarray, titles: list[str], rows: int, columns: int
) -> None:
    """Pictures in colours as they are; of one channel red for weights above 0, blue below."""
    axes = part.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    shown = None
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        if pictures.shape[-1] == 1:
            largest = float(np.abs(picture).max()) or 1.0
            values = picture[..., 0] / largest
            shown = axis.imshow(values, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
        else:
            axis.imshow(picture)
        axis.set_title(title, fontsize=8, parse_math=False)  # class names may hold $
    if shown is not None:
        bar = part.colorbar(shown, ax=axes, fraction=0.03, pad=0.02, ticks=[-1, 0, 1])
        bar.ax.tick_params(labelsize=8)
        bar.set_label("weight", fontsize=8)


def _draw_curves(part: Any, model: Any) -> None:
    axis, history, unit = part.subplots(), model.history_, unit_of(model)
    steps = np.arange(1, len(history["loss"]) + 1)
    lines = axis.plot(steps, history["loss"], label="objective", color=COLOURS[0])
    axis.set_title(f"{type(model).__name__}: objective after every {unit}", fontsize=11)
    axis.set_xlabel(unit)
    axis.set_ylabel("objective")
    axis.grid(alpha=0.3)
    losses = np.asarray(history["loss"])
    if losses.size and losses.min() > 0.0 and losses.max() > 20.0 * losses.min():
        axis.set_yscale("log")
    write_plain_numbers(axis)
    if np.isfinite(history["val_accuracy"]).any():
        other = axis.twinx()
        label = "accuracy on held-out rows"
        lines += other.plot(
            steps, history["val_accuracy"], "--", color=COLOURS[1], marker=".", label=label
        )
        other.set_ylabel(label)
        write_plain_numbers(other)
        axis.set_title(f"{type(model).__name__}: objective and accuracy", fontsize=11)
        axis.legend(handles=lines, loc="center right", fontsize=8)


def unit_of(model: Any) -> str:
    """What a fit counts: "iteration" of a full-batch solver, or "epoch"."""
    name = model._auto_solver if model.solver == "auto" else model.solver
    return "iteration" if SOLVERS[name].full_batch else "epoch"


def write_plain_numbers(axis: Any) -> None:
    """Tick labels that are whole numbers of their own: no offset or power of ten at the end of the
    axis, and 0.5 rather than 5 x 10^-1."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(FuncFormatter(_plain))
        if one.get_scale() == "log":
            low, high = sorted(one.get_view_interval())
            few = low > 0.0 and high / low < 100.0
            one.set_minor_formatter(FuncFormatter(_two_or_five if few else lambda *_: ""))
    if axis.xaxis.get_scale() == "linear" and axis.get_xlabel() in ("iteration", "epoch"):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _two_or_five(value: float, place: int | None = None) -> str:
    """2 and 5 times a power of ten: more labels between those would meet."""
    return _plain(value) if f"{value:e}"[0] in "25" else ""


def _plain(value: float, place: int | None = None) -> str:
    """Up to nine digits: ticks that lie close together differ in the last."""
    return plain(value, 9)
