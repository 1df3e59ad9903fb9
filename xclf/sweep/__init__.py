"""Sweeps: grids of candidates and folds, trained together."""

from xclf.sweep._search import SweepCV

__all__ = ["SweepCV"]
