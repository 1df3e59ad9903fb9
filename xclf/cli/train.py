"""xclf train: fit a model on DATA, say how good it is, keep it."""

from __future__ import annotations

import json as json_format

from xclf.cli import _options as opt
from xclf.cli._console import out
from xclf.cli._devices import choose
from xclf.cli._fit import PARAMETERS, Run, check_model_out, make_estimator, parse_class_weight
from xclf.cli._source import mirrored, parse_bytes, read_split


def train(
    data: opt.Data,
    model: opt.ModelKind = opt.Model.softmax,
    reg: opt.Reg = None,
    device: opt.Device = "auto",
    out_path: opt.Out = None,
    standardize: opt.Standardize = False,
    seed: opt.Seed = None,
    json: opt.Json = False,
    test: opt.Test = None,
    test_size: opt.TestSize = 0.2,
    label: opt.Label = None,
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
) -> None:
    """Fit a model on DATA and say how good it is.

    xclf train digits

    xclf train cifar-10-batches-bin --standardize --reg 1e-2 --out cifar.safetensors

    xclf train cifar-10-batches-bin --model two-layer --hidden 512 --standardize --mirror

    xclf train flowers.csv --label species --model svm --json
    """
    given = dict(locals())
    # None, and a flag that is not raised, leave a parameter as it is.
    options = {name: given[name] for name in PARAMETERS if given[name] is not False}
    options |= {"fit_intercept": False if no_intercept else None, "random_state": seed}
    options["class_weight"] = parse_class_weight(class_weight)
    estimator = make_estimator(opt.CLASSES[model], options, start)
    if estimator.random_state is None:
        estimator.set_params(random_state=0)
    check_model_out(out_path, data)
    place = choose(device)
    split = read_split(
        data,
        test=test,
        test_size=test_size,
        seed=estimator.random_state,
        label=label,
        max_memory=parse_bytes(max_memory),
    )
    x, y = split.x, split.y
    if mirror:
        x, y = mirrored(split.train, x, y)
    run = Run(out(json=json), estimator, place, split, out_path)
    run.fit(x, y)
    result = run.report()
    if json:
        print(json_format.dumps(result, allow_nan=False))
