"""xclf backends, gradcheck, example, version: the commands without data."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from xclf import _array_api
from xclf._extras import install
from xclf._version import __version__
from xclf.accelerate import AcceleratorState, accelerators
from xclf.cli import _options as opt
from xclf.cli._cluster import describe, on_cluster
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
    ("dask", ("dask",), "trains and predicts on rows in blocks, also on a cluster; tested"),
)


def backends(dask: opt.Dask = None) -> None:
    """Print the array libraries and accelerators, their state, and what --device auto would use.

    xclf backends

    xclf backends --dask tcp://scheduler:8786
    """
    console = out()
    console.print(_library_table())
    states = accelerators()
    if states:
        console.print(_accelerator_table(states))
    xp, text = _array_api.cuda()
    console.print(f"CUDA: {'usable: ' if xp is not None else 'not usable: '}{text}")
    if xp is None:
        console.print(
            f"to use a GPU: a CUDA driver, and {install('cuda13')} (or cuda12, for GPUs before "
            "compute capability 7.5 and older drivers)"
        )
    console.print(f"--device auto would use {choose('auto').text}")
    with on_cluster(dask, None) as client:
        if client is not None:
            console.print(describe(client))


def _library_table() -> Table:
    table = Table("library", "version", "use")
    for name, distributions, use in _LIBRARIES:
        table.add_row(name, _version(name, distributions), use)
    return table


def _accelerator_table(states: list[AcceleratorState]) -> Table:
    table = Table("name", "state", "why", title="Accelerators", title_justify="left")
    for state in states:
        table.add_row(state.name, state.state, state.why)
    return table


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
    device: opt.Device = "auto",
) -> None:
    """Compare every model's gradients with central differences; exit status 1 if one differs.

    xclf gradcheck

    xclf gradcheck --device cuda --classes 50
    """
    least = {"rows": 1, "features": 1, "hidden": 1, "classes": 2}
    given = locals()
    for name, minimum in least.items():
        if given[name] < minimum:
            raise UserError(f"--{name} must be at least {minimum}, got {given[name]}")
    chosen, console = choose(device), out()
    rng = np.random.default_rng(seed)
    x = chosen.put(rng.standard_normal((rows, features)))
    labels = chosen.put(np.arange(classes)[:, None] == rng.integers(0, classes, rows))
    console.print(f"{rows} rows x {features}, {classes} classes, float64; {chosen.text}")
    failed = []
    for model, widths in (
        ("linear model", (features, classes)),
        ("two-layer net", (features, hidden, classes)),
    ):
        network = Network(widths)
        theta = chosen.put(rng.standard_normal(network.size))
        for loss in LOSSES:
            problem = Problem(
                Objective(network, loss_named(loss), 1e-2), Rows(x, labels, None, x.dtype)
            )
            report = check_gradient(problem.value, theta, problem.value_and_grad(theta)[1])
            console.print(f"{model}, {loss}", style="bold")
            console.print(str(report))
            if not report:
                failed.append(f"{model}, {loss}")
    if failed:
        raise CheckError(f"gradients differ from central differences: {'; '.join(failed)}")


def example() -> None:
    """Print a worked example of the losses, from notes on the course CS231n, and xclf's numbers.

    xclf example
    """
    if not worked_example(Console(highlight=False)):
        raise CheckError("the worked example's numbers do not agree")


def version() -> None:
    """Print the version.

    xclf version
    """
    print(f"xclf {__version__}")
