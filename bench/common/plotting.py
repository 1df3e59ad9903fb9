"""Pictures of the benchmarks: curves of time against gap, and seconds against reg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.common.measuring import OURS, BenchError, optional

_COLOURS = {OURS: "tab:red", "scikit-learn": "tab:blue", "torch": "tab:orange"}
_LOWEST = 1e-6  # a gap below it is drawn there: the curves are float32's


def figure(rows: int, columns: int) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns), without pyplot: nothing global, no window."""
    if optional("matplotlib") is None:
        raise BenchError("--plot needs matplotlib: pip install 'xclf[plot]'")
    from matplotlib.figure import Figure

    made = Figure(figsize=(3.6 * columns, 2.8 * rows), layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False)


def curves(entries: list[dict[str, Any]], path: Path) -> None:
    """Seconds against relative gap, both logarithmic; a panel for each problem and reg."""
    entries = [entry for entry in entries if "contenders" in entry]
    if not entries:
        raise BenchError("--plot: there are no softmax curves to draw")
    problems = list(dict.fromkeys(entry["problem"] for entry in entries))
    regs = list(dict.fromkeys(entry["reg"] for entry in entries))
    made, axes = figure(len(problems), len(regs))
    for entry in entries:
        axis = axes[problems.index(entry["problem"]), regs.index(entry["reg"])]
        for name, contender in entry["contenders"].items():
            if not isinstance(contender, str):
                seconds, gaps = np.asarray(contender["curve"]).T
                axis.plot(seconds, np.maximum(gaps, _LOWEST), label=name, color=_COLOURS[name])
        axis.axhline(entry["gap"], color="grey", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", title=f"{entry['problem']}, reg {entry['reg']:g}")
        axis.tick_params(labelsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    for axis in axes[:, 0]:
        axis.set_ylabel("relative gap")
    axes[0, 0].legend(fontsize=8)
    made.savefig(path, dpi=110)


def sweep(values: dict[str, Any], path: Path) -> None:
    """Seconds of each scikit-learn fit against reg, beside xclf's share of the whole sweep."""
    made, axes = figure(1, 1)
    axis = axes[0, 0]
    peers = values["scikit_learn"]
    axis.plot(
        [one["reg"] for one in peers],
        [one["seconds"] for one in peers],
        "o-",
        color=_COLOURS["scikit-learn"],
        label="scikit-learn, one fit",
    )
    regs = values["regs"]
    share = values["xclf_s"] / len(regs)
    axis.plot(
        [min(regs), max(regs)],
        [share, share],
        color=_COLOURS[OURS],
        label=f"xclf, one of {len(regs)} trained together",
    )
    axis.set(xscale="log", yscale="log", xlabel="reg", ylabel="seconds")
    axis.legend(fontsize=8)
    made.savefig(path, dpi=110)
