"""Quick runs of the GPU's benchmarks without one."""

import json
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
    """Accelerators that do nothing, as `xclf.accelerators` switches and lists them."""

    def __init__(self, *names, unavailable=()):
        self.names, self.on, self.unavailable = names, set(names), unavailable

    def __call__(self, choice=None):
        if choice is not None:
            words = {"off": (), "default": self.names, "all": self.names}
            self.on = set(words[choice] if isinstance(choice, str) else choice)
        states = {name: "on" if name in self.on else "off" for name in self.names}
        states |= dict.fromkeys(self.unavailable, "unavailable")
        return [SimpleNamespace(name=name, state=states[name], why="") for name in states]
