"""The two linear classifiers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._base import BaseClassifier
from xclf.estimators._fitted import ProbabilityMixin
from xclf.objectives import LOSSES, Layer, Network, loss_parameters
from xclf.training import FitResult


class LinearClassifier(BaseClassifier):
    """Scores x @ coef_.T + intercept_; with two classes one vector stands for the difference."""

    coef_: Array
    intercept_: Array

    @property
    def _auto_solver(self) -> str:
        return "lbfgs"

    def _widths(self, n_classes: int) -> tuple[int, ...]:
        return (self.n_features_in_, n_classes)

    def _initial(self, network: Network, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(network.size)  # convex: no symmetry to break

    def _set_layers(self, layers: list[Layer]) -> None:
        w, b = layers[0]
        xp = _array_api.namespace(w)
        bias = xp.zeros_like(w[:, 0]) if b is None else b[:, 0]
        if w.shape[0] == 2:
            w, bias = w[1:, :] - w[:1, :], bias[1:] - bias[:1]
        # Copies: the views would keep the whole parameter vector alive.
        self.coef_ = xp.asarray(w, copy=True)
        self.intercept_ = xp.asarray(bias, copy=True)

    def _layers(self) -> list[Layer]:
        w, b = self.coef_, self.intercept_[:, None]
        if w.shape[0] == 1:
            # Two classes: the penalty is least when the difference is shared evenly.
            xp = _array_api.namespace(w)
            w, b = xp.concat([-0.5 * w, 0.5 * w], axis=0), xp.concat([-0.5 * b, 0.5 * b], axis=0)
        return [Layer(w, b)]

    def _array_names(self) -> tuple[str, ...]:
        return ("coef_", "intercept_")


class SoftmaxClassifier(ProbabilityMixin, LinearClassifier):
    """Multinomial logistic regression where the arrays live.

        min  1/sum(w) sum_i w_i (logsumexp(s_i) - s_i[y_i]) + reg * sum(W^2),   s_i = W x_i + b

    Biases are not penalised. scikit-learn's `LogisticRegression` minimises the same objective with
    C = 1 / (2 * reg * sum(w)) for three classes and more, and C = 1 / (reg * sum(w)) for two;
    PyTorch's weight_decay is 2 * reg.

    Parameters (solver x parameter, with every default, is a table in the README)
    ----------
    reg : penalty on the squared weights, >= 0. With 0, classes that can be separated have no
        optimum at finite weights: a full-batch fit then says so, and `converged_` is False.
    fit_intercept : whether to fit biases
    standardize : fit in coordinates with mean 0 and deviation 1 (X is not copied), and fold both
        into the fitted weights: the model takes raw rows. Without biases, scale only.
    solver : "auto" (lbfgs) | "lbfgs" | "sgd" | "momentum" | "rmsprop" | "adam"
    max_iter : iterations of lbfgs (1000), epochs of the others (100)
    tol : lbfgs stops when the gradient's max-norm has fallen to tol times its value at zero
        weights, and the estimated distance to the optimum to tol times the objective (1e-8 for
        float64 data, 1e-6 for the rest). The others stop when the objective has not improved by tol
        (1e-4) relative, or the validation accuracy absolute, for n_iter_no_change epochs.
    batch_size : rows of a minibatch (200)
    learning_rate : 0.01 for sgd and momentum, 0.001 for rmsprop and adam
    momentum : of solver "momentum" (0.9)
    lr_schedule : "constant" | "cosine" (to zero over max_iter epochs) | "exponential"
        (times 0.95 an epoch)
    class_weight : None | "balanced" | dict of weights by label
    early_stopping : hold out validation_fraction (0.1) of the rows, watch their accuracy, keep the
        parameters of the best epoch
    n_iter_no_change : patience in epochs (10)
    warm_start : go on from the fitted weights; classes that persist keep theirs
    random_state : None, int, Generator or RandomState: order of minibatches
    callbacks : list of callables that receive an `xclf.Event`; one that returns True stops the fit
    verbose : print a line every `verbose` epochs or iterations
    device : where to compute when that is not where X is: None (there) | "auto" (the first GPU if
        it can be used, else the CPU) | "cpu" | "cuda" | "cuda:1" | "cuda:all" or a tuple such as
        ("cuda:0", "cuda:1"). For NumPy rows, memory maps among them: they are moved once if they
        take at most 60 % of what is free there and half of max_memory, and else sent chunk by chunk
        in every pass, in their own dtype. Fitted arrays live on the device, the first of several;
        predictions for NumPy rows come back as NumPy. Several GPUs share the rows of full-batch
        fits, and of predictions of many; minibatches run on the first, with a warning.
    precision : None | "tf32": products of float32 data with 11 significant bits of each operand,
        added up in float32, on GPUs that can; objectives then end about 1e-6 to 1e-3 above the
        optimum, relative. While the fit runs this holds for the whole process.
    max_memory : bytes that a fit may take beyond X, or a size such as "500MB" (units are powers of
        1024); chunks, curvature pairs and the preconditioner keep to it, at the cost of passes.
        With None a fit on the CPU keeps to 200 MB and a tenth of X, as far as the parameters
        themselves allow. On a device a chunk that finds no memory is halved, with a warning.

    Attributes
    ----------
    classes_ (C,) NumPy; coef_ (C, D), intercept_ (C,), with two classes (1, D) and (1,): the second
    class minus the first; n_iter_, n_features_in_, feature_names_in_, converged_ (the solver's own
    criterion was met), objective_, grad_norm_ (max-norm of its gradient; NaN from a minibatch
    solver), history_ (lists loss, val_loss, val_accuracy, seconds), loss_curve_.

    Example
    -------
    >>> import numpy as np, xclf
    >>> x = np.asarray([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [0.1, 0.9]])
    >>> model = xclf.SoftmaxClassifier(reg=0.01).fit(x, ["up", "right", "right", "up"])
    >>> model.predict(x[:2]).tolist()
    ['up', 'right']
    """

    _losses = ("softmax",)


class SVMClassifier(LinearClassifier):
    """Multiclass SVM, Weston-Watkins sum form, where the arrays live.

        min  1/sum(w) sum_i w_i sum_{j != y_i} max(0, s_ij - s_i[y_i] + margin) + reg * sum(W^2)

    with s_i = W x_i + b. Biases are not penalised. Not the Crammer-Singer max form.

    The hinge has kinks at which a quasi-Newton method stalls; "lbfgs" therefore runs inside an
    augmented Lagrangian, and stops when the certified duality gap is at most tol (1e-6 for float64
    data, 1e-4 for the rest) times the objective, within max_iter (5000) inner iterations.
    `converged_` says that this was reached. The other solvers follow subgradients, 0 at a kink.

    dual_gap_ : after "lbfgs", what objective_ stands above the optimum at most: a bound computed in
        float64 from the fitted coef_ and intercept_, also where the fit ended early. With reg = 0
        it is objective_ itself, no optimum being below 0, and `converged_` speaks of the gradient
        of the smoothed problem; classes that can be separated then end at 0, without any margin
        being the widest. That takes reg > 0.

    margin : float > 0, in units of score. The other parameters and all attributes are those of
    `SoftmaxClassifier`; there are no probabilities.
    """

    def __init__(
        self,
        reg: float = 1e-4,
        *,
        loss: str = "hinge",
        margin: float = 1.0,
        fit_intercept: bool = True,
        standardize: bool = False,
        solver: str = "auto",
        max_iter: int | None = None,
        tol: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        lr_schedule: str | None = None,
        class_weight: Any = None,
        early_stopping: bool = False,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        callbacks: Any = None,
        verbose: int = 0,
        device: Any = None,
        precision: str | None = None,
        max_memory: Any = None,
    ) -> None:
        self._set_parameters(locals())

    _losses = tuple(name for name in LOSSES if "margin" in loss_parameters(name))

    def _set_extras(self, result: FitResult) -> None:
        self.__dict__.pop("dual_gap_", None)
        if not math.isnan(result.dual_gap):
            self.dual_gap_ = result.dual_gap
