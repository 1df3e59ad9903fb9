"""--report: the page of a training, a sweep or an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from xclf._atomic_write import atomic_write
from xclf.cli._devices import ChosenDevice
from xclf.cli._outputs import check_output
from xclf.data import Dataset
from xclf.report.page import write_page
from xclf.report.results import data_facts, history_facts, model_facts, template_facts
from xclf.report.run import peak_memory, run_facts

#: A page, or the results that it shows: `compare` reads these.
REPORT_SUFFIXES = (".html", ".json")


def check_report(path: Path | None, *inputs: str | Path) -> None:
    """`UserError`, before the work, for a page that cannot be written to `path`."""
    if path is not None:
        check_output("--report", path, REPORT_SUFFIXES, *inputs)


def write_report(
    path: Path,
    kind: str,
    model: Any,
    device: ChosenDevice,
    parts: dict[str, Dataset],
    class_names: list[str],
    measured: dict[str, Any],
    times: dict[str, float],
    **more: Any,
) -> None:
    """Write the page of results, or the results as JSON.

    parts : rows by role, of which those evaluated are last
    measured : sections of an evaluation, none without test rows
    times : seconds by stage;  more : further sections
    """
    rows = list(parts.values())[-1]
    metrics = [measured["metrics"]] if measured else []
    sections = {key: value for key, value in measured.items() if key != "metrics"}
    results = {
        **run_facts(
            kind,
            f"{type(model).__name__} on {rows.source}",
            seed=model.random_state,
            like=device.put(np.zeros(1)),
        ),
        "data": [
            data_facts(role, part.source, part.x, part.y, len(np.unique(_labels(part))))
            for role, part in parts.items()
        ],
        "class_names": class_names,
        "model": model_facts(model),
        "metrics": metrics,
        "history": history_facts(model),
        **sections,
        "times": [{"stage": stage, "seconds": seconds} for stage, seconds in times.items()],
        "peak_memory": peak_memory(),
        **more,
    }
    if rows.image_shape is not None and rows.image_shape[2] in (1, 3):
        channel_first = rows.pixel_layout == "channel_first"
        results["templates"] = template_facts(model, rows.image_shape, channel_first)
    if path.suffix == ".json":
        with atomic_write(path) as part:
            part.write_text(json.dumps(results, allow_nan=False), encoding="utf-8")
    else:
        write_page(results, path)


def _labels(rows: Dataset) -> np.ndarray:
    assert rows.y is not None
    return rows.y
