"""A picture of a search: score against what was swept. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import numpy as np

from xclf.report.pictures import save_figure

# Lines in a picture, best first; more cannot be told apart.
_MOST_LINES = 10


def swept(results: dict[str, Any]) -> list[str]:
    """Parameters of `cv_results_` that take more than one value, the most values first."""
    values: dict[str, set[str]] = {}
    for params in results["params"]:
        for name, value in params.items():
            values.setdefault(name, set()).add(repr(value))
    names = [name for name in values if len(values[name]) > 1]
    return sorted(names, key=lambda name: -len(values[name]))


def draw_scores(results: dict[str, Any], path: Path, score: str) -> None:
    """Write score against the numeric parameter with the most values, a line for each choice of
    the others, with a band of one standard deviation over the folds; the best is marked.

    results : `cv_results_` of a search with one score;  path : .png, .pdf or .svg
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no window

    names = swept(results)
    along = next((n for n in names if all(_numeric(p.get(n)) for p in results["params"])), None)
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axis: Any = figure.subplots()
    mean, spread = results["mean_test_score"], results["std_test_score"]
    lines = _lines(results, along)
    shown = sorted(lines, key=lambda key: -np.nanmax(mean[lines[key]], initial=-np.inf))
    for colour, key in enumerate(shown[:_MOST_LINES]):
        x, places = _along(results, along, lines[key])
        axis.plot(x, mean[places], marker=".", color=f"C{colour}", label=key)
        if np.any(spread[places] > 0.0):
            low, high = mean[places] - spread[places], mean[places] + spread[places]
            axis.fill_between(x, low, high, color=f"C{colour}", alpha=0.15, linewidth=0)
    best = int(np.argmin(results["rank_test_score"]))
    device_choice = _along(results, along, [best])[0][0]
    axis.plot(device_choice, mean[best], marker="*", markersize=14, color="black", linestyle="none")
    axis.annotate(
        f"{mean[best]:.4f}", (device_choice, mean[best]), textcoords="offset points", xytext=(8, 6)
    )
    _scale(axis, results, along)
    axis.set_xlabel(along or "candidate")
    axis.set_ylabel(score)
    axis.grid(alpha=0.3)
    if any(shown):
        dropped = len(shown) - _MOST_LINES
        title = f"best {_MOST_LINES} of {len(shown)}" if dropped > 0 else None
        axis.legend(fontsize=8, title=title, title_fontsize=8)
    save_figure(figure, path)


def _numeric(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _lines(results: dict[str, Any], along: str | None) -> dict[str, list[int]]:
    """Places of the candidates of every line, by the line's name."""
    others = [name for name in swept(results) if name != along] if along else []
    lines: dict[str, list[int]] = {}
    for place, params in enumerate(results["params"]):
        told = ", ".join(f"{name}={_short(params.get(name))}" for name in others)
        lines.setdefault(told, []).append(place)
    return lines


def _along(
    results: dict[str, Any], along: str | None, places: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(x, places), in the order of x."""
    if along is None:
        return np.asarray(places, dtype=float), np.asarray(places)
    x = np.asarray([float(results["params"][place][along]) for place in places])
    order = np.argsort(x, kind="stable")
    return x[order], np.asarray(places)[order]


def _scale(axis: Any, results: dict[str, Any], along: str | None) -> None:
    if along is None:
        return
    values = [float(params[along]) for params in results["params"]]
    if min(values) > 0.0 and max(values) >= 20.0 * min(values):
        axis.set_xscale("log")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
