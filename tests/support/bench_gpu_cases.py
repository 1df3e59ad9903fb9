"""Quick runs of the GPU's benchmarks without one."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

from bench.__main__ import main
from bench.common.measuring import optional


def run(tmp_path, *words):
    target = tmp_path / "out.json"
    assert main([*words, "--json", str(target)]) == 0
    return json.loads(target.read_text())


HERE = ["numpy"] + (["torch"] if optional("torch") is not None else [])


def results(tmp_path, name, namespace, *more):
    """Entries by problem; those in TF32, which needs a GPU, must say so and are left out."""
    words = [name, "--quick", "--namespace", namespace, *more]
    found = run(tmp_path, *words)["results"]
    assert found["device"]["gpu"] is False
    kept = {}
    for entry in found["work"]:
        if "tf32" in entry["problem"]:
            assert "needs a CUDA GPU" in entry["failed"]
            continue
        assert "failed" not in entry, entry
        kept[entry["problem"]] = entry
    assert kept
    return kept


def measures(entry):
    return {line["measure"]: line for line in entry["measures"]}


class Switch:
    """Accelerators that do nothing: what `xclf.accelerators` promises. `on` are those that are."""

    def __init__(self, *names, unavailable=()):
        self.states = dict.fromkeys(names, "on") | dict.fromkeys(unavailable, "unavailable")
        self.on = set(names)

    def __call__(self, mode=None):
        names = {name for name, state in self.states.items() if state == "on"}
        self.on = {None: self.on, "off": set()}.get(mode, names)
        return [
            SimpleNamespace(
                name=name, state="off" if state == "on" and name not in self.on else state, why=""
            )
            for name, state in self.states.items()
        ]

    @contextmanager
    def only(self, *names):
        before, self.on = self.on, set(names)
        try:
            yield
        finally:
            self.on = before
