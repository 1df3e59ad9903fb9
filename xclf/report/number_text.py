"""Numbers as text, for people: shares, seconds, bytes, penalties."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

NOTHING = "\N{EN DASH}"  # no such number

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def percent(share: float | None, digits: int = 2) -> str:
    """0.9724 as '97.24%'."""
    return NOTHING if share is None else f"{100.0 * share:.{digits}f}%"


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits; whole numbers whole, with thousands separated."""
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return minus(f"{int(value):,}")
    return minus(plain(value, digits))


def plain(value: Any, digits: int = 4) -> str:
    """A number for terminals, with so many significant digits: '1e-7', '0.001778', '1797'; anything
    else as `str` has it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    text = str(value) if isinstance(value, int) else f"{value:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def count(number: int, noun: str) -> str:
    """'1 draw', '1,797 draws'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tally(values: Sequence[str]) -> str:
    """Choices of several tasks: '0.01 (3 tasks), 0.1 (1 task)'; '0.01' where all are the same."""
    counts = Counter(values)
    if len(counts) == 1:
        return values[0]
    return ", ".join(f"{value} ({count(number, 'task')})" for value, number in counts.items())


def power(exponent: int) -> str:
    """'10⁻⁶' for -6."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def minus(text: str) -> str:
    """The text with minus signs in place of hyphens."""
    return text.replace("-", "\N{MINUS SIGN}")


def seconds(value: float | None, *, whole: bool = False) -> str:
    """'6.1 ms', '0.42 s', '42.1 s', '3 min 12 s', '2 h 5 min'.

    whole : no parts of a second, as of a time that is estimated
    """
    if value is None:
        return NOTHING
    if value < 99.95:
        if value < 0.01 and not whole:
            return f"{1000.0 * value:.1f} ms"
        return f"{value:.{0 if whole else 2 if value < 10.0 else 1}f} s"
    total = round(value)
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def memory(value: float | None) -> str:
    """'512 bytes', '1.2 GiB'."""
    if value is None:
        return NOTHING
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024.0:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024.0
    return f"{value:.1f} TiB"


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def evenly(count: int, most: int) -> list[int]:
    """At most `most` (two or more) of the indices 0 .. count - 1, evenly spaced, first and last."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


def common_ends(names: Sequence[str]) -> list[str]:
    """Names without the beginning and the ending that all of them share: 'layer_00.npy' is '00'."""
    if len(set(names)) < 2:
        return list(names)
    first, last = min(names), max(names)
    start = next(k for k in range(len(last)) if k >= len(first) or first[k] != last[k])
    while start and first[:start][-1:].isdigit():  # layer_10 and layer_11 stay 10 and 11
        start -= 1
    turned = sorted(name[start:][::-1] for name in names)
    low, high = turned[0], turned[-1]
    end = 0
    while end < len(low) and low[end] == high[end] and not low[end].isdigit():
        end += 1
    return [name[start : len(name) - end] or name for name in names]
