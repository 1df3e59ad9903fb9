"""The house stands: imports only point down, and files and functions stay short."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from floors import FLOORS

import xclf

HOUSE = Path(xclf.__file__).parent
ROOF = {"__init__.py", "__main__.py"}  # the public names: may import from every floor
DEVICE_LIBRARIES = {"cupy", "cupyx", "torch", "tensorflow", "jax"}
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 50  # the body: a long list of parameters is no long function

FILES = sorted(HOUSE.rglob("*.py"))


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of everything imported anywhere in `tree`, functions included.

    `from xclf import kernels` gives `xclf.kernels`. Relative imports start from `package`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    return ".".join(("xclf", *path.relative_to(HOUSE).parts[:-1]))


def rooms_entered(tree: ast.AST, package: str) -> set[str]:
    """The rooms (or names of the roof) that the imports of `tree` reach."""
    names = (name.split(".") for name in imported_names(tree, package))
    return {parts[1] if len(parts) > 1 else "" for parts in names if parts[0] == "xclf"}


def uphill(room: str, entered: set[str]) -> set[str]:
    """Those of `entered` that `room` must not know: its own floor's neighbours, and all above."""
    below = {other for other, floor in FLOORS.items() if floor < FLOORS[room]}
    return entered - below - {room}


def _imports_point_down(path: Path) -> None:
    if path.parent == HOUSE and path.name in ROOF:
        return
    assert room_of(path) in FLOORS, "a new room needs a floor: FLOORS above"
    bad = uphill(room_of(path), rooms_entered(_tree(path), package_of(path)))
    assert not bad, f"{room_of(path)} (floor {FLOORS[room_of(path)]}) imports {sorted(bad)}"


def _only_the_ground_floor_knows_array_api_compat(path: Path) -> None:
    if path == HOUSE / "_array_api.py":
        return
    names = {name.partition(".")[0] for name in imported_names(_tree(path), package_of(path))}
    assert "array_api_compat" not in names


#: The words that only these files may use: all other code is the same for every library.
DEVICE_WORDS = re.compile(r"cupy|cuda|numba", re.IGNORECASE)
KNOW_DEVICES = {"_array_api.py", "rows/_stream.py", "rows/_transfer.py", "rows/_precision.py"}
#: Rooms that only pass on what the user names: the parameter `device`, and what is installed.
FACES = {"cli", "cs231n", "report", "gradcheck", "data"}


def _only_accelerators_and_transfers_name_a_device_library(path: Path) -> None:
    place = path.relative_to(HOUSE).as_posix()
    if place in KNOW_DEVICES or room_of(path) in FACES | {"accelerate"}:
        return
    code = _code_words(_tree(path))
    assert not {word for word in code if DEVICE_WORDS.search(word)} - DEVICE_NAMES


#: Values and parts of values of the public parameter `device`.
DEVICE_NAMES = {"cuda:all"}


def _code_words(tree: ast.AST) -> set[str]:
    """Identifiers, attributes, imported modules and string constants, docstrings left out."""
    docs = {id(_docstring_node(node)) for node in ast.walk(tree)}
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            words.add(node.module or "")
        elif isinstance(node, ast.alias):
            words.add(node.name)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs
            and " " not in node.value
        ):
            words.add(node.value)
    return words


def _docstring_node(node: ast.AST) -> ast.AST | None:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        return body[0].value
    return None


MANY_HEADS = [path for room in ("sweep", "probes") for path in sorted((HOUSE / room).glob("*.py"))]


@pytest.mark.parametrize("path", MANY_HEADS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_sweeps_and_probes_use_no_private_name_of_the_estimators(path):
    tree = _tree(path)
    names = imported_names(tree, package_of(path))
    below = ("estimators",) if room_of(path) == "sweep" else ("estimators", "sweep")
    assert not [name for name in names for room in below if name.startswith(f"xclf.{room}._")]
    private = private_methods("estimators") - private_methods(room_of(path))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & private


def private_methods(room: str) -> set[str]:
    """Names with one underscore that the functions and classes of a room define."""
    return {
        node.name
        for path in (HOUSE / room).glob("*.py")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef) and re.match(r"_[^_]", node.name)
    }


def test_rooms_import_without_a_cycle():
    """Within a room too: the modules can be put in an order in which each imports earlier ones."""
    modules = {_module(path): path for path in FILES if path.name != "__init__.py"}
    waiting = {
        name: {
            other
            for imported in _imported_at_once(path)
            for other in (imported, imported.rpartition(".")[0])
            if other in modules and other != name
        }
        for name, path in modules.items()
    }
    while waiting:
        ready = [name for name, needs in waiting.items() if not needs & set(waiting)]
        assert ready, f"import cycle among {sorted(waiting)}"
        for name in ready:
            del waiting[name]


def _module(path: Path) -> str:
    return ".".join(("xclf", *path.relative_to(HOUSE).with_suffix("").parts))


def _imported_at_once(path: Path) -> set[str]:
    """What importing a module imports, but for the names that only type checkers see."""
    nodes = [n for n in _at_import_time(_tree(path)) if isinstance(n, ast.Import | ast.ImportFrom)]
    return set(imported_names(ast.Module(body=nodes, type_ignores=[]), package_of(path)))


def _at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: all but the insides of functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _at_import_time(node)


def _no_device_library_is_imported_with_the_module(path: Path) -> None:
    imports = [
        n for n in _at_import_time(_tree(path)) if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    names = imported_names(ast.Module(body=imports, type_ignores=[]), package_of(path))
    assert not {name.partition(".")[0] for name in names} & DEVICE_LIBRARIES


def _files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES_OF_A_FILE


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def _functions_are_short(path: Path) -> None:
    functions = (
        n for n in ast.walk(_tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    long = {f.name: lines_of(f) for f in functions if lines_of(f) >= MOST_LINES_OF_A_FUNCTION}
    assert not long


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_a_file_keeps_the_rules(path):
    _imports_point_down(path)
    _only_the_ground_floor_knows_array_api_compat(path)
    _only_accelerators_and_transfers_name_a_device_library(path)
    _no_device_library_is_imported_with_the_module(path)
    _files_are_short(path)
    _functions_are_short(path)


# The checks above, checked: they must see what they forbid.


@pytest.mark.parametrize(
    ("room", "source", "bad"),
    [
        ("kernels", "from xclf._array_api import Array", set()),
        ("kernels", "from xclf.kernels._reductions import x", set()),
        ("kernels", "from xclf.optim import lbfgs", {"optim"}),
        ("kernels", "import xclf.training.events", {"training"}),
        ("_array_api", "from xclf import kernels", {"kernels"}),
        ("optim", "from xclf.objectives import Network", {"objectives"}),
        ("optim", "def f():\n    from xclf import rows", {"rows"}),
        ("objectives", "from ..rows import Rows", {"rows"}),
        ("objectives", "from ..kernels import hinge", set()),
        ("objectives", "from . import _network", set()),
        ("objectives", "from .. import training", {"training"}),
        ("accelerate", "from xclf.training import fit", {"training"}),
        ("training", "if TYPE_CHECKING:\n    from xclf.estimators import load", {"estimators"}),
        ("data", "from xclf.estimators import load", {"estimators"}),
        ("estimators", "from xclf import _array_api\nfrom xclf._version import __version__", set()),
        ("estimators", "from xclf import __version__", {"__version__"}),
        ("estimators", "from xclf import SVMClassifier", {"SVMClassifier"}),
        ("estimators", "import xclf", {""}),
        ("cli", "from xclf.cs231n import layers", {"cs231n"}),
        ("cli", "import numpy, xclfoo.training", set()),
    ],
)
def test_the_floor_check_sees_what_it_forbids(room, source, bad):
    assert uphill(room, rooms_entered(ast.parse(source), f"xclf.{room}")) == bad


def test_the_import_time_check_skips_functions_alone():
    source = "try:\n    import cupy\nexcept ImportError:\n    pass\ndef f():\n    import torch"
    imports = [n for n in _at_import_time(ast.parse(source)) if isinstance(n, ast.Import)]
    assert [n.names[0].name for n in imports] == ["cupy"]


def test_the_length_check_leaves_signature_and_docstring_out():
    doc = '    """One.\n\n    Three.\n    """\n'
    source = f"def f(\n    a,\n):\n{doc}    if a:\n        return 1\n    return 2"
    assert lines_of(ast.parse(source).body[0]) == 3
    assert lines_of(ast.parse('def f():\n    """Nothing more."""').body[0]) == 0
