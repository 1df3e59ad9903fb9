"""A fit of five times the memory that its process may take."""

from __future__ import annotations

import subprocess
import sys

import dask_cases
import numpy as np
import pytest

dask_cases.need("dask.array")

FILES, ROWS, FEATURES = 48, 10_000, 128
LIMIT = FILES * ROWS * FEATURES * 4 // 5

CHILD = """
import resource, sys
import dask
import numpy as np
import xclf, xclf.data

dask.config.set(scheduler="synchronous")  # each thread has a buffer of BLAS, of 32 MB and more

def taken():
    status = open("/proc/self/status").read()
    return 1024 * int(status.partition("VmData:")[2].split()[0])

memory = int(sys.argv[3])

def fit(pattern):
    data = xclf.data.load(pattern, blocks=True)
    model = xclf.SoftmaxClassifier(1e-2, max_iter=2, tol=1e-3, max_memory=memory)
    model.fit(data.x, data.y)
    return model.score(data.x, data.y), data.x.shape

fit(sys.argv[1])  # threads have started, with their buffers; modules are there
resource.setrlimit(resource.RLIMIT_DATA, (taken() + memory,) * 2)
score, shape = fit(sys.argv[2])
try:
    np.ones(shape, np.float32)
    print("there was memory for all rows")
except MemoryError:
    print(score)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")
def test_rows_of_five_times_the_memory(tmp_path):
    centres = np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32)
    for k in range(FILES):
        rng = np.random.default_rng(k)
        y = rng.integers(0, 3, ROWS)
        x = rng.standard_normal((ROWS, FEATURES), np.float32) + 0.3 * centres[y]
        np.save(tmp_path / f"x{k:02}.npy", x)
        np.save(tmp_path / f"y{k:02}.npy", y)
    few, every = (f"{tmp_path}/x{some}.npy,{tmp_path}/y{some}.npy" for some in ("0[01]", "*"))
    words = [sys.executable, "-W", "ignore", "-c", CHILD, few, every, str(LIMIT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    # Classes are apart by 0.3 * sqrt(2 * 128) = 4.8 deviations: 2 * Phi(-2.4) = 0.016 are wrong.
    assert float(done.stdout.split()[-1]) > 0.95
