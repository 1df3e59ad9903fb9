"""What commands print with --json, as results of the kind that `results.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xclf.report.metrics import METRICS
from xclf.report.number_text import plain
from xclf.report.scores import varied


def runs_of(content: Any, name: str) -> list[tuple[str, Any]]:
    """The runs in a file of JSON, by name: what `train`, `sweep` and `evaluate` print as one, the
    rows that `compare` prints as several, anything else as it is."""
    if isinstance(content, list) and content and all(map(_is_row, content)):
        return [(str(row["name"]), _of_row(row)) for row in content]
    if isinstance(content, dict) and "format" not in content and _is_printed(content):
        return [(name, _of_command(content))]
    return [(name, content)]


def search_facts(results: Mapping[str, Any], metric: str, data: str) -> dict[str, Any] | None:
    """The section `search` of `cv_results_`: the score against the parameter with most values.

    The other parameters that vary are each point's `others`. None where nothing varies.
    """
    names = varied(dict(results))
    if not names:
        return None
    axis, others = names[0], names[1:]
    points = [
        {
            "value": params[axis],
            "score": _number(mean),
            "std": _number(std),
            "train_score": None,
            "converged": None,
            "others": ", ".join(f"{name}={plain(params[name])}" for name in others),
        }
        for params, mean, std in zip(
            results["params"], results["mean_test_score"], results["std_test_score"], strict=True
        )
    ]
    values = [point["value"] for point in points]
    return {
        "parameter": axis,
        "log": min(values) > 0 and max(values) >= 20 * min(values),
        "metric": metric,
        "data": data,
        "points": points,
        "chosen": int(np.argmin(results["rank_test_score"])),
    }


def scored_on(folds: int | None) -> str:
    """The rows that a sweep scored its candidates on, in words."""
    return "held-out" if folds is None else f"{folds} folds of the"


def _is_row(entry: Any) -> bool:
    return isinstance(entry, dict) and {"name", "kind", "labels", "seconds"} <= set(entry)


def _is_printed(content: dict[str, Any]) -> bool:
    return {"xclf", "command", "model"} <= set(content) and bool(
        {"test", "accuracy"} & set(content)
    )


def _of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A run of which only the figures are known."""
    role = str(row.get("data") or "test")
    metrics = _metrics(row) | {"data": role}
    times = [] if row["seconds"] is None else [{"stage": "all", "seconds": row["seconds"]}]
    return {
        "format": 1,
        "kind": row["kind"],
        "title": str(row["name"]),
        "data": [{"role": role, "name": role, "labels": row["labels"]}],
        "metrics": [metrics],
        "times": times,
        "peak_memory": row.get("peak_memory"),
    }


def _of_command(printed: Mapping[str, Any]) -> dict[str, Any]:
    measured = printed.get("test") if "test" in printed else printed
    kind = printed.get("kind") or _kind(printed)
    facts = {name: printed.get(name) for name in ("xclf", "created", "command")}
    results: dict[str, Any] = {"format": 1, "kind": kind, **facts}
    results["title"] = f"{printed['model']} on {printed.get('data')}"
    results["metrics"] = results["data"] = []
    if "parameters" in printed:
        results["seed"] = printed["parameters"].get("random_state")
        names = ("parameters", "converged", "iterations", "objective")
        results["model"] = {"estimator": printed["model"]}
        results["model"] |= {name: printed.get(name) for name in names}
        results["times"] = [{"stage": "fit", "seconds": printed["seconds"]}]
    if measured is not None:
        classes = measured.get("classes") or []  # none of several tasks
        own = {"rows": measured["rows"], "labels": printed.get("labels")}
        results["data"] = [{"role": "test", "name": str(printed.get("data")), **own}]
        results["class_names"] = [entry["class"] for entry in classes]
        results["metrics"] = [{"data": "test", **_metrics(measured)}]
        results["per_class"] = classes
        results["tasks"] = measured.get("tasks")
        if "confusion" in measured:
            results["confusion"] = {"data": "test", "counts": measured["confusion"]}
    if "search" in printed:
        results["search"] = _search(printed["search"])
        results["times"].append({"stage": "search", "seconds": printed["search"]["seconds"]})
    return {name: value for name, value in results.items() if value is not None}


def _kind(printed: Mapping[str, Any]) -> str:
    """That of objects which do not say so, as earlier versions printed them."""
    return "evaluate" if "test" not in printed else "sweep" if "search" in printed else "train"


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k in METRICS or (k[:3] == "top" and k[3:].isdigit())}


def _search(search: Mapping[str, Any]) -> dict[str, Any] | None:
    found: Sequence[Mapping[str, Any]] = search["candidates"]
    columns = {
        "params": "parameters",
        "mean_test_score": "score",
        "std_test_score": "std",
        "rank_test_score": "rank",
    }
    results = {name: [one[key] for one in found] for name, key in columns.items()}
    return search_facts(results, search["scoring"], scored_on(search["folds"]))


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
