"""CSV files, read by pyarrow, by pandas, or without either by Python itself."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from xclf.data._arrow import arrow_columns, library
from xclf.data._csv_lines import read_lines
from xclf.data._dataset import (
    BytesFile,
    DataError,
    Dataset,
    ReadOptions,
    check_memory,
    count,
    listing,
    open_bytes,
    reading,
)
from xclf.data._tables import Column, columns_apart, label_columns, table_dataset

# Missing values in CSV text, whichever library reads it.
_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null"]

# Bytes of the first lines, by which types are known, and of text that becomes one piece of each
# column: each piece of a thousand columns takes memory besides its values.
_HEAD, _BLOCK = 1 << 20, 4 << 20

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[-+]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|inf)")
_UTF8_ADVICE = "save it as UTF-8 (iconv -f {encoding} -t UTF-8 does)"


def read_csv(path: Path, options: ReadOptions) -> Dataset:
    """A .csv (commas) or .tsv (tabs) file with a header line, packed or not.

    A first column without a name is the row index that pandas writes, and is dropped, as is an
    empty last one, of a comma at the end of every line. Spaces around names are dropped. Labels are
    integers if all are written as such, without leading zeros; else strings.
    """
    separator = "\t" if ".tsv" in path.suffixes else ","
    with reading(path):
        names = _header(path, separator)
        rows, nbytes = _extent(path)
        # Digits take at most some four times the room of the number: a longer text is no numbers.
        dense = max(8 * rows * len(names), nbytes // 4)
        about = f"{path}: {count(rows, 'row')} of {count(len(names), 'column')}"
        check_memory(about, dense, options.max_memory, "use fewer rows, or Parquet or .npy")
        labels = label_columns(path, filter(None, names), options)
        apart = columns_apart(path, filter(None, names), options)
        text = sorted({names.index(name) for name in (*labels, *apart)})
        arrays = _read(path, separator, names, text)
        columns: dict[str, Column] = {}
        for position, (name, column) in enumerate(zip(names, arrays, strict=True)):
            if name or 0 < position < len(names) - 1 or not (position == 0 or _is_empty(column())):
                columns[name] = partial(_as_written, column()) if name in labels else column
        return table_dataset(path, columns, options)


def _header(path: Path, separator: str) -> list[str]:
    """The names in the first line; `DataError` if they are none, or cannot be read."""
    with open_bytes(path) as file:
        start = file.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in (start[:1], start[1:2]):
            raise DataError(f"{path}: is UTF-16 text; {_UTF8_ADVICE.format(encoding='UTF-16')}")
    with open_bytes(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        try:
            names = next(csv.reader(lines, delimiter=separator), [])
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from None
    names = [name.strip() for name in names]
    if not any(names):
        raise DataError(f"{path}: the first line has no names of columns")
    if len(names) == 1:
        for other in (";", "\t", "|", ","):
            if other in names[0]:
                shown = {"\t": "tabs", ",": "commas"}.get(other, repr(other))
                raise DataError(
                    f"{path}: its columns are separated by {shown}; save it with commas, or as "
                    ".tsv with tabs (and a point in decimals)"
                )
    if _are_numbers(names):
        raise DataError(
            f"{path}: no header line: the first line holds numbers ({listing(names, 3)}); put a "
            "line with the names of the columns first"
        )
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: several columns have the same name: {listing(repeated)}")
    return names


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether names are the numbers of a row: most are, and they do not just count up."""
    found = [name for name in names if name and _NUMBER.fullmatch(name)]
    if len(found) * 2 <= len(names):
        return False
    counting = all(_INTEGER.fullmatch(name) for name in found)
    return not (counting and all(int(a) < int(b) for a, b in pairwise(found)))


def _extent(path: Path) -> tuple[int, int]:
    """(rows, bytes) of the text, unpacked: the lines below the first."""
    rows = nbytes = 0
    last = b"\n"
    with open_bytes(path) as file:
        while block := file.read(1 << 20):
            rows, nbytes, last = rows + block.count(b"\n"), nbytes + len(block), block[-1:]
    return rows - (last == b"\n"), nbytes


def _read(path: Path, separator: str, names: Sequence[str], text: Sequence[int]) -> list[Column]:
    """The columns in their order; those at the positions `text` as strings."""
    if (arrow := library("pyarrow.csv")) is not None:
        return _from_arrow(path, arrow, separator, names, text)
    if (pandas := library("pandas")) is not None:
        with open_bytes(path) as file:
            return _from_pandas(path, pandas, file, separator, names, text)
    try:
        with open_bytes(path) as file:
            read = read_lines(path, file, separator, names, text, _MISSING, _LENGTH_ADVICE)
        return [partial(np.asarray, values) for values in read]
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _from_arrow(
    path: Path,
    arrow: Any,
    separator: str,
    names: Sequence[str],
    text: Sequence[int],
) -> list[Column]:
    import pyarrow

    positions = [str(position) for position in range(len(names))]

    def read(file: BytesFile | io.BytesIO, types: dict[str, Any]) -> Any:
        return arrow.read_csv(
            file,
            # Reader threads that outlive an error can abort the process at its end.
            read_options=arrow.ReadOptions(
                use_threads=False,
                column_names=positions,
                skip_rows_after_names=1,
                block_size=_BLOCK,
            ),
            parse_options=arrow.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(
                column_types=types,
                null_values=_MISSING,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    strings = {str(position): pyarrow.string() for position in text}
    try:
        table = _of_known_types(path, read, strings)
        if table is None:
            with open_bytes(path) as file:
                table = read(file, strings)
    except pyarrow.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _not_utf8(path) from None
        if "Expected" in str(error):
            reason = str(error).splitlines()[0].rpartition("parse error: ")[2][:200]
            raise DataError(f"{path}: {reason}; {_LENGTH_ADVICE}") from None
        raise
    if any(pyarrow.types.is_binary(column.type) for column in table.columns):
        raise _not_utf8(path)
    return list(arrow_columns(path, table).values())


def _of_known_types(path: Path, read: Any, strings: dict[str, Any]) -> Any:
    """The table with the types that its first lines have, None if others have another.

    Where types are not known beforehand pyarrow keeps the whole text in memory. Those of the first
    lines are the first in its order that fit them: if they fit all lines, it would find the same.
    """
    import pyarrow

    with open_bytes(path) as file:
        first = file.read(_HEAD)
        if len(first) < _HEAD:
            return None
    try:
        head = read(io.BytesIO(first[: first.rfind(b"\n") + 1]), strings)
        types = {f.name: f.type for f in head.schema if not pyarrow.types.is_null(f.type)}
        with open_bytes(path) as file:
            return read(file, types | strings)
    except pyarrow.ArrowInvalid:
        return None


def _from_pandas(
    path: Path,
    pandas: Any,
    file: BytesFile,
    separator: str,
    names: Sequence[str],
    text: Sequence[int],
) -> list[Column]:
    with warnings.catch_warnings():  # without a row index, lines that are too long only warn
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            frame = pandas.read_csv(
                file,
                sep=separator,
                header=None,
                names=range(len(names)),
                skiprows=1,
                dtype=dict.fromkeys(text, str),
                na_values=_MISSING,
                keep_default_na=False,
                index_col=False,
                low_memory=False,
            )
        except (pandas.errors.ParserWarning, pandas.errors.ParserError):
            raise DataError(f"{path}: has lines that are too long; {_LENGTH_ADVICE}") from None
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from None
    return [frame[name].to_numpy for name in frame.columns]


_LENGTH_ADVICE = "every line needs as many values as the first has names (no comma at its end)"


def _not_utf8(path: Path, error: UnicodeDecodeError | None = None) -> DataError:
    byte = "" if error is None else f" (byte 0x{error.object[error.start]:02x})"
    advice = _UTF8_ADVICE.format(encoding="LATIN1")
    return DataError(f"{path}: is not UTF-8 text{byte}, perhaps Latin-1; {advice}")


def _is_empty(values: np.ndarray) -> bool:
    """Whether no value of a column is there."""
    return all(value is None or value != value for value in values.tolist())


def _as_written(values: np.ndarray) -> np.ndarray:
    """Labels (object array of str, None where missing) as numbers if all are written as such."""
    missing = np.array([not isinstance(value, str) for value in values], bool)
    present = set(values[~missing].tolist())
    if not missing.any() and all(_INTEGER.fullmatch(value) for value in present):
        return values.astype(np.int64)
    if present and all(value and _NUMBER.fullmatch(value) for value in map(str.strip, present)):
        return np.array([float(v) if isinstance(v, str) else np.nan for v in values])
    return np.array([v.strip() if isinstance(v, str) else None for v in values], dtype=object)
