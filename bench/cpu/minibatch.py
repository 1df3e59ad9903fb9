"""Epochs of the two-layer net, beside torch and scikit-learn's MLPClassifier.

    python -m bench minibatch

All take the same rows in memory, gather each batch by shuffled indices, and make the same update.
`xclf` and `torch` are their training loops; `partial_fit` is this library as scikit-learn users
call it, which also evaluates the objective at the end of the epoch, and is what to hold against
MLPClassifier.partial_fit, which checks its input and sums the loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.common.data import add_data, chosen, synthetic
from bench.common.internals import RATE, REG, net_training
from bench.common.measuring import (
    NOT_INSTALLED,
    OURS,
    BenchError,
    Contender,
    add_one_thread,
    alternate,
    optional,
    show,
    summarise,
    thread_words,
    timing,
)
from bench.common.torch_peers import TorchSteps
from xclf import TwoLayerClassifier

BATCHES = (32, 200, 1000)
COLUMNS = [OURS, "torch", "xclf partial_fit", "scikit-learn"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    add_data(parser, 20_000)
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--optimizer", choices=("momentum", "sgd"), default="momentum")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--repeats", type=int, default=9)
    add_one_thread(parser)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints the table; returns one entry per batch size."""
    if args.data is not None:
        x, y = chosen(args)
    else:
        x, y = synthetic(*((300, 20, 3) if args.quick else (args.rows, 3072, 10)))
    hidden = 8 if args.quick else args.hidden
    results = []
    with timing(args.one_thread) as clock:
        for batch in args.batches:
            net = _Net(x, y, hidden, batch, args.optimizer, clock)
            entry = _compare(net, args.repeats)
            results.append({"problem": f"batch {batch}, {args.optimizer}", **entry})
    shape = f"{x.shape[0]} x {x.shape[1]}, hidden {hidden}"
    threads = thread_words(args.one_thread)
    show(f"one epoch of the two-layer net, {shape}, float32, {threads}", results, COLUMNS)
    return [{**entry, "shape": shape, "threads": threads} for entry in results]


def _compare(net: _Net, repeats: int) -> dict[str, Any]:
    contenders: dict[str, Contender] = {
        OURS: net.ours(),
        "torch": net.torch(),
        "xclf partial_fit": net.partial_fit(),
        "scikit-learn": net.sklearn(),
    }
    agreement = net.agreement(contenders["torch"])
    seconds: dict[str, Any] = summarise(alternate(contenders, repeats, own_clock=True))
    both = {name: seconds[name]["median_s"] for name in ("xclf partial_fit", "scikit-learn")}
    seconds |= {name: why for name, why in contenders.items() if isinstance(why, str)}
    return {
        "seconds": seconds,
        "partial_fit_ratio": both["xclf partial_fit"] / both["scikit-learn"],
        "largest_weight_difference_after_one_epoch": agreement,
    }


class _Net:
    """The problem: rows, the order of an epoch, starting weights; and who can train on it."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, hidden: int, batch: int, rule: str, clock: Any
    ) -> None:
        self.clock = clock
        rng = np.random.default_rng(1)
        self.x, self.y, self.hidden, self.batch = x, y, hidden, min(batch, len(x))
        self.classes = int(y.max()) + 1
        self.order = rng.permutation(len(x))
        self.momentum = 0.9 if rule == "momentum" else 0.0
        w1 = rng.standard_normal((hidden, x.shape[1])) * np.sqrt(2.0 / x.shape[1])
        w2 = rng.standard_normal((self.classes, hidden)) * np.sqrt(1.0 / hidden)
        self.w1, self.w2 = w1.astype(np.float32), w2.astype(np.float32)
        self.first_ours = self.first_torch = self.w1

    def ours(self) -> Callable[[], float]:
        order, batch = self.order, self.batch
        training = net_training(self.x, self.y, self.w1, self.w2, order, batch, self.momentum)

        def epoch() -> float:
            call, now = training.epochs()
            began = self.clock()
            call()
            took = self.clock() - began
            self.first_ours = training.objective.network.layers(now[0])[0].w
            return took

        return epoch

    def torch(self) -> Contender:
        torch = optional("torch")
        if torch is None:
            return NOT_INSTALLED
        x, y, order = (torch.from_numpy(array) for array in (self.x, self.y, self.order))
        steps = TorchSteps(torch, x, y, self.w1, self.w2, self.momentum)

        def epoch() -> float:
            step = steps.eager()
            began = self.clock()
            for index in order.split(self.batch):
                step.take(index)
            took = self.clock() - began
            self.first_torch = step.params[0].detach().numpy()
            return took

        return epoch

    def partial_fit(self) -> Callable[[], float]:
        model = TwoLayerClassifier(
            self.hidden,
            REG,
            solver="momentum" if self.momentum else "sgd",
            batch_size=self.batch,
            learning_rate=RATE,
            random_state=0,
        )
        return self._estimator(model)

    def sklearn(self) -> Callable[[], float]:
        from sklearn.neural_network import MLPClassifier

        # Its penalty is alpha / 2 / (batch size) * sum(W^2).
        model = MLPClassifier(
            (self.hidden,),
            solver="sgd",
            alpha=2.0 * REG * self.batch,
            batch_size=self.batch,
            learning_rate_init=RATE,
            momentum=self.momentum,
            nesterovs_momentum=False,
            random_state=0,
        )
        return self._estimator(model)

    def _estimator(self, model: Any) -> Callable[[], float]:
        classes = np.arange(self.classes)

        def epoch() -> float:
            began = self.clock()
            model.partial_fit(self.x, self.y, classes=classes)
            return self.clock() - began

        return epoch

    def agreement(self, torch_epoch: Contender) -> float | None:
        """Largest difference in the first layer's weights after one epoch of each."""
        if isinstance(torch_epoch, str):
            return None
        self.ours()()
        torch_epoch()
        apart = float(np.abs(self.first_ours - self.first_torch).max())
        if not apart < 1e-2:
            raise BenchError(f"after one epoch xclf's and torch's weights differ by {apart}")
        return apart
