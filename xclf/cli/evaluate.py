"""xclf evaluate: accuracy and per-class figures of a saved model on labelled DATA."""

from __future__ import annotations

import json as json_format
import time
from typing import Annotated, Any

import typer

from xclf.cli import _options as opt
from xclf.cli._console import CheckError, UserError, log, out, print_facts, print_last, warnings_log
from xclf.cli._devices import choose
from xclf.cli._estimator import load_fitted
from xclf.cli._report import check_report, write_report
from xclf.cli._results import command_facts, evaluate_rows, measures, print_measures
from xclf.cli._source import (
    UNIT_ROWS,
    check_finite,
    read_for_model,
    reading_options,
    rows_to_measure,
)
from xclf.cli._tasks import (
    check_tasks,
    evaluate_tasks,
    print_tasks,
    task_measures,
    task_names,
)
from xclf.report.class_names import names_of_model
from xclf.report.metrics import TOP_K
from xclf.report.run import fingerprint


def evaluate(
    model: opt.SavedModel,
    data: Annotated[str, typer.Argument(help="DATA with labels; its test part if it ships one.")],
    train_part: opt.TrainPart = False,
    all_rows: opt.AllRows = False,
    min_accuracy: Annotated[
        float | None,
        typer.Option(help="Exit with status 1 below this accuracy.", min=0.0, max=1.0),
    ] = None,
    label: opt.LabelColumn = None,
    x_name: opt.XName = None,
    y_name: opt.YName = None,
    device: opt.Device = "auto",
    max_memory: opt.DenseMemory = None,
    report_path: opt.Report = None,
    drop: opt.Drop = None,
    id: opt.Id = None,
    full: opt.Full = False,
    top_k: opt.TopK = TOP_K,
    json: opt.Json = False,
) -> None:
    """Measure a saved model on labelled DATA.

    Of the data that it was trained on these are the rows that were held out then.

    xclf evaluate cifar.safetensors cifar-10-batches-bin

    xclf evaluate model.safetensors new.csv --label species --min-accuracy 0.9

    xclf evaluate cifar.safetensors cifar-10-batches-bin --report cifar.html
    """
    if train_part and all_rows:
        raise UserError("--train-part and --all-rows exclude each other")
    check_report(report_path, model, data)
    chosen = choose(device)
    fitted = load_fitted(model, chosen, max_memory)
    options = reading_options(dict(locals()))
    rows = read_for_model(fitted, data, train_part=train_part, **options)
    check_finite(rows.x, data, names=rows.feature_names)
    rows, remark = rows_to_measure(fitted, rows, train_part=train_part, every=all_rows)
    check_tasks(fitted, rows, data)
    assert rows.y is not None
    several = bool(task_names(fitted))
    names = [] if several else names_of_model(fitted, rows.class_names)
    start = time.perf_counter()
    if several:
        evaluated = evaluate_tasks(fitted, chosen, rows.x, rows.y, top_k)
    else:
        evaluated = evaluate_rows(fitted, chosen, rows.x, rows.y, names, top_k)
    times = {"evaluate": time.perf_counter() - start}
    result: dict[str, Any] = command_facts("evaluate", fingerprint(rows.x, rows.y), rows.y)
    result |= {"data": rows.source, "model": str(model), "place": chosen.text, "remark": remark}
    result |= task_measures(evaluated, len(rows.y)) if several else measures(evaluated)
    console = out(json=json)
    log(json=json).print(f"{rows.source}: {len(rows.y)} rows; {chosen.text}")
    if fitted._unit_rows:
        log(json=json).print(UNIT_ROWS)
    if remark is not None:
        warned = remark.startswith("warning")
        (warnings_log() if warned else log(json=json)).print(remark, style="yellow")
    (print_tasks if several else print_measures)(console, result, full=full)
    if report_path is not None:
        parts = {"test": rows}
        write_report(report_path, "evaluate", fitted, chosen, parts, names, evaluated, times)
        print_facts(console, ("report", str(report_path)))
    mean = "mean accuracy of the tasks" if several else "accuracy"
    print_last(f"{mean} {result['accuracy']:.4f}", json=json)
    if json:
        print(json_format.dumps(result, allow_nan=False))
    if min_accuracy is not None and result["accuracy"] < min_accuracy:
        raise CheckError(f"accuracy {result['accuracy']:.4f} is below {min_accuracy:g}")
