"""The API reference is made without a warning, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import xclf

pytestmark = pytest.mark.long  # the pages of all modules are made
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """The text of each page by its path."""
    pytest.importorskip("pdoc")
    home = tmp_path_factory.mktemp("api")
    command = [sys.executable, str(ROOT / ".ci" / "reference.py"), str(home)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=home)
    assert (ran.returncode, ran.stderr) == (0, "")
    return {
        path.relative_to(home).as_posix(): path.read_text(encoding="utf-8")
        for path in home.rglob("*.html")
    }


def test_every_public_name_has_a_place(pages):
    for name in xclf.__all__:
        if not name.startswith("__") and name != "kernels":
            assert f'id="{name}"' in pages["xclf.html"], name
    assert 'id="load"' in pages["xclf/data.html"]
    for name in ("fit", "partial_fit", "predict", "predict_proba", "score", "save", "to_torch"):
        assert f'id="SoftmaxClassifier.{name}"' in pages["xclf.html"], name


def test_links_lead_to_pages_and_places(pages):
    ids = {path: set(re.findall(r'id="([^"]+)"', text)) for path, text in pages.items()}
    nowhere = []
    for path, text in pages.items():
        for link in set(re.findall(r'href="([^"]+)"', text)):
            if re.match(r"[a-z]+:|\$", link):  # or what a script fills in
                continue
            target, _, place = unquote(link).partition("#")
            parts = [*Path(path).parent.parts] if target else list(Path(path).parts)
            for part in Path(target).parts if target else ():
                parts = parts[:-1] if part == ".." else [*parts, part]
            page = "/".join(parts)
            if page not in pages or (place and place not in ids[page]):
                nowhere.append(f"{path}: {link}")
    assert not nowhere
