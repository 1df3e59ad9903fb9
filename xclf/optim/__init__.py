"""Optimisers: update rules, schedules, a line search, L-BFGS and its preconditioner.

They know flat parameter vectors and a function that gives values and slopes; nothing of models,
data or estimators.
"""

from xclf.optim.lbfgs import Iterate, Memory, lbfgs
from xclf.optim.rules import SGD, Adam, Momentum, RMSProp, Rule, State
from xclf.optim.schedules import EPOCH_DECAY, SCHEDULES, rate_factor
from xclf.optim.spectral import SpectralPreconditioner
from xclf.optim.wolfe import Accepted, Trial, wolfe_search

__all__ = [
    "EPOCH_DECAY",
    "SCHEDULES",
    "SGD",
    "Accepted",
    "Adam",
    "Iterate",
    "Memory",
    "Momentum",
    "RMSProp",
    "Rule",
    "SpectralPreconditioner",
    "State",
    "Trial",
    "lbfgs",
    "rate_factor",
    "wolfe_search",
]
