"""The pages for whoever changes the code name files, floors and functions that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from floors import FLOORS

import xclf

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
