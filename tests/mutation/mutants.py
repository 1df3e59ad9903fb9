"""Small mistakes in the source: every place for one, and the source with it.

Left out: docstrings and other strings, what is raised, annotations, decorators, and the keywords
`strict` and `copy`, which change no result of a correct program.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
_EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
_NO_EFFECT = ("strict", "copy")


@dataclass(frozen=True)
class Mutant:
    """A mistake in `file`: node `node` (in the order of the walk) becomes its `variant`.

    name : short, of its own
    text : the statement as it was and as it is
    lines : of the statement; a compound one's head
    body : what runs with a head, such as a function with its default values
    names : that the statement defines
    replaced : a mistake in the words of the source, instead of a node: (what was, what is)
    """

    name: str
    file: str
    node: int
    variant: int
    kind: str
    text: str
    lines: range
    body: range
    names: tuple[str, ...]
    replaced: tuple[str, str] | None = None

    @property
    def identity(self) -> str:
        return f"{self.file}: {self.text}"


Place: TypeAlias = tuple[str, int, int]
"""(file, number of the node, number of its variant)"""


def places(root: Path, file: str) -> dict[str, Place]:
    """Where `file` can change, by a name that stays while its statement does."""
    heads: dict[int, str] = {}
    found: dict[str, Place] = {}
    for number, (node, parents) in enumerate(_walk(ast.parse((root / file).read_text()))):
        for variant, (_, other) in enumerate(_variants(node)):
            statement = _statement(node, parents)
            head = heads.setdefault(id(statement), ast.unparse(_head(statement)))
            name = f"{file}: {head}: {ast.unparse(node)} -> {ast.unparse(other)}"
            count = next(k for k in itertools.count() if f"{name} ({k})" not in found)
            found[f"{name} ({count})"] = file, number, variant
    return found


def drawn(root: Path, files: list[str], seed: int, size: int) -> tuple[dict[str, Place], int]:
    """`size` of all places, and how many there are.

    Those whose names have the least hashes: a change of the source changes the draw there alone.
    """
    everything = {name: place for file in files for name, place in places(root, file).items()}
    names = sorted(everything, key=lambda name: sha256(f"{seed} {name}".encode()).digest())
    return {_short(name): everything[name] for name in names[:size]}, len(everything)


def _short(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:12]


def mutant(root: Path, name: str, place: Place) -> Mutant:
    file, number, variant = place
    node, parents = list(_walk(ast.parse((root / file).read_text())))[number]
    statement = _statement(node, parents)
    _, changed = mutated(root, place)
    text = f"{ast.unparse(_head(statement))} -> {ast.unparse(_head(changed))}"
    return Mutant(name, *place, _variants(node)[variant][0], text, *_where(statement))


def _statement(node: ast.AST, parents: tuple[ast.AST, ...]) -> ast.stmt:
    return next(each for each in (node, *reversed(parents)) if isinstance(each, ast.stmt))


def named(root: Path, file: str, old: str, new: str) -> Mutant:
    """The mutant with `new` for `old`, which must be in the source once, on one line."""
    before, _, after = (source := (root / file).read_text()).partition(old)
    if old in after or before == source:
        raise ValueError(f"{file} must hold {old!r} once")
    line = before.count("\n") + 1
    lines = range(line, line + 1)
    return Mutant(
        _short(f"{file}: {old}"),
        file,
        -1,
        -1,
        "named",
        f"{old} -> {new}",
        lines,
        range(0),
        (),
        (old, new),
    )


def tree_of(root: Path, mutant: Mutant) -> ast.Module:
    if mutant.replaced is not None:
        return ast.parse((root / mutant.file).read_text().replace(*mutant.replaced))
    return mutated(root, (mutant.file, mutant.node, mutant.variant))[0]


def mutated(root: Path, place: Place) -> tuple[ast.Module, ast.stmt]:
    """The module with the mistake, lines as they were, and the statement that has changed."""
    file, number, variant = place
    tree = ast.parse((root / file).read_text())
    node, parents = list(_walk(tree))[number]
    new = ast.fix_missing_locations(ast.copy_location(_variants(node)[variant][1], node))
    for name, value in ast.iter_fields(parents[-1]):
        if value is node:
            setattr(parents[-1], name, new)
        elif isinstance(value, list):
            value[:] = [new if each is node else each for each in value]
    return tree, _statement(new, parents)


def _walk(
    node: ast.AST, parents: tuple[ast.AST, ...] = ()
) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every node that may change, with its parents, the nearest last."""
    if parents:
        yield node, parents
    left_out = {"annotation", "returns", "decorator_list", "ctx"}
    for name, value in ast.iter_fields(node):
        if name in left_out:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _skipped(child):
                yield from _walk(child, (*parents, node))


def _skipped(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(each, ast.Name) and each.id == "__all__" for each in node.targets)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.keyword):
        return node.arg in _NO_EFFECT
    return isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom))


def _variants(node: ast.AST) -> list[tuple[str, ast.AST]]:
    """(kind, the node that takes its place) for each mistake."""
    found: list[tuple[str, ast.AST]] = []
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        others = _COMPARISONS.get(type(node.ops[0]), ())
        found = [("comparison", _with(node, ops=[new()])) for new in others]
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _OPERATORS:
        found = [("arithmetic", _with(node, op=_OPERATORS[type(node.op)]()))]
    elif isinstance(node, ast.BoolOp):
        junction = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        found = [("and/or", _with(node, op=junction))]
    elif isinstance(node, ast.UnaryOp):
        found = [("unary", node.operand)]
    elif isinstance(node, ast.Constant):
        found = _other_constants(node)
    elif isinstance(node, ast.Call):
        called = node.func
        name = "attr" if isinstance(called, ast.Attribute) else "id"
        if (other := _EXTREMES.get(getattr(called, name, ""))) is not None:
            found = [("min/max", _with(node, func=_with(called, **{name: other})))]
    if isinstance(node, ast.AugAssign) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        found.append(("statement", ast.Pass()))
    return found


def _other_constants(node: ast.Constant) -> list[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        return [("boolean", _with(node, value=not value))]
    if isinstance(value, int):
        return [("constant", _with(node, value=value + 1))]
    if isinstance(value, float):
        return [("constant", _with(node, value=2 * value if value else 1.0))]
    return []


def _with(node: ast.AST, **fields: Any) -> Any:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _head(statement: ast.stmt) -> ast.stmt:
    """A compound statement's head alone."""
    if not hasattr(statement, "body"):
        return statement
    fields = dict(ast.iter_fields(statement)) | {"body": [ast.Expr(ast.Constant(...))]}
    fields |= {name: [] for name in ("orelse", "finalbody", "decorator_list") if name in fields}
    return ast.copy_location(type(statement)(**fields), statement)


def _where(statement: ast.stmt) -> tuple[range, range, tuple[str, ...]]:
    """(its own lines, those of the body, the names that it defines)."""
    last = statement.end_lineno or statement.lineno
    whole = range(statement.lineno, last + 1)
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    names = [each for target in targets if target for each in ast.walk(target)]
    defined = tuple(each.id for each in names if isinstance(each, ast.Name))
    if hasattr(statement, "body"):
        first = statement.body[0].lineno
        return range(statement.lineno, max(first, statement.lineno + 1)), range(first, last + 1), ()
    return whole, range(0), defined
