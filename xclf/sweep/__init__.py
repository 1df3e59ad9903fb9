"""Sweeps: grids of candidates and folds, trained together."""

from xclf.sweep._fits import Fit, Fold, rows_of
from xclf.sweep._interrupted import comparable
from xclf.sweep._search import SweepCV
from xclf.sweep._together import OnProgress, fit_together

__all__ = ["Fit", "Fold", "OnProgress", "SweepCV", "comparable", "fit_together", "rows_of"]
