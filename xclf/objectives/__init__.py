"""Objectives: flat parameters and some rows in, loss and gradient out."""

from xclf.objectives._host import true_index
from xclf.objectives._host_proximal import proximal_sums
from xclf.objectives._network import Layer, Network
from xclf.objectives._objective import LOSSES, Objective, data_loss, take_heads
from xclf.objectives._protocols import DataLoss, RowChunk
from xclf.objectives._proximal import Move, ProximalSums, class_flows, true_mask
from xclf.objectives._sums import RowSums

__all__ = [
    "LOSSES",
    "DataLoss",
    "Layer",
    "Move",
    "Network",
    "Objective",
    "ProximalSums",
    "RowChunk",
    "RowSums",
    "class_flows",
    "data_loss",
    "proximal_sums",
    "take_heads",
    "true_index",
    "true_mask",
]
