"""Optimisers: update rules, schedules, a line search, L-BFGS and its preconditioner.

They know flat parameter vectors and a function that gives values and gradients; nothing of models,
data or estimators.
"""

from xclf.optim.lbfgs import LBFGS, Iterate, ValueAndGrad
from xclf.optim.memory import LEAST_PAIRS, Memory, memory_size
from xclf.optim.rules import SGD, Adam, Momentum, Nesterov, RMSProp, Rule, State
from xclf.optim.schedules import EPOCH_DECAY, SCHEDULES, rate_factor
from xclf.optim.solvers import SOLVERS, Solver
from xclf.optim.spectral import SpectralPreconditioner
from xclf.optim.wolfe import Accepted, Trial, wolfe_search

__all__ = [
    "EPOCH_DECAY",
    "LBFGS",
    "LEAST_PAIRS",
    "SCHEDULES",
    "SGD",
    "SOLVERS",
    "Accepted",
    "Adam",
    "Iterate",
    "Memory",
    "Momentum",
    "Nesterov",
    "RMSProp",
    "Rule",
    "Solver",
    "SpectralPreconditioner",
    "State",
    "Trial",
    "ValueAndGrad",
    "memory_size",
    "rate_factor",
    "wolfe_search",
]
