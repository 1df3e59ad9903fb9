"""What a type checker sees of the public surface; names of literals are those there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import xclf
from xclf.estimators import _types as types
from xclf.objectives import LOSSES, loss_parameters
from xclf.optim import SCHEDULES, SOLVERS

USER = """
import numpy as np
import xclf

x, y = np.ones((4, 2)), np.array([0, 1, 0, 1])
model = xclf.SoftmaxClassifier(reg=1e-3, solver="lbfgs", lr_schedule=None)
reveal_type(model.fit(x, y))
reveal_type(model.predict(x))
reveal_type(model.predict_proba(x))
reveal_type(model.decision_function([[1.0, 2.0]]))
reveal_type(model.coef_)
reveal_type(model.converged_)
reveal_type(model.score(x, y))
reveal_type(xclf.load("m"))
reveal_type(xclf.SweepCV(xclf.SVMClassifier(), {"reg": [1.0]}).fit(x, y).best_estimator_)
class Rows: ...
reveal_type(model.predict(Rows()))
norm: float = float(np.linalg.norm(model.coef_))
scores = x @ model.coef_.T
"""
REVEALED = [
    *("SoftmaxClassifier", "ndarray[", "ndarray[", "ndarray[", "AnyArray", "bool", "float"),
    *("BaseClassifier", "SVMClassifier", "Rows"),
]
SLIPS = """
import xclf

xclf.SoftmaxClassifier(solver="newton")
xclf.SVMClassifier(loss="softmax")
xclf.TwoLayerClassifier(lr_schedule="linear")
xclf.SoftmaxClassifier(precision="tf16")
xclf.SoftmaxClassifier(reg="high")
xclf.SoftmaxClassifier(class_weight="even")
"""


def checked(path: Path, text: str) -> list[str]:
    """mypy's lines on a user's file beside the package as it is installed."""
    pytest.importorskip("mypy")
    path.write_text(text)
    root = str(Path(xclf.__file__).parents[1])
    config = path.with_name("mypy.ini")
    config.write_text(f"[mypy]\nstrict = true\nmypy_path = {root}\n")
    config.write_text(
        config.read_text()
        + "follow_imports = silent\n"
        + "".join(
            f"[mypy-{name}.*]\nignore_missing_imports = true\nfollow_imports = skip\n"
            for name in ("sklearn", "scipy", "threadpoolctl", "array_api_compat", "rich", "h5py")
        )
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), str(path)]
    cache = ["--cache-dir", str(Path(root) / ".mypy_cache" / "users")]
    ran = subprocess.run([*command, *cache], capture_output=True, text=True, cwd=path.parent)
    return [line for line in ran.stdout.splitlines() if "user.py" in line]


# mypy reads NumPy's stubs before it comes to the file: ten seconds, and no line of xclf runs.
@pytest.mark.long
def test_what_a_user_gets_is_typed(tmp_path):
    lines = checked(tmp_path / "user.py", USER)
    assert not [line for line in lines if "error" in line]
    revealed = [line.partition('Revealed type is "')[2] for line in lines if "Revealed" in line]
    assert len(revealed) == len(REVEALED)
    for found, expected in zip(revealed, REVEALED, strict=True):
        assert expected in found


@pytest.mark.long
def test_slips_are_errors(tmp_path):
    errors = [line for line in checked(tmp_path / "user.py", SLIPS) if "error" in line]
    assert len(errors) == 6


def test_names_are_those_of_the_records():
    assert get_args(types.Solver) == ("auto", *SOLVERS)
    assert set(get_args(types.Loss)) == set(LOSSES)
    with_margin = {name for name in LOSSES if "margin" in loss_parameters(name)}
    assert set(get_args(types.MarginLoss)) == with_margin
    assert set(get_args(types.LrSchedule)) == set(SCHEDULES)
