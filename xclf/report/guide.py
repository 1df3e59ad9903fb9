"""The guide as one HTML file: every page of `xclf/guide`, with a list and a search."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from xclf._version import __version__
from xclf.report.page import asset, environment, source_hash

#: Pages by the names of their files, in the order of the list.
PAGES = (
    *("first-fit", "data", "probe", "sweeps", "solvers", "many-classes", "tasks"),
    *("devices", "cluster", "text", "shell", "checkpoints"),
    *("from-scikit-learn", "from-pytorch", "course"),
    *("architecture", "maths", "benchmarks", "glossary"),
)


@dataclass(frozen=True)
class GuidePage:
    """name : of the file;  title : its first heading;  text : Markdown"""

    name: str
    title: str
    text: str

    @property
    def html(self) -> Markup:
        """The page as HTML; its headings and links lead to places in the one file."""
        parser = MarkdownIt("commonmark", {"html": False}).enable("table")
        tokens = parser.parse(self.text)
        _place(tokens, self.name)
        return Markup(parser.renderer.render(tokens, parser.options, {}))


def pages() -> list[GuidePage]:
    """The pages that there are: those listed in `PAGES`, then any others."""
    home = files("xclf").joinpath("guide")
    texts = {
        entry.name.removesuffix(".md"): entry.read_text(encoding="utf-8")
        for entry in home.iterdir()
        if entry.name.endswith(".md")
    }
    names = [name for name in PAGES if name in texts]
    names += sorted(set(texts) - set(names))
    return [GuidePage(name, _title(texts[name]), texts[name]) for name in names]


def guide() -> str:
    """The guide as HTML with its style and script inside, which works offline."""
    style, script = asset("page.css") + asset("guide.css"), asset("guide.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{source_hash(style)}'; "
        f"script-src '{source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    template = environment().get_template("guide.html.jinja")
    return template.render(
        pages=pages(),
        version=__version__,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
    )


def _title(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ").replace("`", "")


def _place(tokens: list[Token], page: str) -> None:
    """Headings get names and come two levels down, and links lead into the one file."""
    taken: set[str] = set()
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            name = page if token.tag == "h1" else f"{page}-{_slug(tokens[number + 1].content)}"
            while name in taken:
                name += "-"
            taken.add(name)
            token.attrSet("id", name)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
        for child in token.children or []:
            if child.type == "image":  # a file of the repository
                child.type, child.tag = "text", ""
            if child.type == "link_open":
                child.attrSet("href", _target(str(child.attrGet("href")), page))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _target(link: str, page: str) -> str:
    """Where a link of a page leads in the one file; files of the repository are not in it."""
    if re.match(r"[a-z]+:", link):
        return link
    path, _, place = link.partition("#")
    name = path.rpartition("/")[2].removesuffix(".md") if path else page
    if path and not (path.endswith(".md") and "/" not in path):
        return "#" + page
    return f"#{name}-{place}" if place else f"#{name}"


def page_named(name: str) -> GuidePage | None:
    """The page of a name, with or without .md; None without one."""
    wanted = name.removesuffix(".md")
    return next((page for page in pages() if page.name == wanted), None)


def as_terminal(page: GuidePage) -> Any:
    """The page for a terminal: something that a console of rich prints."""
    from rich.markdown import Markdown

    return Markdown(page.text)
