"""Objectives: flat parameters and some rows in, loss and slope out."""

from xclf.objectives._objective import LOSSES, Objective, ProximalHinge, data_loss
from xclf.objectives._stack import Layer, Stack
from xclf.objectives._sums import DataLoss, RowChunk, RowSums

__all__ = [
    "LOSSES",
    "DataLoss",
    "Layer",
    "Objective",
    "ProximalHinge",
    "RowChunk",
    "RowSums",
    "Stack",
    "data_loss",
]
