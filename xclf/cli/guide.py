"""xclf guide: the guide, offline."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from xclf.cli._console import UserError, log, print_last
from xclf.cli._outputs import check_output
from xclf.report.guide import as_terminal, page_named, pages
from xclf.report.guide import guide as guide_html
from xclf.report.page import write_text


def guide(
    page: Annotated[
        str | None, typer.Argument(help="A page to open, such as sweeps; by default the first.")
    ] = None,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Write the guide here (.html), and open nothing.")
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Print the page, or the list of pages, here.")
    ] = False,
) -> None:
    """Open the guide in a browser: one file that works offline, with search.

    xclf guide

    xclf guide sweeps --text
    """
    if out_path is not None and (text or page is not None):
        other = "--text" if text else f"the page {page!r}"
        raise UserError(f"--out writes the whole guide: give it without {other}")
    known = None if page is None else page_named(page)
    if page is not None and known is None:
        names = ", ".join(one.name for one in pages())
        raise UserError(f"there is no page {page!r}; pages: {names}")
    if text:
        if known is None:
            for one in pages():
                print_last(f"{one.name:<18}  {one.title}", json=False)
        else:
            from rich.console import Console

            Console(width=min(100, Console().width)).print(as_terminal(known))
        return
    if out_path is not None:
        check_output("--out", out_path, (".html",))
        write_text(guide_html(), out_path)
        log().print(f"wrote {out_path}")
        return
    path = Path(tempfile.mkdtemp(prefix="xclf-guide-")) / "guide.html"
    write_text(guide_html(), path)
    place = "" if known is None else f"#{known.name}"
    opened = sys.stdout.isatty() and webbrowser.open(path.as_uri() + place)
    print_last(f"{'opened' if opened else 'open'} {path.as_uri()}{place}", json=False)
