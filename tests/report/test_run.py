"""Facts of a run: fingerprints, versions, peak memory, the command."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pytest

from xclf import __version__
from xclf.report import run
from xclf.report.run import command_line, environment, fingerprint, peak_memory, run_facts


def rows(n: int = 50, d: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d)).astype(np.float32), rng.integers(0, 5, n)


def test_the_hash_is_over_dtype_shape_and_bytes():
    x, y = rows()
    state = hashlib.sha256(b"<f4(50, 7)" + x.tobytes() + b"<i8(50,)" + y.tobytes())
    assert fingerprint(x, y) == f"sha256:{state.hexdigest()}"


def test_chunks_layout_and_byte_order_make_no_difference(monkeypatch, tmp_path):
    x, y = rows()
    expected = fingerprint(x, y)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(run, "_CHUNK", 100)  # three rows
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for other in (x, mapped, np.asfortranarray(x), x.astype(">f4"), x.tolist()):
        other = np.asarray(other, dtype=np.float32) if isinstance(other, list) else other
        assert fingerprint(other, y) == expected


def test_other_values_shapes_and_dtypes_make_one():
    x, y = rows()
    changed = x.copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], 9)
    found = {fingerprint(x, y), fingerprint(x), fingerprint(changed, y)}
    found |= {fingerprint(x.astype(np.float64), y), fingerprint(x.reshape(7, 50), y)}
    found |= {fingerprint(x, y[::-1]), fingerprint(x, y.astype(str))}
    assert len(found) == 7


def test_labels_of_text_by_their_characters():
    x, _ = rows(2)
    wide = np.array(["ab", "c"], dtype="<U40")
    assert fingerprint(x, wide) == fingerprint(x, ["ab", "c"])
    assert fingerprint(x, wide) == fingerprint(x, np.array(["ab", "c"], dtype=object))
    assert fingerprint(x, wide) != fingerprint(x, ["a", "bc"])


def test_every_backend_has_the_hash_of_numpy(backend, monkeypatch):
    x, y = rows()
    expected = fingerprint(x, y)
    monkeypatch.setattr(run, "_CHUNK", 100)
    assert fingerprint(backend.asarray(x), backend.asarray(y)) == expected


def test_the_environment_names_versions_library_and_device(backend):
    found = environment(backend.asarray(np.zeros(2)))
    assert found["numpy"] == np.__version__
    assert found["backend"] in {"numpy", "array_api_strict", "torch", "cupy"}
    assert str(backend.device) == found["device"]
    assert all(isinstance(value, str) and value for value in found.values())


def test_the_first_block_of_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/xclf", "train", "a b.csv", "--seed", "3"])
    found = run_facts("train", "A title", seed=3)
    assert (found["format"], found["kind"], found["xclf"]) == (1, "train", __version__)
    assert found["command"] == "xclf train 'a b.csv' --seed 3"
    assert found["created"].endswith("+00:00")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/usr/bin/xclf", "xclf predict"),
        ("C:/Scripts/xclf.exe", "xclf predict"),
        ("/lib/xclf/__main__.py", "xclf predict"),
        ("/lib/ipykernel_launcher.py", None),
    ],
)
def test_the_command_is_that_of_the_shell_alone(monkeypatch, program, command):
    monkeypatch.setattr(sys, "argv", [program, "predict"])
    assert command_line() == command


def test_the_peak_is_at_least_what_was_in_use():
    before = np.ones(2**23)  # 64 MiB
    assert peak_memory() > before.nbytes
