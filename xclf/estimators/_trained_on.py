"""What a model file keeps of the data set that a command trained on."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf._sparse import is_sparse
from xclf._sparse_input import canonical
from xclf.rows import RowSketch, row_hashes

# Fields that earlier versions have not, and those that are written where they say something.
_ABSENT: dict[str, Any] = {"seen": None, "tasks": [], "normalize": False}
_LATER = ("tasks", "normalize")


@dataclass(frozen=True)
class TrainedOn:
    """A data set, by which later commands know its rows again.

    Parameters
    ----------
    source : str
        Its name, for people.
    rows, fingerprint : int, str
        Of all rows and labels, as they were read.
    test_size, seed : float and int, optional
        Of the share that was held out, stratified by label; None where none was.
    label, id, drop : str or tuple of str, str and tuple of str
        Columns of a table that are no features.
    tasks : tuple of str
        Names of the columns of labels, where there are several.
    normalize : bool
        Whether the rows were divided by their Euclidean norm, as those to predict are to be;
        `fingerprint` and `seen` are then of such rows.
    image_shape : tuple of int, optional
        (height, width, channels) of rows that are images.
    pixel_layout : str, optional
        "channel_first" or "channel_last".
    seen : RowSketch, optional
        Of the rows that the model was trained on, by which they are known in other files.
    """

    source: str
    rows: int
    fingerprint: str
    test_size: float | None = None
    seed: int | None = None
    label: str | tuple[str, ...] | None = None
    id: str | None = None
    drop: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None
    pixel_layout: str | None = None
    seen: RowSketch | None = None
    tasks: tuple[str, ...] = ()
    normalize: bool = False

    def describe(self) -> dict[str, Any]:
        """As values of JSON."""
        entry = {field.name: getattr(self, field.name) for field in fields(self)}
        entry["drop"] = list(self.drop)
        if isinstance(self.label, tuple):
            entry["label"] = list(self.label)
        entry |= {"tasks": list(self.tasks)}
        for name in _LATER:  # as earlier versions write and read it
            if not entry[name]:
                del entry[name]
        entry["image_shape"] = None if self.image_shape is None else list(self.image_shape)
        return entry | {"seen": None if self.seen is None else _describe_sketch(self.seen)}

    @classmethod
    def read(cls, entry: Any) -> TrainedOn:
        """From what `describe` gave; ValueError for anything else."""
        names = {field.name for field in fields(cls)}
        if type(entry) is dict:
            entry = {**_ABSENT, **entry}
        if type(entry) is not dict or set(entry) != names:
            raise ValueError("the record of the training data has other fields")
        texts = ("source", "fingerprint", "id", "pixel_layout")
        shape, label = entry["image_shape"], entry["label"]
        checks = (
            all(entry[name] is None or type(entry[name]) is str for name in texts),
            type(entry["source"]) is type(entry["fingerprint"]) is str,
            type(entry["rows"]) is int,
            type(entry["normalize"]) is bool,
            type(entry["test_size"]) in (float, type(None)),
            type(entry["test_size"]) is not float or 0.0 < entry["test_size"] < 1.0,
            type(entry["seed"]) is (type(None) if entry["test_size"] is None else int),
            type(entry["seed"]) is not int or 0 <= entry["seed"] < 2**32,
            label is None or type(label) is str or _is_list_of_names(label),
            all(_is_list_of_names(entry[name]) for name in ("drop", "tasks")),
            shape is None or (type(shape) is list and len(shape) == 3),
            shape is None or all(type(n) is int and n > 0 for n in shape),
            entry["pixel_layout"] in (None, "channel_first", "channel_last"),
        )
        if not all(checks):
            raise ValueError("the record of the training data holds other values")
        shape = None if shape is None else tuple(shape)
        seen = None if entry["seen"] is None else _read_sketch(entry["seen"])
        known = {"label": tuple(label) if type(label) is list else label}
        known |= {name: tuple(entry[name]) for name in ("drop", "tasks")}
        return cls(**{**entry, **known, "image_shape": shape, "seen": seen})


def _is_list_of_names(value: Any) -> bool:
    return type(value) is list and all(type(name) is str for name in value)


def hashes_of(x: Array) -> np.ndarray:
    """`row_hashes` of rows x, which may be a sparse matrix of users, or an array of Dask, whose
    blocks are hashed where they are."""
    if hasattr(x, "to_delayed"):
        hashed: Any = x.map_blocks(hashes_of, drop_axis=1, dtype=np.uint64, meta=np.zeros(0, "u8"))
        return np.asarray(hashed.compute())
    return row_hashes(canonical(x) if is_sparse(x) else x)


def _describe_sketch(sketch: RowSketch) -> dict[str, Any]:
    content = base64.b64encode(sketch.hashes.astype("<u8").tobytes()).decode()
    return {"hashes": content, "complete": sketch.complete}


def _read_sketch(entry: Any) -> RowSketch:
    if type(entry) is not dict or set(entry) != {"hashes", "complete"}:
        raise ValueError("the sketch of the training rows has other fields")
    if type(entry["hashes"]) is not str or type(entry["complete"]) is not bool:
        raise ValueError("the sketch of the training rows holds other values")
    content = base64.b64decode(entry["hashes"], validate=True)
    hashes = np.frombuffer(content, "<u8").astype(np.uint64)
    if not len(hashes) or np.any(hashes[1:] <= hashes[:-1]):
        raise ValueError("the sketch of the training rows is not ascending")
    return RowSketch(hashes, entry["complete"])


def check_class_names(names: Any, classes: int) -> list[str]:
    """Names as a list of str, one for each class; ValueError for others."""
    known = list(names) if not isinstance(names, str) else []
    if len(known) != classes or not all(isinstance(name, str) for name in known):
        raise ValueError(f"class_names_ must be {classes} strings, one for each of classes_")
    return [str(name) for name in known]
