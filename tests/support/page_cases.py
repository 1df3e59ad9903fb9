"""Results of runs, with every section of a page."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclf.report.metrics import evaluation

#: Names that must be shown as they are, and never be markup; the last has no place to wrap.
HOSTILE = [
    "<script>alert(1)</script>",
    "a\"b'c&amp;",
    "</title><img src=x onerror=alert(2)>" + "x" * 150,
]


def results(classes: int = 4, rows: int = 400, hostile: bool = False) -> dict[str, Any]:
    """Results of a probe in every section; `hostile` names come from HOSTILE."""
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, rows)
    scores = rng.standard_normal((rows, classes))
    scores[np.arange(rows), y] += 3.0
    p = np.exp(scores)
    p /= p.sum(axis=1, keepdims=True)
    names = [f"class {k}" for k in range(classes)]
    if hostile:
        names[: len(HOSTILE)] = HOSTILE
    text = HOSTILE[0] if hostile else "text"
    found = evaluation(y, probabilities=p, class_names=names)
    other = evaluation(y[:99], probabilities=p[:99], class_names=names, data="validation")
    return {
        "format": 1,
        "kind": "probe",
        "title": f"A probe of {text}",
        "xclf": "0.0",
        "created": "2026-01-02T03:04:05+00:00",
        "command": f"xclf probe '{text}'",
        "seed": 0,
        "environment": {"python": "3.11", "numpy": "2.0", "device": text},
        "data": [
            {"role": role, "name": f"{text}.npy", "rows": n, "features": 64, "dtype": "float32"}
            | {"classes": classes, "fingerprint": "sha256:" + 64 * "0", "labels": "sha256:1"}
            for role, n in (("validation", 99), ("test", rows))
        ],
        "class_names": names,
        "model": {"estimator": "SoftmaxClassifier", "parameters": {"reg": 1e-4, "tol": None}}
        | {"converged": True, "iterations": 12, "objective": 0.25, "dual_gap": 1e-9},
        "protocol": {"name": text, "text": text, "source": "https://example.org/a"},
        "metrics": [other["metrics"], found["metrics"]],
        **{key: found[key] for key in ("confusion", "calibration", "per_class")},
        "search": {
            "parameter": "C",
            "log": True,
            "metric": "accuracy",
            "data": "validation",
            "points": [
                {"value": 10.0**k, "score": 0.9 - 0.01 * k * k, "std": 0.01, "train_score": 0.95}
                | {"converged": k < 3}
                for k in range(-4, 5)
            ],
            "chosen": 4,
        },
        "few_shot": {
            "metric": "accuracy",
            "tries": 2,
            "points": [
                {"shots": k, "mean": 0.5 + 0.02 * k, "low": 0.4, "high": 0.9}
                | {"scores": [0.45, 0.6], "chosen": [1.0, 10.0]}
                for k in (1, 2, 4, 8)
            ],
        },
        "layers": {
            "metric": "accuracy",
            "points": [
                {"name": f"{text}_{k:02d}.npy", "score": 0.5 + 0.05 * k, "chosen": 1.0}
                for k in range(5)
            ],
            "best": 4,
        },
        "tasks": [
            {"name": text, "classes": names, "chosen": 1.0, "metrics": {"accuracy": 0.5}},
            {"name": "other", "classes": names[:2], "chosen": 0.1, "metrics": {"accuracy": 0.7}},
        ],
        "history": {
            "iteration": list(range(1, 31)),
            "objective": [1.0 / k for k in range(1, 31)],
            "train_accuracy": None,
            "validation_accuracy": [None] + [1 - 1.0 / k for k in range(2, 31)],
        },
        "templates": {"shape": [1, 1, 1], "images": [PIXEL] * classes},
        "times": [{"stage": text, "seconds": 0.5}, {"stage": "fit", "seconds": 7300.0}],
        "peak_memory": 3 * 2**29,
    }


#: A grey pixel.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCB"
    "d81ytgAAAABJRU5ErkJggg=="
)
