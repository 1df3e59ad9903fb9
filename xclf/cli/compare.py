"""xclf compare: results of several runs side by side."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from xclf.cli import _options as opt
from xclf.cli._console import UserError, out, print_facts, shown
from xclf.cli._outputs import check_output
from xclf.report import comparison
from xclf.report.page import write_text


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(help="Folders of probes, files of --report X.json, what --json printed; -."),
    ],
    data: Annotated[
        str | None, typer.Option(help="Rows to compare on: test, validation, or their name.")
    ] = None,
    report_path: Annotated[
        Path | None, typer.Option("--report", help="Write a page of all here (.html).")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Set results side by side: metrics of each, and with --report their curves together.

    xclf compare probe-clip probe-dinov2 --report both.html

    xclf compare a.json b.json --data validation
    """
    if report_path is not None:
        check_output("--report", report_path, (".html",), *results)
    runs = comparison.read_runs(results)
    rows = comparison.compare(runs, data)
    if len(rows) < 2:
        raise UserError("compare needs the results of two runs or more")
    console = out(json=json)
    found = comparison.comparison_table(rows)
    table = Table()
    for name in found.columns:
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for line in found.rows:
        table.add_row(*(Text(shown(c.text), "bold" if c.strong else "") for c in line))
    console.print(table)
    if comparison.on_other_rows(rows):
        console.print("the runs were measured on different rows", style="yellow")
    if report_path is not None:
        write_text(comparison.comparison_page(runs, data), report_path)
        print_facts(console, ("report", str(report_path)))
    if json:
        print(json_format.dumps(rows, allow_nan=False))
