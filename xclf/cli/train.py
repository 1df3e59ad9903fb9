"""xclf train: fit a model on DATA, measure it on test rows, save it."""

from __future__ import annotations

import json as json_format
from typing import Any

from xclf.cli import _options as opt
from xclf.cli._cluster import on_cluster
from xclf.cli._console import UserError
from xclf.cli._estimator import PARAMETERS, estimator_options, make_estimator
from xclf.cli._given import refuse_unused
from xclf.cli._outputs import check_model_output
from xclf.cli._report import check_report
from xclf.cli._training import Training


def train(
    data: opt.Data,
    model: opt.ModelKind = opt.Model.softmax,
    reg: opt.Reg = None,
    device: opt.Device = "auto",
    out_path: opt.Out = None,
    report_path: opt.Report = None,
    standardize: opt.Standardize = False,
    seed: opt.Seed = None,
    full: opt.Full = False,
    json: opt.Json = False,
    test: opt.Test = None,
    test_size: opt.TestSize = None,
    label: opt.Label = None,
    drop: opt.Drop = None,
    id: opt.Id = None,
    x_name: opt.XName = None,
    y_name: opt.YName = None,
    mirror: opt.Mirror = False,
    max_memory: opt.MaxMemory = None,
    start: opt.Start = None,
    hidden: opt.Hidden = None,
    loss: opt.Loss = None,
    margin: opt.Margin = None,
    no_intercept: opt.NoIntercept = False,
    solver: opt.Solver = None,
    max_iter: opt.MaxIter = None,
    tol: opt.Tol = None,
    batch_size: opt.BatchSize = None,
    learning_rate: opt.LearningRate = None,
    momentum: opt.Momentum = None,
    lr_schedule: opt.LrSchedule = None,
    class_weight: opt.ClassWeight = None,
    early_stopping: opt.EarlyStopping = False,
    validation_fraction: opt.ValidationFraction = None,
    n_iter_no_change: opt.NIterNoChange = None,
    checkpoint_path: opt.CheckpointPath = None,
    checkpoint_every: opt.CheckpointEvery = 60.0,
    resume: opt.Resume = False,
    dask: opt.Dask = None,
    workers: opt.Workers = None,
) -> None:
    """Fit a model on DATA and measure it on test rows.

    xclf train digits

    xclf train cifar-10-batches-bin --standardize --reg 1e-2 --out cifar.safetensors

    xclf train cifar-10-batches-bin --model two-layer --hidden 512 --standardize --mirror

    xclf train flowers.csv --label species --model svm --report flowers.html
    """
    given = dict(locals())
    with on_cluster(dask, workers) as client:
        _train(given | {"blocks": client is not None})


def _train(given: dict[str, Any]) -> None:
    model, data, report_path = given["model"], given["data"], given["report_path"]
    estimator = make_estimator(model, estimator_options(given), given["start"])
    refuse_unused(estimator, PARAMETERS)
    check_model_output(given["out_path"], data)
    check_report(report_path, data)
    training = Training(given, estimator)
    rows = training.split.train
    if given["mirror"]:
        if given["blocks"]:
            raise UserError("--mirror needs rows in memory: not with --dask or --workers")
        if rows.image_shape is None:
            raise UserError(f"--mirror needs image data; {rows.source} is not")
        rows = rows.mirrored()
    training.fit(rows)
    result = training.report("train")
    training.print_accuracy(result)
    if given["json"]:
        print(json_format.dumps(result, allow_nan=False))
