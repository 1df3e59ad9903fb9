"""The course's models in the benchmark of accuracies, on a few random pictures."""

from __future__ import annotations

import numpy as np
import pytest

from bench.__main__ import main
from bench.cpu import course_accuracy
from xclf.cs231n.classifiers import LinearSVM, fc_net

MAKE = {
    "linear": lambda: course_accuracy._linear(LinearSVM, {"num_iters": 2}, {"num_iters": 1}),
    "net": lambda: course_accuracy._net(4, num_iters=2),
    "solved": lambda: course_accuracy._solved(
        lambda: fc_net.FullyConnectedNet([5], normalization="batchnorm"),
        np.float32,
        num_epochs=1,
        batch_size=10,
    ),
}


@pytest.mark.parametrize("kind", MAKE)
def test_every_kind_of_run_predicts_a_class_for_each_row(kind):
    rng = np.random.default_rng(0)
    data = {}
    for part in ("train", "val", "test"):
        data[f"X_{part}"] = rng.normal(size=(20, 3, 32, 32))
        data[f"y_{part}"] = np.arange(20) % 10
    found = MAKE[kind]()(data)(data["X_test"])
    assert found.shape == (20,)
    assert set(np.asarray(found).tolist()) <= set(range(10))


def test_a_missing_folder_is_one_line(capsys):
    assert main(["course_accuracy", "--data", "nowhere"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
