"""A picture of a search: score against the swept parameters. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import numpy as np

from xclf.report._metric import within
from xclf.report.number_text import plain
from xclf.report.pictures import COLOURS, DASHES, MARKS, save_figure, write_plain_numbers

# Lines in a picture, best first; more cannot be distinguished.
_MOST_LINES = 7


def varied(results: dict[str, Any]) -> list[str]:
    """Parameters of `cv_results_` that take more than one value, the most values first."""
    values: dict[str, set[str]] = {}
    for params in results["params"]:
        for name, value in params.items():
            values.setdefault(name, set()).add(repr(value))
    names = [name for name in values if len(values[name]) > 1]
    return sorted(names, key=lambda name: -len(values[name]))


def draw_scores(results: dict[str, Any], path: Path, score: str) -> None:
    """Draw the score against the numeric parameter with the most values.

    There is a line for each choice of the other parameters, with a band of one standard deviation
    over the folds; the best candidate is marked.

    results : `cv_results_` of a search with one score;  path : .png, .pdf or .svg
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no window

    params = results["params"]
    axis_name = next(
        (name for name in varied(results) if all(_is_number(p.get(name)) for p in params)), None
    )
    # Without a numeric parameter: the number of the candidate.
    x = np.asarray([k if axis_name is None else params[k][axis_name] for k in range(len(params))])
    mean, spread = results["mean_test_score"], results["std_test_score"]
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axis: Any = figure.subplots()
    lines = _lines(results, axis_name)
    best_first = sorted(lines, key=lambda name: -np.nanmax(mean[lines[name]], initial=-np.inf))
    band = None
    for number, name in enumerate(best_first[:_MOST_LINES]):
        line = np.asarray(lines[name])[np.argsort(x[lines[name]], kind="stable")]
        colour = COLOURS[number % len(COLOURS)]
        style = {"marker": MARKS[number % len(MARKS)], "linestyle": DASHES[number % len(DASHES)]}
        axis.plot(x[line], mean[line], markersize=4, color=colour, label=name or score, **style)
        if np.any(spread[line] > 0.0):
            low, high = (
                [within(score, value) for value in mean[line] + sign * spread[line]]
                for sign in (-1.0, 1.0)
            )
            band = axis.fill_between(x[line], low, high, color=colour, alpha=0.15, linewidth=0)
    if band is not None:
        band.set_label("-+ one standard deviation over the folds")
    best = int(np.argmin(results["rank_test_score"]))
    chosen = ", ".join(f"{name}={plain(params[best][name])}" for name in varied(results))
    axis.plot(
        *(x[best], mean[best]), marker="*", markersize=14, color="black", linestyle="none",
        label=f"best: {mean[best]:.4f}",
    )  # fmt: skip
    if axis_name is not None and x.min() > 0.0 and x.max() >= 5.0 * x.min():
        axis.set_xscale("log")
    axis.set_xlabel(axis_name or "candidate")
    axis.set_ylabel(score if band is None else f"{score}, mean over the folds")
    axis.set_title(f"{score} of {len(params)} candidates; best {chosen}".removesuffix("; best "))
    axis.margins(x=0.05, y=0.12)
    axis.grid(alpha=0.3)
    write_plain_numbers(axis)
    title = f"best {_MOST_LINES} of {len(lines)}" if len(lines) > _MOST_LINES else None
    axis.legend(fontsize=8, title=title, title_fontsize=8)
    save_figure(figure, path)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _lines(results: dict[str, Any], axis_name: str | None) -> dict[str, list[int]]:
    """The candidates of each line, by the line's name: the values of its other parameters."""
    others = [name for name in varied(results) if name != axis_name] if axis_name else []
    lines: dict[str, list[int]] = {}
    for candidate, params in enumerate(results["params"]):
        values = ", ".join(f"{name}={plain(params.get(name))}" for name in others)
        lines.setdefault(values, []).append(candidate)
    return lines
