"""Rows for the device: like embeddings, made where they stay, and rows that stay on the host."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.common.data import power_law
from bench.common.device import Device
from bench.common.internals import (
    REG,
    Problem,
    Streamed,
    as_parameters,
    device_of,
    flat,
    namespace,
    softmax_problem,
    to_host,
)
from bench.common.measuring import Call

SHAPE, QUICK = (1_280_000, 1024, 1000), (400, 20, 5)
_CHUNK = 1 << 16  # rows that are made at a time


@dataclass(frozen=True)
class DeviceRows:
    """x (N, D) float32 and labels y (N,) int64, on the device."""

    x: Any
    y: Any
    classes: int

    def problem(self, reg: Any, **settings: Any) -> Problem:
        """See `softmax_problem`."""
        return softmax_problem(self.x, self.y, self.classes, reg, **settings)

    def parameters(self, values: np.ndarray) -> Any:
        """On the device, in the dtype that the estimators keep parameters in."""
        return as_parameters(values, self.x)


def sizes(args: argparse.Namespace) -> tuple[int, int, int]:
    """Rows, features, classes."""
    rows, features, classes = QUICK if args.quick else SHAPE
    return args.rows or rows, features, classes


def synthetic_embeddings(device: Device, rows: int, features: int, classes: int) -> DeviceRows:
    """Rows whose spectrum falls as a power law, with labels of a noisy linear teacher. Made where
    they stay, chunk by chunk, each from its own seed."""
    rng = np.random.default_rng(0)
    mix = device.asarray(power_law(rng, features).astype(np.float32))
    teacher = rng.standard_normal((features, classes)) * (3.0 / np.sqrt(features))
    w = device.asarray(teacher.astype(np.float32))
    xp = namespace(mix)
    x = xp.empty((rows, features), dtype=xp.float32)
    y = xp.empty((rows,), dtype=xp.int64)
    for k, start in enumerate(range(0, rows, _CHUNK)):
        stop = min(start + _CHUNK, rows)
        part = device.normal(stop - start, features, 2 * k + 1) @ mix
        noise = device.normal(stop - start, classes, 2 * k + 2)
        x[start:stop, :] = part
        y[start:stop] = xp.argmax(part @ w + 1.28 * noise, axis=1)
    return DeviceRows(x, y, classes)


def host_rows(device: Device, rows: int, features: int, dtype: str) -> np.ndarray:
    """Random rows in host memory."""
    if dtype == "uint8":
        return np.random.default_rng(0).integers(0, 256, (rows, features), dtype=np.uint8)
    out = np.empty((rows, features), np.float32)
    for k, start in enumerate(range(0, rows, 1 << 17)):
        stop = min(start + (1 << 17), rows)
        out[start:stop] = to_host(device.normal(stop - start, features, k))
    return out


def host_labels(rows: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, rows)


def streamed(device: Device, host: np.ndarray) -> Streamed:
    """Rows on the host that are sent to the device in every pass."""
    like = device.asarray(np.zeros(1, np.float32))
    return Streamed(host, namespace(like), device_of(like))


def pass_over(device: Device, x: Any, y: np.ndarray, w: np.ndarray) -> Call:
    """Objective and gradient over all rows, at weights w (C, D)."""
    labels = device.asarray(y)
    problem, theta = softmax_problem(x, labels, len(w), REG), flat(w, device.asarray(w[0]))
    return lambda: problem.value_and_grad(theta)
