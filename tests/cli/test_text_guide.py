"""The guide's page on text: what it shows runs, in Python and in the shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np

import xclf

PAGE = (Path(xclf.__file__).parent / "guide" / "text.md").read_text(encoding="utf-8")


def test_every_example_runs(shell):
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)
    model, words = names["model"], names["words"]
    assert model.predict(words.transform(["the cat purred"])).tolist() == ["cat"]
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in commands.splitlines():
        shell.good(*shlex.split(line)[1:])
    assert len(Path("labels.csv").read_text().splitlines()) == 1 + len(np.load("animals.npy"))
