"""xclf backends, gradcheck, example, version: what can be said without data."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from xclf import _array_api
from xclf._version import __version__
from xclf.cli._console import CheckError, UserError, out
from xclf.cli._devices import choose
from xclf.gradcheck import check_gradient
from xclf.objectives import LOSSES, Network, Objective, loss_named
from xclf.report.worked_example import worked_example
from xclf.rows import Rows
from xclf.training import Problem

# Library, the distributions that may provide it, and how it is used here.
_LIBRARIES = (
    ("numpy", ("numpy",), "trains and predicts; tested"),
    ("cupy", ("cupy-cuda13x", "cupy-cuda12x", "cupy"), "trains and predicts on CUDA"),
    ("torch", ("torch",), "trains and predicts; tested on the CPU"),
    ("array_api_strict", ("array-api-strict",), "the standard's strict reading; tested"),
    ("dask", ("dask",), "kernels only, on chunks of rows; tested"),
)


def backends() -> None:
    """Say which array libraries are here, and what --device auto would use and why.

    xclf backends
    """
    console = out()
    table = Table("library", "version", "use")
    for name, distributions, use in _LIBRARIES:
        table.add_row(name, _version(name, distributions), use)
    console.print(table)
    xp, found = _array_api.cuda()
    console.print(f"CUDA: {'usable: ' if xp is not None else 'not usable: '}{found}")
    if xp is None:
        console.print(
            "to use a GPU: a CUDA driver, and pip install 'xclf[cuda12]' or 'xclf[cuda13]'"
        )
    console.print(f"--device auto would use {choose('auto').text}")


def _version(name: str, distributions: tuple[str, ...]) -> str:
    if importlib.util.find_spec(name) is None:
        return "not installed"
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed"


def gradcheck(
    rows: Annotated[int, typer.Option(help="Random rows to check on.")] = 20,
    features: Annotated[int, typer.Option(help="Features of each.")] = 7,
    classes: Annotated[int, typer.Option(help="Classes.")] = 5,
    hidden: Annotated[int, typer.Option(help="Hidden units of the net.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the random rows.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or cuda:all.")] = "auto",
) -> None:
    """Hold every model's gradients against central differences; exit status 1 if one is off.

    xclf gradcheck

    xclf gradcheck --device cuda --classes 50
    """
    for name, value in (("rows", rows), ("features", features), ("hidden", hidden)):
        if value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if classes < 2:
        raise UserError(f"--classes must be at least 2, got {classes}")
    place, console = choose(device), out()
    rng = np.random.default_rng(seed)
    x = place.put(rng.standard_normal((rows, features)))
    true = place.put(np.arange(classes)[:, None] == rng.integers(0, classes, rows))
    console.print(f"{rows} rows x {features}, {classes} classes, float64; {place.text}")
    failed = []
    for net in (False, True):
        network = Network((features, hidden, classes) if net else (features, classes))
        theta = place.put(rng.standard_normal(network.size))
        for loss in LOSSES:
            objective = Objective(network, loss_named(loss), 1e-2)
            problem = Problem(objective, Rows(x, true, None, x.dtype))
            report = check_gradient(problem.value, theta, problem.value_and_grad(theta)[1])
            title = f"{'two-layer net' if net else 'linear model'}, {loss}"
            console.print(title, style="bold")
            console.print(str(report))
            if not report:
                failed.append(title)
    if failed:
        raise CheckError(f"gradients differ from central differences: {'; '.join(failed)}")


def example() -> None:
    """Walk through the notes' worked example: scores, hinge, softmax, with this library's numbers.

    xclf example
    """
    if not worked_example(Console(highlight=False)):
        raise CheckError("the worked example's numbers do not agree")


def version() -> None:
    """Print the version.

    xclf version
    """
    print(f"xclf {__version__}")
