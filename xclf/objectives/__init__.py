"""Objectives: flat parameters and some rows in, loss and slope out."""

from xclf.objectives._host import true_index
from xclf.objectives._host_proximal import proximal_sums
from xclf.objectives._objective import LOSSES, Objective, data_loss, lines_of
from xclf.objectives._protocols import DataLoss, RowChunk
from xclf.objectives._proximal import Move, ProximalSums, class_flows, true_mask
from xclf.objectives._stack import Layer, Stack
from xclf.objectives._sums import RowSums

__all__ = [
    "LOSSES",
    "DataLoss",
    "Layer",
    "Move",
    "Objective",
    "ProximalSums",
    "RowChunk",
    "RowSums",
    "Stack",
    "class_flows",
    "data_loss",
    "lines_of",
    "proximal_sums",
    "true_index",
    "true_mask",
]
