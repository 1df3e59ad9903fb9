"""The report page: the results of a run as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xclf._atomic_write import atomic_write
from xclf.report._sections import headline, sections
from xclf.report._view import Section, Tile

_KINDS = {
    "probe": "Linear probe",
    "train": "Training",
    "sweep": "Sweep",
    "evaluate": "Evaluation",
    "compare": "Comparison",
}


def page(results: dict[str, Any]) -> str:
    """The page of the results of a run.

    results : the dict of `results.json`; the page has the sections that it fills

    Returns HTML with its style, script and pictures inside, the same for the same dict. Its
    Content-Security-Policy allows no other, from names in the data neither. ValueError for results
    of another format.
    """
    check_results(results)
    where, tiles = headline(results)
    return render(
        title=str(results.get("title") or _KINDS.get(str(results.get("kind")), "Results")),
        kind=_KINDS.get(str(results.get("kind")), str(results.get("kind"))),
        created=str(results.get("created") or ""),
        version=str(results.get("xclf") or ""),
        where=where,
        tiles=tiles,
        sections=sections(results),
    )


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the page of the results of a run to `path`, whole or not at all."""
    write_text(page(results), path)


def write_text(text: str, path: Path) -> None:
    """Write a page, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def check_results(results: Any) -> None:
    """ValueError unless `results` is a dict of `results.json`."""
    if not isinstance(results, dict) or "format" not in results:
        raise ValueError("results must be the dict of a results.json, with 'format'")
    if results["format"] != 1:
        raise ValueError(f"results have format {results['format']!r}, this version of xclf reads 1")


def render(
    *,
    title: str,
    kind: str,
    created: str,
    version: str,
    where: str,
    tiles: list[Tile],
    sections: list[Section],
) -> str:
    """The HTML of a page's parts."""
    style, script = asset("page.css"), asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{source_hash(style)}'; "
        f"script-src '{source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            kind=kind,
            created=created,
            version=version,
            where=where,
            tiles=tiles,
            sections=sections,
            policy=policy,
            style=Markup(style),
            script=Markup(script),
        )
    )


@functools.cache
def environment() -> Environment:
    return Environment(
        loader=PackageLoader("xclf.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def _printable(value: Any) -> Any:
    """Text with what is not printable as escapes: controls, directions, halves of characters."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


@functools.cache
def asset(name: str) -> str:
    return files("xclf.report").joinpath("templates", name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """The source of a Content-Security-Policy that allows this very text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
