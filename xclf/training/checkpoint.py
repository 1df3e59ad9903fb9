"""Checkpoints: files from which a fit, a search or a series of them goes on after a kill.

The work is a sequence of stages, which begin and end in an order that is the same in every run. The
file holds a record of each: the facts that it depends on, its value once it has ended, and the
state of the one that was under way. A run that goes on walks through the same stages again: those
that have ended give their value at once, and the last one goes on from its state. What leads from
one stage to the next is computed again; it is the same, bit by bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf._atomic_write import check_writable, remove_abandoned
from xclf._tensor_file import TensorFileError, read_tensors, write_tensors
from xclf._version import __version__
from xclf._warnings import warn_caller
from xclf.training._trees import pack, unpack

FORMAT, VERSION = "xclf-checkpoint", 1

# Most of the time that writing may take.
_SHARE = 0.02


class CheckpointError(ValueError):
    """A checkpoint that a fit cannot go on from: of other work, damaged, or of another version."""


@dataclass(eq=False)
class _Record:
    """One stage in the file; `value` and `state` are packed trees and their arrays."""

    kind: str
    facts: dict[str, Any]
    note: tuple[Any, list[np.ndarray]] | None = None
    value: tuple[Any, list[np.ndarray]] | None = None
    state: tuple[Any, list[np.ndarray]] | None = None
    failed: bool = False


class Checkpoint:
    """A file from which `fit` goes on after its process was killed.

    Given among an estimator's `callbacks`. `fit`, also that of `SweepCV` around the estimator,
    writes its state there from time to time. Where the file is there already, it goes on from it,
    and ends bit by bit where it had ended without a break: on the same machine, with the same
    libraries and as many threads.

    Parameters
    ----------
    path : str or Path
        The file: safetensors, and JSON for what is no array. It is replaced as a whole, so that
        there is one at any moment, and it is whole.
    every : float, default=60.0
        Seconds from one write to the next, at least; if writing takes more than 2 % of the time
        then, it is done more rarely. 0 writes after every iteration or epoch.

    Notes
    -----
    The file stays when the fit has ended: another `fit` with the same data and parameters returns
    the same model at once. `remove` deletes it.

    A fit with other rows, labels, weights or parameters, or by another version of this library, is
    refused with `CheckpointError`, a ValueError of one line that says what differs. `callbacks` and
    `verbose` may differ. A fit that a callback stopped, or Ctrl-C, counts as not ended. Fits by
    Newton's method, of small problems, take so little time that they start anew. `partial_fit` has
    no use for a checkpoint: save the model between its calls.

    Callbacks get no events of the iterations before the checkpoint; `history_` has them.

    If the file cannot be written any more, on a full disk say, the fit goes on and warns once.

    Examples
    --------
    >>> import os, tempfile
    >>> import xclf
    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> path = os.path.join(tempfile.mkdtemp(), "run.checkpoint")
    >>> model = xclf.SoftmaxClassifier(reg=1e-3, callbacks=[xclf.Checkpoint(path)]).fit(x, y)
    """

    def __init__(self, path: str | Path, *, every: float = 60.0) -> None:
        if not isinstance(path, str | Path):
            raise TypeError(f"path must be a str or Path, got {path!r}")
        if isinstance(every, bool) or not isinstance(every, int | float) or not every >= 0.0:
            raise ValueError(f"every must be a number of seconds >= 0, got {every!r}")
        self.path, self.every = Path(path), float(every)
        self._records: list[_Record] = []
        self._cursor = self._depth = 0
        self._unrecorded = self._changed = self._broken = self._abandoned = False
        self._due = math.inf

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, every={self.every:g})"

    def __call__(self, event: Any) -> None:
        """Nothing: `fit` hands over its state at the moments when it is complete."""

    def __sklearn_clone__(self) -> Checkpoint:
        return self

    def remove(self) -> None:
        """Delete the file, if there is one, and parts of it that a killed process has left."""
        self.path.unlink(missing_ok=True)
        remove_abandoned(self.path)

    @contextmanager
    def stage(self, kind: str, facts: dict[str, Any] | None = None) -> Iterator[Stage]:
        """A part of the work, inside another one or as a whole, for a `with` statement.

        kind : what it is;  facts : that it depends on, as JSON has them

        Raises CheckpointError if the file has another stage here.
        """
        if self._unrecorded or self._abandoned:
            yield Stage()
            return
        if self._depth == 0:
            self._open()
        record = self._enter(kind, facts or {})
        place, failed, ended = self._cursor, record.failed, False
        self._depth += 1
        self._unrecorded = failed
        try:
            yield Stage() if failed else Stage(self, record)
            ended = True
        except Exception:
            record.failed = True  # and so it will again
            raise
        except BaseException:  # Ctrl-C, after which others may go on with less
            self._abandoned = True
            raise
        finally:
            self._unrecorded = False
            self._depth -= 1
            if not ended and not failed:
                self._leave(place)
            if self._depth == 0:
                if ended and self._changed:
                    self._write()
                self._close()

    def _open(self) -> None:
        self._close()
        if self.path.exists():
            self._records = _read(self.path)
        check_writable(self.path)
        self._due = time.monotonic() + self.every

    def _close(self) -> None:
        self._records = []
        self._cursor = self._depth = 0
        self._unrecorded = self._changed = self._broken = self._abandoned = False
        self._due = math.inf

    def _enter(self, kind: str, facts: dict[str, Any]) -> _Record:
        if self._cursor == len(self._records):
            self._records.append(_Record(kind, facts))
        record = self._records[self._cursor]
        if (record.kind, record.facts) != (kind, facts):
            raise CheckpointError(
                f"the checkpoint {self.path} is of other work: "
                f"{_differences(record, kind, facts)}; remove it to start anew, or name another"
            )
        self._cursor += 1
        return record

    def _leave(self, place: int) -> None:
        """Drop the stages inside the one before `place`, which has ended."""
        del self._records[place:]
        self._cursor = place

    def _write_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self._write()

    def _write(self) -> None:
        start = time.monotonic()
        if not (self._broken or self._abandoned):
            try:
                _write(self.path, self._records)
            except OSError as error:
                self._broken = True
                warn_caller(f"the checkpoint cannot be written, the fit goes on: {error}")
        self._changed = False
        now = time.monotonic()
        rest = (now - start) * (1.0 / _SHARE - 1.0) if self.every else 0.0
        self._due = now + max(self.every, rest)


@dataclass(eq=False)
class Stage:
    """A stage that has begun; without a record, of work that keeps none."""

    checkpoint: Checkpoint | None = None
    record: _Record | None = None
    _place: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._place = 0 if self.checkpoint is None else self.checkpoint._cursor

    def note(self, value: Callable[[], Any], like: Array) -> Any:
        """value(), as it was when the stage began for the first time."""
        if self.record is None:
            return value()
        if self.record.note is None:
            self.record.note = _packed(value())
        packed, arrays = self.record.note
        return unpack(packed, arrays, like)

    def value(self, like: Array) -> Any:
        """What `finish` was given, if the stage has ended; None before."""
        if self.record is None or self.record.value is None:
            return None
        return unpack(*self.record.value, like)

    def state(self, like: Array) -> Any:
        """The state that the stage was in; None if it starts."""
        if self.record is None or self.record.state is None:
            return None
        packed, self.record.state = self.record.state, None  # it may be as large as X
        return unpack(*packed, like)

    def offer(self, state: Callable[[], Any]) -> None:
        """Write state() if it is time to."""
        if self.checkpoint is None or self.record is None:
            return
        if time.monotonic() >= self.checkpoint._due:
            self.record.state = _packed(state())
            self.checkpoint._write()
            self.record.state = None

    @property
    def outermost(self) -> bool:
        """Whether the stage is all of the work."""
        return self.checkpoint is not None and self.checkpoint._depth == 1

    def abandon(self) -> None:
        """The work ends before its end: the file stays as it was last written."""
        if self.checkpoint is not None:
            self.checkpoint._abandoned = True

    def finish(self, value: Any) -> None:
        """The stage has ended with `value`; the stages inside it are forgotten."""
        if self.checkpoint is None or self.record is None:
            return
        self.record.value, self.record.state = _packed(value), None
        self.checkpoint._leave(self._place)
        self.checkpoint._changed = True
        self.checkpoint._write_if_due()


def _packed(tree: Any) -> tuple[Any, list[np.ndarray]]:
    arrays: list[np.ndarray] = []
    return pack(tree, arrays), arrays


def _differences(record: _Record, kind: str, facts: dict[str, Any]) -> str:
    if record.kind != kind:
        return f"{record.kind!r} comes here, not {kind!r}"
    names = [n for n in record.facts | facts if record.facts.get(n) != facts.get(n)]
    texts = []
    for name in names:
        old, new = repr(record.facts.get(name)), repr(facts.get(name))
        short = len(old + new) <= 80 and "sha256" not in old + new
        texts.append(f"{name} was {old}, is {new}" if short else f"{name} differs")
    return ", ".join(texts)


def _write(path: Path, records: list[_Record]) -> None:
    arrays: dict[str, np.ndarray] = {}
    described = []
    for record in records:
        parts = {}
        for name in ("note", "value", "state"):
            tree, own = getattr(record, name) or (None, [])
            parts[name] = None if getattr(record, name) is None else [tree, len(arrays), len(own)]
            arrays |= {str(len(arrays) + k): array for k, array in enumerate(own)}
        described.append(
            {"kind": record.kind, "facts": record.facts, "failed": record.failed} | parts
        )
    body = json.dumps({"version": VERSION, "xclf": __version__, "records": described})
    write_tensors(path, FORMAT, body, arrays)


def _read(path: Path) -> list[_Record]:
    advice = "remove it to start anew, or name another"
    try:
        body, arrays = read_tensors(path, FORMAT, "xclf checkpoint")
    except TensorFileError as error:
        raise CheckpointError(f"{error}; {advice}") from None
    described = json.loads(body)
    if (described["version"], described["xclf"]) != (VERSION, __version__):
        raise CheckpointError(
            f"the checkpoint {path} is of xclf {described['xclf']}, this is {__version__}; {advice}"
        )
    records = []
    for one in described["records"]:
        parts = {}
        for name in ("note", "value", "state"):
            if one[name] is not None:
                tree, first, count = one[name]
                parts[name] = (tree, [arrays[str(first + k)] for k in range(count)])
        records.append(_Record(one["kind"], one["facts"], failed=one["failed"], **parts))
    return records
