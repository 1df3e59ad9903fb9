"""LinearSVC(multi_class="crammer_singer") on its own, so that it can be ended: liblinear cannot.

python bench/cpu/crammer_singer.py ROWS.npz C     prints "ready", then its result as JSON
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np
from sklearn.svm import LinearSVC


def main(file: str, strength: float) -> None:
    with np.load(file) as stored:
        x, y = stored["x"], stored["y"]
    model = LinearSVC(multi_class="crammer_singer", C=strength)
    print("ready", flush=True)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
    took = time.perf_counter() - began
    right = float((model.predict(x) == y).mean())
    print(json.dumps({"seconds": took, "iterations": int(model.n_iter_), "accuracy": right}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
