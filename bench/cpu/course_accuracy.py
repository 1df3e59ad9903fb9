"""The course's models on CIFAR-10, trained through its own interface: accuracies.

    python -m bench course_accuracy --data cifar-10-batches-bin

49,000 rows train, 1,000 validate, 1,000 test, raw pixels less the mean picture, float64 unless a
run says otherwise; NumPy's seed is 0 before each. With 1,000 rows an accuracy of .5 has a standard
error of .016.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.common.measuring import BenchError, table
from xclf.cs231n.classifiers import LinearSVM, Softmax, fc_net, neural_net
from xclf.cs231n.data_utils import get_CIFAR10_data
from xclf.cs231n.solver import Solver
from xclf.data import DataError

Data = dict[str, np.ndarray]
Predict = Callable[[np.ndarray], np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder of CIFAR-10, and which runs."""
    parser.add_argument("--data", default="cifar-10-batches-bin", help="the folder of CIFAR-10")
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--quick", action="store_true", help="500 rows, to see that it runs")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the table. Returns accuracies and seconds by run."""
    try:
        rows = (500, 100, 100) if args.quick else (49_000, 1000, 1000)
        data = get_CIFAR10_data(*rows, root=args.data)
    except (FileNotFoundError, DataError) as error:
        raise BenchError(str(error)) from None
    results: dict[str, Any] = {
        "rows": dict(zip(("train", "validation", "test"), rows, strict=True))
    }
    lines = []
    for name in args.only:
        settings, train = RUNS[name]
        np.random.seed(0)
        start = time.perf_counter()
        predict = train(data)
        entry = {"settings": settings, "seconds": time.perf_counter() - start}
        entry |= {
            part: float(np.mean(predict(data[f"X_{key}"]) == data[f"y_{key}"]))
            for part, key in (("validation", "val"), ("test", "test"))
        }
        results[name] = entry
        figures = (f"{entry['validation']:.3f}", f"{entry['test']:.3f}", f"{entry['seconds']:.0f}")
        lines.append((name, *figures))
    table("accuracy", ("run", "validation", "test", "seconds"), lines)
    return results


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _with_ones(x: np.ndarray) -> np.ndarray:
    """The course's trick for biases: a column of ones."""
    return np.concatenate([_flat(x), np.ones((len(x), 1))], axis=1)


def _linear(kind: Any, *calls: dict[str, Any]) -> Callable[[Data], Predict]:
    def train(data: Data) -> Predict:
        model = kind()
        for settings in calls:
            model.train(_with_ones(data["X_train"]), data["y_train"], **settings)
        return lambda x: model.predict(_with_ones(x))

    return train


def _net(hidden: int, **settings: Any) -> Callable[[Data], Predict]:
    def train(data: Data) -> Predict:
        model = neural_net.TwoLayerNet(3072, hidden, 10)
        parts = (_flat(data["X_train"]), data["y_train"], _flat(data["X_val"]), data["y_val"])
        model.train(*parts, **settings)
        return lambda x: model.predict(_flat(x))

    return train


def _solved(make: Callable[[], Any], dtype: Any = np.float64, **settings: Any) -> Any:
    def train(data: Data) -> Predict:
        model = make()
        cast = {k: v.astype(dtype) if k.startswith("X") else v for k, v in data.items()}
        solver = Solver(model, cast, verbose=False, **settings)
        solver.train()
        return lambda x: np.argmax(model.loss(x.astype(dtype)), axis=1)

    return train


_SVM_STAGES = [
    {"learning_rate": rate, "reg": 3e3, "num_iters": 3000, "batch_size": 400}
    for rate in (2e-7, 5e-8, 1e-8)
]

#: Settings in words, and the training, by name.
RUNS: dict[str, tuple[str, Callable[[Data], Predict]]] = {
    "svm": (
        "LinearSVM, learning_rate=1e-7, reg=2.5e4, num_iters=1500",
        _linear(LinearSVM, {"learning_rate": 1e-7, "reg": 2.5e4, "num_iters": 1500}),
    ),
    "svm-longer": (
        "LinearSVM, learning_rate=1e-7, reg=1e4, num_iters=3000",
        _linear(LinearSVM, {"learning_rate": 1e-7, "reg": 1e4, "num_iters": 3000}),
    ),
    "svm-stages": (
        "LinearSVM, reg=3e3, batch_size=400, three calls of 3000 steps at 2e-7, 5e-8, 1e-8",
        _linear(LinearSVM, *_SVM_STAGES),
    ),
    "softmax": (
        "Softmax, learning_rate=1e-7, reg=2.5e4, num_iters=1500",
        _linear(Softmax, {"learning_rate": 1e-7, "reg": 2.5e4, "num_iters": 1500}),
    ),
    "softmax-longer": (
        "Softmax, learning_rate=1e-6, reg=1e3, num_iters=3000",
        _linear(Softmax, {"learning_rate": 1e-6, "reg": 1e3, "num_iters": 3000}),
    ),
    "net": (
        "neural_net.TwoLayerNet, hidden 50, learning_rate=1e-4, learning_rate_decay=0.95, "
        "reg=0.25, num_iters=1000",
        _net(50, learning_rate=1e-4, learning_rate_decay=0.95, reg=0.25, num_iters=1000),
    ),
    "net-tuned": (
        "neural_net.TwoLayerNet, hidden 200, learning_rate=1.2e-3, reg=0.3, num_iters=4900",
        _net(200, learning_rate=1.2e-3, reg=0.3, num_iters=4900),
    ),
    "fc-two-layers": (
        "fc_net.TwoLayerNet and Solver, hidden 200, reg=0.5, learning_rate=1e-3, lr_decay=0.9, "
        "num_epochs=15; the parameters of the best epoch",
        _solved(
            lambda: fc_net.TwoLayerNet(hidden_dim=200, reg=0.5),
            update_rule="sgd",
            optim_config={"learning_rate": 1e-3},
            lr_decay=0.9,
            num_epochs=15,
            batch_size=100,
        ),
    ),
    "fc-batchnorm": (
        "FullyConnectedNet([100, 50]) and Solver, batchnorm, dropout_keep_ratio=0.9, reg=1e-3, "
        "weight_scale=2e-2, adam at 1e-3, lr_decay=0.9, num_epochs=6, float32; the parameters of "
        "the best epoch",
        _solved(
            lambda: fc_net.FullyConnectedNet(
                [100, 50],
                normalization="batchnorm",
                dropout_keep_ratio=0.9,
                reg=1e-3,
                weight_scale=2e-2,
                dtype=np.float32,
            ),
            np.float32,
            update_rule="adam",
            optim_config={"learning_rate": 1e-3},
            lr_decay=0.9,
            num_epochs=6,
            batch_size=100,
        ),
    ),
}
