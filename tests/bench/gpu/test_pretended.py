"""The GPU benchmarks with CuPy as their namespace, on the pretended one: what they ask of CuPy is
there, and what a GPU alone has is used. No time is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xclf
from bench.gpu import checks
from bench.gpu.entries import ON

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]

# The clock and the random numbers, which nothing but the benchmarks asks for.
SCRIPT = """
import sys, time
from types import SimpleNamespace
import numpy as np
import pretend_cupy
pretend_cupy.install()
import cupy

class Generator:
    def __init__(self, bits):
        self.bits = bits

    def standard_normal(self, size, dtype):
        return cupy.asarray(self.bits.standard_normal(size, dtype=np.dtype(dtype)))

cuda = cupy.cuda
cupy.random = SimpleNamespace(Generator=Generator, Philox4x3210=np.random.default_rng)
cuda.Event.record = lambda self, stream=None: setattr(self, "time", time.perf_counter())
cuda.Event.synchronize = lambda self: None
cuda.get_elapsed_time = lambda start, end: 1e3 * (end.time - start.time) + 1e-6
properties = cuda.runtime.getDeviceProperties
cuda.runtime.getDeviceProperties = lambda number: {
    **properties(number), "multiProcessorCount": 132
}
cupy.get_default_memory_pool().set_limit = lambda size: None
from bench.__main__ import main
for line in sys.argv[1:]:
    assert main(line.split()) == 0, line
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Entries by benchmark and problem."""
    folder = tmp_path_factory.mktemp("results")
    names = (
        "checks",
        "launches",
        "ceilings",
        "loss_grad",
        "minibatch",
        "heads",
        "stream",
        "fit",
        "sweep",
    )
    lines = {}
    for name in names:
        repeats = "" if name in ("checks", "launches", "fit", "sweep") else "--repeats 1"
        lines[name] = f"gpu_{name} --quick {repeats} --json {folder / name}.json"
    for name in ("fit", "sweep"):
        lines[f"{name}_tf32"] = (
            f"gpu_{name} --quick --precision tf32 --json {folder / name}_tf32.json"
        )
    own = [
        str(ROOT),
        str(ROOT / "tests" / "support"),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    # A torch that sees a GPU would be handed arrays that are in no GPU's memory.
    changed = {
        "PYTHONPATH": os.pathsep.join(own),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "XCLF_ACCELERATE": "all",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *lines.values()],
        env=os.environ | changed,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for name in lines:
        results = json.loads((folder / f"{name}.json").read_text())["results"]
        assert results["device"]["gpu"] is True
        found[name] = results["work"]
    return found


def test_everything_is_measured(work):
    for name, entries in work.items():
        assert entries, name
        for entry in entries:
            assert "failed" not in entry, (name, entry)


def test_tf32_stands_beside_float32(work):
    for name in ("ceilings", "loss_grad"):
        problems = {entry["problem"] for entry in work[name]}
        wide = {problem for problem in problems if problem.endswith("float32")}
        assert {problem.replace("float32", "tf32") for problem in wide} <= problems


def test_checks_hold(work):
    assert [entry["problem"] for entry in work["checks"]] == list(checks.CHECKS)
    for entry in work["checks"]:
        assert entry["measures"]
        assert all(line["reached"] for line in entry["measures"]), entry


def test_no_accelerator_fails(work):
    usable = {one.name for one in xclf.accelerators() if one.state != "unavailable"}
    for name, many in (("minibatch", 1), ("heads", 1), ("launches", 1), ("checks", 3)):
        on = [entry["figures"][ON] for entry in work[name] if ON in entry.get("figures", ())]
        assert len(on) == many
        assert all(usable <= set(names) for names in on)


def test_steps_come_to_the_weights_of_numpy(work):
    (entry,) = work["minibatch"]
    apart = entry["figures"]["weights off NumPy's by at most"]
    assert {"xclf", "xclf, step by step", "xclf, formulas"} <= set(apart)
    assert max(apart.values()) < 1e-6


@pytest.mark.parametrize("name", ["sweep", "sweep_tf32"])
def test_sweeps_end(work, name):
    (entry,) = work[name]
    assert entry["finished"]
    assert all(head["converged"] for head in entry["heads"])
