"""Models of several tasks in the shell: columns of predictions, and measures of each task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from xclf import _array_api
from xclf.cli._console import UserError, shown
from xclf.cli._devices import ChosenDevice
from xclf.cli._results import evaluate_rows
from xclf.cli._source import check_labels
from xclf.data import Dataset
from xclf.report.class_names import names_of_model
from xclf.report.metrics import mean_metrics, metric_name, ordered_metrics, task_metrics

# Tasks that are printed without --full.
_TASKS = 25
# Of a task's columns; the others are in the JSON and on the page.
_PRINTED = ("accuracy", "mean_per_class", "average_precision", "negative_log_likelihood")


def task_names(model: Any) -> list[str]:
    """The names of the tasks of a fitted model; none of a model of one."""
    models = getattr(model, "estimators_", None) or []
    known = model._trained_on
    if known is not None and len(known.tasks) == len(models):
        return list(known.tasks)
    return [f"task {number}" for number in range(len(models))]


def check_tasks(model: Any, data: Dataset, source: str) -> None:
    """`UserError` for labels that are not those of the model: other columns, or unknown ones."""
    names, y = task_names(model), data.y
    assert y is not None
    columns = 1 if y.ndim == 1 else y.shape[1]
    if columns != max(1, len(names)):
        has = f"{len(names)} tasks ({_listed(names)})" if names else "one task"
        raise UserError(
            f"{source} has labels of {columns} {'column' if columns == 1 else 'columns'}, the "
            f"model has {has}: --label NAME, once for each, names columns of a table"
        )
    if not names:
        check_labels(data, model.classes_, source)
    for number, name in enumerate(names):
        one = replace(data, y=y[:, number], task_names=None, test=None)
        check_labels(one, model.estimators_[number].classes_, f"{source}: {name}")


def one_task(model: Any, name: str | None) -> Any:
    """The model of the task of this name; a model of one itself. `UserError` for no such task, and
    for several of which none is named."""
    names = task_names(model)
    if not names:
        if name is not None:
            raise UserError(f"--task {name}: the model has one task, leave --task out")
        return model
    if name not in names:
        what = "the model has" if name is None else f"no task {name!r}; the model has"
        raise UserError(f"{what} {len(names)} tasks: --task NAME takes one of {_listed(names)}")
    return model.estimators_[names.index(name)]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def task_columns(model: Any, x: Any, *, proba: bool, top_k: int) -> dict[str, np.ndarray]:
    """Named columns for some rows: the label of each task, under its name; then, as asked for,
    those of its probabilities and of its best labels.

        NAME;  p_NAME_CLASS, of multi-label indicators p_NAME;  top1_NAME, top1_score_NAME, ...
    """
    names, models = task_names(model), model.estimators_
    labels = _array_api.to_host(model.predict(x))
    columns = {
        name: labels[:, t].astype(one.classes_.dtype)
        for t, (name, one) in enumerate(zip(names, models, strict=True))
    }
    if not (proba or top_k):
        return columns
    for name, one in zip(names, models, strict=True):
        scores = scores_of(one, x)
        if proba and model._indicators:
            columns[f"p_{name}"] = scores[:, 1]
        elif proba:
            own = names_of_model(one)
            columns |= {f"p_{name}_{label}": scores[:, k] for k, label in enumerate(own)}
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        for rank in range(best.shape[1]):
            columns[f"top{rank + 1}_{name}"] = one.classes_[best[:, rank]]
            own_scores = np.take_along_axis(scores, best, axis=1)
            columns[f"top{rank + 1}_score_{name}"] = own_scores[:, rank]
    return columns


def scores_of(model: Any, x: Any) -> np.ndarray:
    """Probabilities (N, C) on the host of a model of one task that has them, else decision
    values."""
    if hasattr(model, "predict_proba"):
        return _array_api.to_host(model.predict_proba(x))
    scores = _array_api.to_host(model.decision_function(x))
    return np.stack([-0.5 * scores, 0.5 * scores], axis=1) if scores.ndim == 1 else scores


def evaluate_tasks(
    model: Any, device: ChosenDevice, x: np.ndarray, y: np.ndarray, top_k: int
) -> dict[str, Any]:
    """Sections `metrics`, the means over tasks, and `tasks` of a model on labels (N, T)."""
    tasks: list[dict[str, Any]] = []
    for number, (name, one) in enumerate(zip(task_names(model), model.estimators_, strict=True)):
        classes = names_of_model(one)
        evaluated = evaluate_rows(one, device, x, y[:, number], classes, top_k)
        row = task_metrics(evaluated, len(classes))
        known = {k: v if np.isfinite(v) else None for k, v in row.items() if k != "data"}
        tasks.append({"name": name, "classes": classes, "metrics": known})
    means = mean_metrics([task["metrics"] for task in tasks])
    return {"metrics": {"data": "test", **means}, "tasks": tasks}


def task_measures(evaluated: dict[str, Any], rows: int) -> dict[str, Any]:
    """What --json prints of an evaluation of tasks: the means, and the metrics of each."""
    means = {key: value for key, value in evaluated["metrics"].items() if key != "data"}
    return {**means, "rows": rows, "tasks": evaluated["tasks"]}


def print_tasks(console: Console, result: dict[str, Any], *, full: bool) -> None:
    """Print the metrics of each task, and their means."""
    tasks = result["tasks"]
    named = [name for name in _PRINTED if any(name in task["metrics"] for task in tasks)]
    table = Table("task", title="tasks", title_justify="left")
    for name in named:
        table.add_column(metric_name(name), justify="right")
    listed = tasks if full else tasks[:_TASKS]
    for task in listed:
        table.add_row(shown(task["name"]), *(_text(task["metrics"].get(name)) for name in named))
    console.print(table)
    if len(listed) < len(tasks):
        console.print(f"{len(listed)} of {len(tasks)} tasks; --full shows all")
    known = [name for name in ordered_metrics(result) if result[name] is not None]
    means = [name for name in known if name != "accuracy"]
    width = max((len(metric_name(name)) for name in means), default=0)
    for name in means:
        console.print(f"{metric_name(name):<{width}}  {result[name]:.4f}, mean over tasks")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
