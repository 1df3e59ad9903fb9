"""What the pictures of a page show: positions, ticks, marks, heat maps, bars; numbers as text."""

from __future__ import annotations

import re

import pytest
from page_cases import results

from xclf.report._chart import BOTTOM, LEFT, RIGHT, TOP, Axis, Mark, Series, line_chart
from xclf.report._confusion import confused_pairs, confusion_figure
from xclf.report._curves import layers_figure
from xclf.report._metric import Run, short
from xclf.report._reliability import reliability_figure
from xclf.report._search_curve import search_figure
from xclf.report.number_text import (
    common_ends,
    evenly,
    memory,
    number,
    percent,
    plain,
    seconds,
    tally,
)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_larger_values_are_further_right_and_higher():
    series = Series("a", [1, 10, 1000], [0.5, 0.6, 0.9])
    chart = line_chart("", [series], Axis("x", log=True), Axis("y", percent=True))
    (a, b, c) = points(chart.lines[0].path)
    assert LEFT < a[0] < b[0] < c[0] < RIGHT
    assert BOTTOM > a[1] > b[1] > c[1] > TOP
    # Positions are rounded to 0.1, and so are wrong by 0.05 each: a decade is half of two.
    assert c[0] - b[0] == pytest.approx(2 * (b[0] - a[0]), abs=0.3)
    assert c[1] - b[1] == pytest.approx(3 * (b[1] - a[1]), abs=0.4)


@pytest.mark.parametrize(
    ("axis", "values", "labels"),
    [
        (Axis("", log=True), [1e-6, 1e5], ["10⁻⁶", "10⁻⁴", "10⁻²", "10⁰", "10²", "10⁴"]),
        (Axis("", log=True), [0.001, 1], ["0.001", "0.01", "0.1", "1"]),
        (Axis("", log=True), [0.1, 0.9], ["0.1", "0.2", "0.5"]),
        (Axis(""), [0, 100], ["0", "20", "40", "60", "80", "100"]),
        (Axis(""), [-0.5, 0.5], ["−0.4", "−0.2", "0.0", "0.2", "0.4"]),  # noqa: RUF001
        (Axis("", percent=True), [0.9, 1.0], ["90%", "92%", "94%", "96%", "98%", "100%"]),
        (
            Axis("", percent=True),
            [0.99, 0.995],
            ["99.0%", "99.1%", "99.2%", "99.3%", "99.4%", "99.5%"],
        ),
        (Axis("", ticks=[(1, "a"), (2, "b")]), [1, 2], ["a", "b"]),
        (Axis("", whole=True), [1, 3], ["1", "2", "3"]),
    ],
)
def test_ticks(axis, values, labels):
    chart = line_chart("", [Series("a", values, [1.0, 2.0])], axis, Axis("y"))
    assert [label for _, label in chart.x_ticks] == labels
    places = [place for place, _ in chart.x_ticks]
    assert places == sorted(places)
    assert places[0] >= LEFT
    assert places[-1] <= RIGHT


def test_a_band_a_bar_and_missing_values():
    series = Series("a", [1, 2, 3], [0.5, None, 0.7], [0.4, None, 0.6], [0.6, None, 0.8])
    line = line_chart("", [series], Axis("x"), Axis("y")).lines[0]
    assert len(points(line.path)) == 2
    band = points(line.band)
    assert len(band) == 4
    (upper, _), (_, lower) = (band[0], band[1]), (band[2], band[3])
    assert upper[1] < points(line.path)[0][1] < lower[1]
    bars = line_chart("", [Series(**{**vars(series), "bars": True})], Axis("x"), Axis("y")).lines[0]
    assert bars.bars.count("V") == 2
    assert bars.band == ""


def test_a_long_series_is_thinned_and_has_no_markers():
    y = [1.0 / (k + 1) for k in range(5000)]
    line = line_chart("", [Series("a", list(range(5000)), y)], Axis("x"), Axis("y")).lines[0]
    assert 400 < len(points(line.path)) <= 500
    assert line.points == []


@pytest.mark.parametrize(("x", "side"), [(0.0, "start"), (5.0, "middle"), (10.0, "end")])
def test_the_text_of_a_mark_stays_inside(x, side):
    series = Series("a", [0.0, 5.0, 10.0], [1.0, 2.0, 3.0])
    mark = line_chart("", [series], Axis("x"), Axis("y"), Mark(x, 1.0, "here")).mark
    assert mark[2:] == ("here", side)


def test_one_value_has_a_place():
    for axis in (Axis("x"), Axis("x", log=True), Axis("x", percent=True)):
        chart = line_chart("", [Series("a", [0.5], [0.5])], axis, axis)
        assert LEFT < chart.lines[0].points[0].x < RIGHT
        assert chart.x_ticks


def test_the_chosen_value_is_marked_and_named():
    figure = search_figure([Run("", results())])
    assert figure.picture.mark[2] == "C = 1: 90.00%"
    assert "Chosen: C = 1: 90.00%" in figure.picture.label
    line = figure.picture.lines[0]
    assert line.points[4].y == figure.picture.mark[1]
    assert [point.hollow for point in line.points] == [False] * 7 + [True] * 2
    assert [line.name for line in figure.picture.lines] == ["validation", "train"]
    assert [row[-1].text for row in figure.table.rows][4] == "chosen"


def test_choices_of_several_tasks_are_counted():
    assert tally(["0.1", "0.1"]) == "0.1"
    assert tally(["0.01", "0.1", "0.01"]) == "0.01 (2 tasks), 0.1 (1 task)"


def test_bands_over_tasks_say_so():
    found = results()
    assert "deviation over the folds" in search_figure([Run("", found)]).note
    found["search"]["spread"] = "tasks"
    figure = search_figure([Run("", found)])
    assert "deviation over the tasks" in figure.note
    assert "Best on average: C = 1: 90.00%" in figure.picture.label
    assert [row[-1].text for row in figure.table.rows][4] == "best on average"


def test_layers_have_their_scores_on_test_rows():
    found = results()
    for k, point in enumerate(found["layers"]["points"]):
        point["test"] = 0.45 + 0.05 * k
    found["layers"]["data"] = "5 folds"
    figure = layers_figure([Run("", found)])
    assert [line.name for line in figure.picture.lines] == ["5 folds", "test"]
    assert figure.legend
    # Positions are rounded to 0.1.
    judged, tested = ([p.y for p in line.points] for line in figure.picture.lines)
    assert judged[0] == pytest.approx(tested[1], abs=0.1)
    assert [str(column) for column in figure.table.columns][1:3] == ["accuracy, 5 folds", "test"]
    assert figure.table.rows[2][2].text == "55.00%"


@pytest.mark.parametrize("metric, most", [("accuracy", 1.0), ("negative_log_likelihood", 1.3)])
def test_bands_of_shares_end_where_shares_do(metric, most, monkeypatch):
    found = results()
    found["search"]["metric"] = metric
    for point in found["search"]["points"]:
        point.update(score=0.8, std=0.5)
    kept = []
    chart = "xclf.report._search_curve.line_chart"
    monkeypatch.setattr(chart, lambda label, series, *rest, **more: kept.extend(series))
    search_figure([Run("", found)])
    assert max(kept[0].high) == most
    assert min(kept[0].low) == pytest.approx(0.3)


def test_several_parameters_have_a_line_for_each_combination():
    found = results()
    for k, point in enumerate(found["search"]["points"]):
        point["others"] = f"lr={k % 2}"
    lines = search_figure([Run("", found)]).picture.lines
    assert [(line.name, line.style) for line in lines] == [("lr=0", 0), ("lr=1", 1)]
    lines = search_figure([Run("a", found), Run("b", found, 1)]).picture.lines
    assert [(line.name, line.style) for line in lines] == [("a, lr=0", 0), ("b, lr=0", 1)]


CONFUSION = {
    "class_names": ["cat", "dog", "owl"],
    "confusion": {"counts": [[0, 0, 8], [0, 1, 2], [1, 1, 5], [1, 2, 5], [2, 1, 2]]},
}


def test_a_heat_map_has_rows_of_true_classes():
    figure = confusion_figure(CONFUSION)
    cells = {(cell.x, cell.y): cell for cell in figure.picture.cells}
    assert len(cells) == 5
    columns = sorted({x for x, _ in cells})
    rows = sorted({y for _, y in cells})
    assert cells[columns[0], rows[0]].opacity == 0.8  # 8 of 10 cats
    worst = cells[columns[1], rows[2]]  # both owls
    assert (worst.opacity, worst.right) == (1.0, False)
    assert worst.text == "owl predicted as dog: 2 of 2 (100.0%)"
    counts = [[cell.text for cell in row] for row in figure.table.rows]
    assert counts == [["cat", "8", "2", "0"], ["dog", "0", "5", "5"], ["owl", "0", "2", "0"]]


def test_pairs_with_the_most_errors_come_first():
    table = confused_pairs(CONFUSION)
    found = [[cell.text for cell in row] for row in table.rows]
    assert found == [
        ["dog", "owl", "5", "50.0%"],
        ["cat", "dog", "2", "20.0%"],
        ["owl", "dog", "2", "100.0%"],
    ]
    perfect = {"class_names": ["a", "b"], "confusion": {"counts": [[0, 0, 3], [1, 1, 2]]}}
    assert confused_pairs(perfect) is None
    assert confusion_figure(perfect).picture.cells


def test_bars_of_a_reliability_diagram():
    bins = [
        {"low": 0.0, "high": 0.5, "confidence": 0.4, "accuracy": 0.2, "count": 10},
        {"low": 0.5, "high": 1.0, "confidence": 0.9, "accuracy": 1.0, "count": 30},
    ]
    figure = reliability_figure({"calibration": {"bins": bins}})
    first, second = figure.picture.bars
    assert first.x < second.x
    assert second.height == pytest.approx(5 * first.height, abs=0.6)  # positions of 0.1
    assert second.rows_height == pytest.approx(3 * first.rows_height, abs=0.3)
    # |0.2 - 0.4| of a quarter and |1 - 0.9| of the rest; 0.4 / 4 + 2.7 / 4 against 0.8.
    assert "error is 12.50%" in figure.picture.label
    assert "2.50% less than the accuracy" in figure.picture.label


def test_numbers_as_text():
    assert [number(v) for v in (3, 12345, 0.5, 1e-6, -2.0, None, "x", True)] == [
        *("3", "12,345", "0.5", "1e−6", "−2", "–", "x", "True")  # noqa: RUF001
    ]
    assert [percent(v) for v in (1.0, 0.12345, None)] == ["100.00%", "12.35%", "–"]  # noqa: RUF001
    times = [seconds(v) for v in (0.0012, 0.5, 99.9, 192, 7300)]
    assert times == ["1.2 ms", "0.50 s", "99.9 s", "3 min 12 s", "2 h 1 min"]
    assert [seconds(v, whole=True) for v in (0.002, 12.4, 192)] == ["0 s", "12 s", "3 min 12 s"]
    values = [plain(v) for v in (1e-7, 1e6, 0.00177828, 10.0, 1797, -2.5, "lr", True)]
    assert values == ["1e-7", "1e6", "0.001778", "10", "1797", "-2.5", "lr", "True"]
    assert [memory(v) for v in (5, 2048, 3 * 2**29)] == ["5 bytes", "2.0 KiB", "1.5 GiB"]
    assert evenly(5, 10) == [0, 1, 2, 3, 4]
    assert evenly(101, 3) == [0, 50, 100]
    assert short("a long class name", 9) == "a lo…name"
    assert short("short", 9) == "short"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["layer_00.npy", "layer_01.npy"], ["00", "01"]),
        (["layer_10.npy", "layer_11.npy"], ["10", "11"]),
        (["a", "b"], ["a", "b"]),
        (["same", "same"], ["same", "same"]),
        (["block", "block2"], ["block", "2"]),
        (["x1/a.npy", "x2/a.npy"], ["1", "2"]),
    ],
)
def test_names_without_what_they_share(names, found):
    assert common_ends(names) == found
