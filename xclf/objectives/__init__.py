"""Objectives: flat parameters and some rows in, loss and slope out."""

from xclf.objectives._objective import (
    LOSSES,
    DataLoss,
    Objective,
    ProximalHinge,
    RowChunk,
    data_loss,
)
from xclf.objectives._stack import Layer, Stack

__all__ = [
    "LOSSES",
    "DataLoss",
    "Layer",
    "Objective",
    "ProximalHinge",
    "RowChunk",
    "Stack",
    "data_loss",
]
