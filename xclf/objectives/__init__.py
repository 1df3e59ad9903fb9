"""Objectives: flat parameters and some rows in, loss and gradient out."""

from xclf.objectives._hinge import Hinge
from xclf.objectives._loss import FullBatch, Loss, RowChunk, Smooth
from xclf.objectives._losses import LOSSES, loss_named, loss_parameters
from xclf.objectives._network import Layer, Network, Tape
from xclf.objectives._objective import Objective
from xclf.objectives._operations import FORMULAS, Operations
from xclf.objectives._proximal_sums import Move, ProximalSums
from xclf.objectives._row_sums import RowSums
from xclf.objectives._softmax import Softmax
from xclf.objectives._squared_hinge import SquaredHinge
from xclf.objectives._true_class import class_flows, pair_laplacian, true_index, true_mask

__all__ = [
    "FORMULAS",
    "LOSSES",
    "FullBatch",
    "Hinge",
    "Layer",
    "Loss",
    "Move",
    "Network",
    "Objective",
    "Operations",
    "ProximalSums",
    "RowChunk",
    "RowSums",
    "Smooth",
    "Softmax",
    "SquaredHinge",
    "Tape",
    "class_flows",
    "loss_named",
    "loss_parameters",
    "pair_laplacian",
    "true_index",
    "true_mask",
]
