"""Which arrays of a file are its rows and labels, by their names."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from xclf.data._dataset import DataError, ReadOptions, listing

_DEFAULT = ReadOptions()

# Pairs that come before all others, in this order.
_PAIRS = (
    *(("x", "y"), ("X_train", "y_train"), ("x_train", "y_train")),
    *(("train_images", "train_labels"), ("arr_0", "arr_1")),
)
# The last words of names, in lower case, without "train".
_ROWS = frozenset(
    (
        *("x", "data", "feature", "features", "feats", "feat", "images", "input", "inputs"),
        *("embedding", "embeddings", "embeds", "embed", "emb", "representations", "activations"),
    )
)
_LABELS = frozenset(("y", "label", "labels", "target", "targets", "class", "classes"))
_TRAIN = frozenset(("train", "training", "tr"))
_OTHERS = frozenset(("test", "te", "val", "valid", "validation", "dev", "eval"))

_ADVICE = "--x NAME --y NAME in the shell, x_name and y_name of xclf.data.load"


def options_for(source: Path | None, names: Collection[str], options: ReadOptions) -> ReadOptions:
    """The options with the names of rows and labels in use, where theirs are the defaults.

    Usual names are found if one pair fits. DataError if several do; of no source, which may hold
    something else, the options as they are.
    """
    if options.x_name == _DEFAULT.x_name and options.y_name == _DEFAULT.y_name:
        if options.x_name in names and (options.y_name in names or not options.need_labels):
            return options
        whole = (pair for pair in _PAIRS if set(pair) <= set(names))
        if pair := next(whole, None):
            return replace(options, x_name=pair[0], y_name=pair[1])
    rows = _candidates(names, options.x_name, _DEFAULT.x_name, _ROWS)
    labels = _candidates(names, options.y_name, _DEFAULT.y_name, _LABELS)
    wanted = (rows, labels) if options.need_labels else (rows,)
    if all(len(own) == 1 for own in wanted):
        return replace(options, x_name=rows[0], y_name=(*labels, options.y_name)[0])
    if source is None or not all(wanted):
        some = (pair for pair in _PAIRS if pair[0] in names)
        pair = next(some, None) if options.x_name == _DEFAULT.x_name and not rows else None
        return options if pair is None else replace(options, x_name=pair[0], y_name=pair[1])
    raise DataError(
        f"{source}: which arrays are the rows and the labels? Rows could be {listing(rows)}, "
        f"labels {listing(labels)}; say their names: {_ADVICE}"
    )


def labels_for(names: Collection[str], options: ReadOptions) -> str:
    """The name of the labels beside rows that have none: that of the options, or a usual one if it
    is the only one."""
    labels = _candidates(names, options.y_name, _DEFAULT.y_name, _LABELS)
    return labels[0] if len(labels) == 1 else options.y_name


def require(source: Path, names: Collection[str], options: ReadOptions) -> None:
    """DataError unless rows, and labels if they are needed, are among the arrays of a file."""
    for name in (options.x_name, options.y_name)[: 1 + options.need_labels]:
        if name not in names:
            raise DataError(
                f"{source}: no array {name!r}; it holds {listing(names)}; name the rows X and the "
                f"labels y, or say their names: {_ADVICE}"
            )


def in_words(source: Path, options: ReadOptions, given: ReadOptions) -> str:
    """The source, and the names of its arrays where they were found."""
    names = (options.x_name, options.y_name)
    found = names != (given.x_name, given.y_name)
    return f"{source} ({', '.join(names)})" if found else str(source)


def held_out_names(name: str) -> tuple[str, ...]:
    """What the array of held-out rows beside that of training rows may be called."""
    if "train" in name:
        return (name.replace("train", "test"),)
    return f"{name}_test", f"test_{name}"


def _candidates(
    names: Collection[str], wanted: str, default: str, usual: frozenset[str]
) -> list[str]:
    """The arrays that may be meant: that which is wanted, or those with usual names."""
    if wanted in names:
        return [wanted]
    return [name for name in names if _is_usual(name, usual)] if wanted == default else []


def _is_usual(name: str, usual: frozenset[str]) -> bool:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in _TRAIN]
    words = [word.removeprefix("train").removesuffix("train") for word in words]
    return bool(words) and words[-1] in usual and not _OTHERS & set(words)
