"""What `python -m tests.mutation` draws, and which mistakes go into functions that are there."""

from __future__ import annotations

import ast

import pytest

from tests.mutation.covering import ROOT
from tests.mutation.live import AtImportError, changed_functions
from tests.mutation.mutants import drawn, mutant, tree_of

SOURCE = """
LIMIT = 3

def twice(x, times=2):
    def inner(y):
        return y * times
    return inner(x) + 1

class Box:
    size = 4

    def grown(self):
        return self.size + LIMIT
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    return tmp_path


def test_a_draw_stays_where_the_source_does(home):
    """A new line moves the others, and brings mistakes of its own; those that are drawn stay."""
    places, count = drawn(home, ["a.py"], 1, 1000)
    assert len(places) == count == 7
    few = drawn(home, ["a.py"], 1, 4)[0]
    assert list(few) == list(places)[:4]
    (home / "a.py").write_text("OTHER = 7\n" + SOURCE)
    more = drawn(home, ["a.py"], 1, 1000)[0]
    assert [name for name in more if name in places] == list(places)
    assert len(more) == count + 1


def test_every_mistake_is_another_program(home):
    texts = {ast.unparse(tree_of(home, mutant(home, *each)))
             for each in drawn(home, ["a.py"], 1, 1000)[0].items()}  # fmt: skip
    assert len(texts) == 7
    assert SOURCE not in texts


@pytest.mark.parametrize(
    "old, new, names",
    [
        ("return y * times", "return y / times", {"twice", "twice.<locals>.inner"}),
        ("inner(x) + 1", "inner(x) - 1", {"twice"}),
        ("self.size + LIMIT", "self.size - LIMIT", {"Box.grown"}),
        ("LIMIT = 3", "LIMIT = 4", None),
        ("times=2", "times=3", None),
        ("size = 4", "size = 5", None),
    ],
)
def test_a_mistake_is_in_functions_or_at_import(home, monkeypatch, old, new, names):
    monkeypatch.setattr("tests.mutation.live.ROOT", home)
    tree = ast.parse(SOURCE.replace(old, new))
    if names is None:
        with pytest.raises(AtImportError):
            changed_functions("a.py", tree)
    else:
        assert {new.co_qualname for _, new in changed_functions("a.py", tree)} == names


def test_the_source_as_it_is_changes_nothing():
    file = "xclf/optim/schedules.py"
    assert changed_functions(file, ast.parse((ROOT / file).read_text())) == []
