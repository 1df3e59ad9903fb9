"""The pages for whoever changes the code name files, floors and functions that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from floors import FLOORS

import xclf
from xclf._extras import EXTRAS

HOUSE = Path(xclf.__file__).parent
ROOT = Path(__file__).parents[2]
ARCHITECTURE = HOUSE / "guide" / "architecture.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in HOUSE.rglob("*.py"))
SOURCE += "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))

pages = pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING], ids=lambda p: p.name)


def quoted(page: Path) -> list[str]:
    """What stands between backticks outside of code blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


@pages
def test_files_that_a_page_names_exist(page):
    paths = [word for word in quoted(page) if re.fullmatch(r"[\w./]+(\.py|\.md|/)", word)]
    paths = [word for word in paths if "NAME" not in word and "FORMAT" not in word]
    assert len(paths) > 15
    places = (HOUSE, ROOT / "tests")
    rooms = [path for place in places for path in (place, *place.rglob("*")) if path.is_dir()]
    missing = [word for word in paths if not any((p / word).exists() for p in (ROOT, *rooms))]
    assert not missing


@pages
def test_functions_and_classes_that_a_page_names_exist(page):
    names = {word for word in quoted(page) if re.fullmatch(r"[A-Za-z_]\w{3,}(\.\w+)?", word)}
    assert len(names) > 8
    missing = [name for name in names if not re.search(rf"\b{name.split('.')[-1]}\b", SOURCE)]
    assert not missing


def test_the_table_of_floors_is_the_one_that_is_tested():
    rows = re.findall(r"^\| (\d) \| (`.*?`) \|", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    table = {room: int(floor) for floor, cell in rows for room in re.findall(r"`(\w+)", cell)}
    assert table == {room: floor for room, floor in FLOORS.items() if room not in UNLISTED}


#: Small files that the page leaves out.
UNLISTED = {"_version", "_warnings", "gradcheck"}


def test_every_extra_brings_its_library():
    """The extras that messages name are there, and no message words an installation itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for library, extra in EXTRAS.items():
        assert any(line.startswith(library.lower()) for line in extras[extra])
    worded = [path.name for path in HOUSE.rglob("*.py") if "pip install" in path.read_text("utf-8")]
    assert sorted(worded) == ["_array_api.py", "_extras.py"]


def test_addresses_of_the_project_are_true_ones():
    """The project has no public address that is known: it names those of others alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {"https://cs231n.github.io/", "https://data-apis.org/array-api/"}
    assert set(project.get("urls", {}).values()) <= known
    placeholders = re.compile(r"example\.(com|org)|your-?(name|org|user)|github\.com/(user|org)/")
    pages = [ROOT / "pyproject.toml", ROOT / "README.md", *(ROOT / ".github").rglob("*.*")]
    for page in [*pages, *(HOUSE / "guide").glob("*.md")]:
        assert not placeholders.search(page.read_text(encoding="utf-8")), page
