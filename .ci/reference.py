"""Write the API reference, made from the docstrings by pdoc, into a folder.

    python .ci/reference.py api

Whatever pdoc warns of is an error.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pdoc

import xclf

#: The public modules, with all of theirs that are not private.
MODULES = ("xclf", "xclf.data", "xclf.probes", "xclf.cs231n")


def main(folder: str) -> None:
    """Write the pages into `folder`."""
    for name in xclf.__all__:  # some are imported at their first use: pdoc looks at what is there
        vars(xclf)[name] = getattr(xclf, name)
    for value in list(vars(xclf).values()):
        if isinstance(value, type):
            show_inherited(value)
    pdoc.render.configure(docformat="numpy", footer_text=f"xclf {xclf.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pdoc.pdoc(*MODULES, output_directory=Path(folder))
    for page in Path(folder).rglob("*.html"):
        page.write_text(without_dead_links(page.read_text("utf-8")), "utf-8")


def show_inherited(cls: type) -> None:
    """Give a class the public methods of its bases here, which are in private modules."""
    for base in cls.__mro__[1:]:
        if base.__module__.startswith("xclf."):
            for name, member in vars(base).items():
                value = getattr(member, "fn", member)  # what `available_if` holds
                if not name.startswith("_") and callable(value) and name not in vars(cls):
                    setattr(cls, name, value)


def without_dead_links(text: str) -> str:
    """A page whose links to places that it lacks, such as inherited attributes, are plain text."""
    places = set(re.findall(r'id="([^"]+)"', text))

    def kept(link: re.Match[str]) -> str:
        return link[0] if link[1] in places else link[2]

    return re.sub(r'<a [^>]*href="#([^"]+)"[^>]*>(.*?)</a>', kept, text, flags=re.DOTALL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .ci/reference.py FOLDER")
    main(sys.argv[1])
