"""Geometry of line charts: from numbers to positions, which a template turns into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from xclf.report.number_text import evenly, minus, number, power

# Units of the picture, about a CSS pixel on a phone.
WIDTH, HEIGHT = 400.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 384.0, 14.0, 228.0
_MARKED_TOP = 30.0  # below the text of a mark

_MOST_POINTS, _MOST_MARKERS = 500, 60
#: Styles of lines in the style sheet: colours, dashes and shapes of markers.
STYLES = 7


@dataclass(frozen=True)
class Series:
    """A line: values y at x, None where there is none.

    low, high : an interval of each point, drawn as a band, or as bars if `bars`
    dots : further points (x, y), such as single tries
    hollow : points that are drawn hollow;  texts : what a point says under the pointer
    style : number of the colour and the dashes;  quiet : thin, without markers
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    bars: bool = False
    dots: Sequence[tuple[float, float]] = ()
    hollow: frozenset[int] = frozenset()
    texts: Sequence[str] = ()
    style: int = 0
    quiet: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its label, its scale, and ticks where they are not to be chosen.

    ticks : (value, label) pairs;  percent : values are shares;  log : logarithmic
    whole : values are whole numbers, and so are ticks
    """

    label: str
    log: bool = False
    percent: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    whole: bool = False


@dataclass(frozen=True)
class Mark:
    """A point that stands out, with its text."""

    x: float
    y: float
    text: str


@dataclass
class Point:
    """A marker of the picture."""

    x: float
    y: float
    text: str = ""
    hollow: bool = False


@dataclass
class Line:
    """A series of the picture: SVG paths and markers."""

    name: str
    style: int
    quiet: bool
    path: str = ""
    band: str = ""
    bars: str = ""
    points: list[Point] = field(default_factory=list)
    dots: list[Point] = field(default_factory=list)


@dataclass
class Chart:
    """A picture: positions in units of the view box, and what is read aloud."""

    label: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    mark: tuple[float, float, str, str] | None = None  # x, y, text, text-anchor


class Scale:
    """The map of values in [low, high] to positions from `start` to `end`."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool) -> None:
        self.log = log
        self.low, self.high = self._of(low), self._of(high)
        self.start, self.end = start, end

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._of(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    label: str, series: Sequence[Series], x: Axis, y: Axis, mark: Mark | None = None
) -> Chart:
    """The chart of some series; `label` is its text alternative."""
    xs = [value for s in series for value in s.x]
    ys = [v for s in series for values in (s.y, s.low, s.high) for v in values if v is not None]
    ys += [value for s in series for _, value in s.dots]
    across = Scale(*_limits(xs, x, pad=0.03), LEFT, RIGHT, x.log)
    top = TOP if mark is None else _MARKED_TOP
    up = Scale(*_limits(ys, y, pad=0.06), BOTTOM, top, y.log)
    chart = Chart(
        label,
        x.label,
        y.label,
        [(across(value), text) for value, text in _ticks(across, x, most=6)],
        [(up(value), text) for value, text in _ticks(up, y, most=5)],
        [_line(s, across, up) for s in series],
    )
    if mark is not None:
        at = across(mark.x)
        third = (RIGHT - LEFT) / 3
        side = "start" if at < LEFT + third else "end" if at > RIGHT - third else "middle"
        chart.mark = at, up(mark.y), mark.text, side
    return chart


def _line(series: Series, across: Scale, up: Scale) -> Line:
    line = Line(series.name, series.style, series.quiet)
    shown = [k for k, value in enumerate(series.y) if value is not None]
    shown = [shown[k] for k in evenly(len(shown), _MOST_POINTS)]
    places = [
        (k, across(series.x[k]), up(value)) for k in shown if (value := series.y[k]) is not None
    ]
    line.path = _path([(px, py) for _, px, py in places])
    spans = [
        (across(series.x[k]), up(low), up(high))
        for k in shown
        if k < len(series.low)
        and (low := series.low[k]) is not None
        and (high := series.high[k]) is not None
    ]
    if series.bars:
        line.bars = "".join(
            f"M{px:g} {low:g}V{high:g}M{px - 4:g} {low:g}h8M{px - 4:g} {high:g}h8"
            for px, low, high in spans
        )
    elif spans:
        edge = [(px, high) for px, _, high in spans] + [(px, low) for px, low, _ in spans[::-1]]
        line.band = _path(edge) + "Z"
    if len(places) <= _MOST_MARKERS and not series.quiet:
        line.points = [
            Point(px, py, series.texts[k] if series.texts else "", k in series.hollow)
            for k, px, py in places
        ]
    line.dots = [Point(across(vx), up(vy)) for vx, vy in series.dots]
    return line


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{px:g} {py:g}" for px, py in points) if points else ""


def _limits(values: Sequence[float], axis: Axis, pad: float) -> tuple[float, float]:
    """The ends of an axis: those of the values and some room, no share beyond 0 and 1."""
    low, high = (min(values), max(values)) if values else (1.0, 2.0)
    if axis.log:
        room = max((high / low) ** pad, 1.05)
        return low / room, high * room
    room = pad * (high - low) or (0.01 if axis.percent else 0.5 * abs(high) or 0.5)
    low, high = low - room, high + room
    if axis.percent:
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high


def _ticks(scale: Scale, axis: Axis, most: int) -> list[tuple[float, str]]:
    if axis.ticks:
        return [axis.ticks[k] for k in evenly(len(axis.ticks), 2 * most)]
    if scale.log:
        return _log_ticks(scale, most)
    step = nice_step((scale.high - scale.low) / most)
    step = max(step, 1.0) if axis.whole else step
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step * (100.0 if axis.percent else 1.0)) + 1e-9))
    values = [k * step for k in range(first, last + 1)]
    if axis.percent:
        return [(value, f"{100.0 * value:.{decimals}f}%") for value in values]
    return [(value, minus(f"{value:,.{decimals}f}")) for value in values]


def _log_ticks(scale: Scale, most: int) -> list[tuple[float, str]]:
    first, last = math.ceil(scale.low - 1e-9), math.floor(scale.high + 1e-9)
    decades = list(range(first, last + 1))
    if len(decades) >= 3:
        shown = decades[:: math.ceil(len(decades) / (most + 1))]
        plain = decades[0] >= -3 and decades[-1] <= 4
        return [(10.0**k, number(10.0**k) if plain else power(k)) for k in shown]
    values = (m * 10.0**k for k in range(first - 1, last + 1) for m in (1, 2, 5))
    return [(v, number(v)) for v in values if scale.low <= math.log10(v) <= scale.high]


def nice_step(least: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is at least `least`."""
    base = 10.0 ** math.floor(math.log10(least))
    return next((m * base for m in (1.0, 2.0, 5.0) if m * base >= least * (1 - 1e-9)), 10.0 * base)
