"""Tests of one mutant in a copy of a process that has imported `xclf` and collected all tests.

The mistake is put into the functions that are there: only what runs at import needs a process of
its own (`trial.run`). So a trial costs its tests and some hundredths of a second.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import inspect
import multiprocessing
import os
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import pytest

from tests.mutation.covering import LEFT_OUT, ROOT, TESTS
from tests.mutation.trial import First, Outcome, end_with, ended

Pairs: TypeAlias = list[tuple[CodeType, CodeType]]
"""Functions as they were and as they are."""
Known: TypeAlias = dict[tuple[Any, ...], list[FunctionType]]
"""Functions that are there, by their code."""


class AtImportError(Exception):
    """The mistake is in what runs when its module is imported."""


def changed_functions(file: str, tree: ast.Module) -> Pairs:
    """The functions of `file` that differ in `tree`; AtImportError where anything else does."""
    path = ROOT / file
    codes = [
        compile(each, str(path), "exec", dont_inherit=True)
        for each in (ast.parse(path.read_text()), tree)
    ]
    return list(_pairs(codes[0], codes[1]))


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    if old == new:
        return
    inner = [[each for each in code.co_consts if isinstance(each, CodeType)] for code in (old, new)]
    if old.co_flags & inspect.CO_OPTIMIZED:
        yield old, new
    elif _alone(old) != _alone(new):
        raise AtImportError
    for pair in zip(*inner, strict=False):
        yield from _pairs(*pair)


def _alone(code: CodeType) -> CodeType:
    """Without what is defined in it."""
    kept = (None if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_consts=tuple(kept))


def _key(code: CodeType) -> tuple[Any, ...]:
    # Code that has run is another to `==` in some versions of Python; `co_code` is not.
    return code.co_filename, code.co_qualname, code.co_firstlineno, code.co_code


def functions() -> Known:
    """All of `xclf` that are there, by their code."""
    found: Known = defaultdict(list)
    gc.unfreeze()
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename.startswith(f"{ROOT}/xclf/"):
            found[_key(each.__code__)].append(each)
    gc.freeze()
    return found


class _Server:
    """A plugin of pytest: in place of all tests, those of one request after the other."""

    def __init__(self, requests: Connection) -> None:
        self.requests = requests

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items, known = {each.nodeid: each for each in session.items}, functions()
        self.requests.send(sorted(items))
        while (request := self.requests.recv()) is not None:
            file, tree, tests, limit = request
            chosen, outcome = [items[each] for each in tests], None
            with contextlib.suppress(AtImportError):
                pairs = changed_functions(file, tree) if tree else []
                outcome = self.trial(session, chosen, limit, known, pairs)
            self.requests.send(outcome)
        return True

    def trial(
        self,
        session: pytest.Session,
        items: list[pytest.Item],
        limit: float,
        known: Known,
        pairs: Pairs,
    ) -> Outcome | None:
        """None if no function that is there has the code."""
        changes = [(each, new) for old, new in pairs for each in known.get(_key(old), ())]
        if pairs and not changes:
            return None
        with tempfile.TemporaryDirectory() as folder:
            first = Path(folder) / "first.json"
            child = os.fork()
            if child == 0:
                end_with(limit, lambda: self._tested(session, items, changes, first))
            return ended(child, limit, first)

    def _tested(
        self,
        session: pytest.Session,
        items: list[pytest.Item],
        changes: list[tuple[FunctionType, CodeType]],
        first: Path,
    ) -> int:
        for function, new in changes:
            function.__code__ = new
        session.config.pluginmanager.register(First(first))
        try:
            for item, following in zip(items, [*items[1:], None], strict=True):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    break
        except BaseException:  # of what ends pytest, as a KeyboardInterrupt does
            traceback.print_exc()
            return 2
        return int(session.testsfailed > 0)


class Collected:
    """The process that has collected the tests of all rooms, and runs those of each request.

    tests : the names of all
    """

    def __init__(self, log: Path) -> None:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_serve, args=(theirs, log))
        self._process.start()
        theirs.close()
        self._requests = ours
        self.tests: set[str] = set(ours.recv())

    def run(
        self, file: str, tree: ast.Module | None, tests: list[str], limit: float
    ) -> Outcome | None:
        """Run these tests up to the first that fails; None where that needs a new import.

        tree : of `file`, with a mistake; None is the source as it is
        limit : seconds of processor time
        """
        self._requests.send((file, tree, tests, limit))
        outcome: Outcome | None = self._requests.recv()
        return outcome

    def close(self) -> None:
        self._requests.send(None)
        self._process.join()


def _serve(requests: Connection, log: Path) -> None:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning", f"--basetemp={log.parent}/tests"]
    options += [f"--ignore={file}" for file in LEFT_OUT]
    pytest.main([*options, *TESTS], plugins=[_Server(requests)])
