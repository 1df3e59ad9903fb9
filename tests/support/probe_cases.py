"""Small rows for the tests of probes."""

from __future__ import annotations

import numpy as np

#: Values of C of a quick search.
GRID = (1e-3, 1e-1, 10.0)


def clouds(rows: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three normal clouds, overlapping, the same for every seed; classes take turns."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((3, features))
    y = np.arange(rows) % 3
    return 1.5 * rng.standard_normal((rows, features)) + centres[y], y


TRAIN, VAL, TEST = clouds(150, 5, 0), clouds(60, 5, 1), clouds(60, 5, 2)

# More features than few shots have rows.
WIDE = clouds(90, 40, 0), clouds(45, 40, 1), clouds(60, 40, 2)
