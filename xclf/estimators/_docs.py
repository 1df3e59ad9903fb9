"""Parameters and attributes in the docstrings of all three classifiers, in numpydoc form."""

from __future__ import annotations

import inspect
from typing import TypeVar

PARAMETERS = """\
fit_intercept : bool, default=True
    Whether to fit biases.
standardize : bool, default=False
    Fit in coordinates with mean 0 and deviation 1 (X is not copied), and fold both into the fitted
    weights: the model takes raw rows. Without biases, scale only; sparse rows are scaled by the
    deviation about the mean, and never centred.
solver : {"auto", "lbfgs", "sgd", "momentum", "nesterov", "rmsprop", "adam"}, default="auto"
    "lbfgs" uses all rows in every step (by Newton's method where rows are few), the others
    minibatches. "auto" is lbfgs for the linear models and adam for the net, and adam in
    `partial_fit`.
max_iter : int, default=None
    Most iterations of lbfgs (1000; 5000 for the hinge), epochs of the others (100).
tol : float, default=None
    lbfgs stops when the gradient's max-norm has fallen to tol times its value at zero weights, and
    the estimated distance to the optimum to tol times the objective (1e-8 for float64 data, 1e-6
    for the rest); with the hinge of a linear model, when the certified duality gap is at most tol
    times the objective (1e-6 and 1e-4), with its squared hinge too where rows are few. The others
    stop when the objective has not improved by tol (1e-4) relative, or the validation accuracy
    absolute, for n_iter_no_change epochs.
batch_size : int, default=None
    Rows of a minibatch (200).
learning_rate : float, default=None
    0.01 for sgd, momentum and nesterov, 0.001 for rmsprop and adam. With the hinge of a linear
    model the former are at most margin / m, with its squared hinge 1 / (C m), where m is at least
    the largest eigenvalue of X^T X / N, from a sample of rows; `partial_fit`, which has not seen
    all rows, takes 0.01.
momentum : float, default=None
    Of the solvers "momentum" and "nesterov" (0.9).
lr_schedule : {"constant", "cosine", "exponential"}, default=None
    "cosine" falls to zero over max_iter epochs, "exponential" by 0.95 an epoch; None is "constant".
class_weight : "balanced" or dict, default=None
    Weights of rows by label; "balanced": inversely to a label's frequency.
early_stopping : bool, default=False
    Hold out validation_fraction of the rows, watch their accuracy, keep the parameters of the best
    epoch.
validation_fraction : float, default=None
    Share of the rows that early_stopping holds out (0.1).
n_iter_no_change : int, default=None
    Patience of the minibatch solvers in epochs (10).
warm_start : bool, default=False
    Go on from the fitted weights; classes that persist keep theirs.
random_state : int, Generator or RandomState, default=None
    Order of minibatches, held-out rows, and initial weights of the net.
callbacks : list of callables, default=None
    They receive an `xclf.Event`; one that returns True stops the fit. An `xclf.Checkpoint` among
    them keeps the state of the fit in a file, from which it goes on after a kill.
verbose : int, default=0
    Print a line every `verbose` epochs or iterations.
device : str or tuple of str, default=None
    Where to compute when that is not where X is: None (there), "auto" (the first GPU if it can be
    used, else the CPU), "cpu", "cuda", "cuda:1", "cuda:all" or a tuple such as ("cuda:0",
    "cuda:1"). For NumPy rows, memory maps among them: they are moved once if they take at most 60 %
    of what is free there and half of max_memory, and else sent chunk by chunk in every pass, in
    their own dtype. Fitted arrays live on the device, the first of several; predictions for NumPy
    rows come back as NumPy. Several GPUs share the rows of full-batch fits, and of predictions of
    many; minibatches run on the first, with a warning. Sparse rows are moved once, to one GPU.
precision : {"tf32"}, default=None
    "tf32": products of float32 data with 11 significant bits of each operand, added up in float32,
    on GPUs that can; objectives then end about 1e-6 to 1e-3 above the optimum, relative. While the
    fit runs this holds for the whole process.
max_memory : int or str, default=None
    Bytes that a fit may take beyond X, or a size such as "500MB" (units are powers of 1024);
    chunks, curvature pairs and the preconditioner keep to it, at the cost of passes. With None a
    fit on the CPU keeps to 200 MB and a tenth of X, of sparse X five times its bytes, as far as
    the parameters themselves allow. On a device a chunk that finds no memory is halved, with a
    warning."""

COEFFICIENTS = """\
coef_ : array (C, D)
    Weights; with two classes (1, D): the second class's minus the first's.
intercept_ : array (C,)
    Biases; with two classes (1,)."""

ATTRIBUTES = """\
classes_ : NumPy array (C,)
    The sorted labels.
class_names_ : list of str or None
    Names of `classes_` where these are numbers: set them (`model.class_names_ = names`), and model
    files, pictures, tables and predictions of the shell have them. A fit removes them.
n_features_in_ : int
    D.
feature_names_in_ : NumPy array (D,)
    Column names, of data frames only.
n_iter_ : int
    Iterations, or epochs.
converged_ : bool
    Whether the solver's own criterion was met.
objective_ : float
    The objective at the fitted parameters.
grad_norm_ : float
    Max-norm of its gradient; NaN from a minibatch solver.
history_ : dict of lists
    "loss", "val_loss", "val_accuracy" and "seconds" after every epoch or iteration.
loss_curve_ : list
    `history_["loss"]`.
estimators_ : list
    Of labels of T columns only: the fitted model of each. The attributes above are then lists with
    an entry for each task, or arrays (T,) of numbers; `classes_` of multi-label indicators is the
    numbers of the columns."""

T = TypeVar("T")


def with_shared_docs(cls: type[T]) -> type[T]:
    """Put the texts above where the docstring of a class has their names in braces."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    for name in ("PARAMETERS", "COEFFICIENTS", "ATTRIBUTES"):
        doc = doc.replace(f"{{{name}}}", globals()[name])
    cls.__doc__ = doc
    return cls
