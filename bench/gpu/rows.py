"""Rows for fits on the device: like embeddings, made where they stay."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench._device import Device
from bench._gpu import softmax_problem
from xclf._array_api import accumulator, device, from_host, namespace
from xclf.training import Problem

SHAPE, QUICK = (1_280_000, 1024, 1000), (400, 20, 5)
_CHUNK = 1 << 16  # rows that are made at a time


@dataclass(frozen=True)
class Data:
    """x (N, D) float32 and labels y (N,) int64, on the device."""

    x: Any
    y: Any
    classes: int

    def problem(self, reg: Any, *, wide: bool = False, precision: str | None = None) -> Problem:
        """In float32, or (wide) in float64."""
        return softmax_problem(self.x, self.y, self.classes, reg, wide=wide, precision=precision)

    def wide(self, values: np.ndarray) -> Any:
        """On the device, in the dtype that the estimators keep parameters in."""
        return from_host(values, self.x, accumulator(namespace(self.x), device(self.x)))


def sizes(args: argparse.Namespace) -> tuple[int, int, int]:
    """Rows, features, classes."""
    rows, features, classes = QUICK if args.quick else SHAPE
    return args.rows or rows, features, classes


def power_law(place: Device, rows: int, features: int, classes: int) -> Data:
    """Rows whose spectrum falls as a power law, as embeddings' do, with labels of a noisy linear
    teacher. Made where they stay, chunk by chunk, each from its own seed."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((features, features)))[0]
    spread = np.arange(1, features + 1) ** -1.0
    spread *= np.sqrt(features) / np.linalg.norm(spread)
    teacher = rng.standard_normal((features, classes)) * (3.0 / np.sqrt(features))
    mix = place.asarray((spread[:, None] * basis.T).astype(np.float32))
    w = place.asarray(teacher.astype(np.float32))
    xp = namespace(mix)
    x = xp.empty((rows, features), dtype=xp.float32)
    y = xp.empty((rows,), dtype=xp.int64)
    for k, start in enumerate(range(0, rows, _CHUNK)):
        stop = min(start + _CHUNK, rows)
        part = place.normal(stop - start, features, 2 * k + 1) @ mix
        noise = place.normal(stop - start, classes, 2 * k + 2)
        x[start:stop, :] = part
        y[start:stop] = xp.argmax(part @ w + 1.28 * noise, axis=1)
    return Data(x, y, classes)
