"""Results of several runs: read, side by side, on one page."""

from __future__ import annotations

import copy
import json

import pytest
from page_cases import HOSTILE, results

from xclf.report.comparison import (
    ResultsError,
    compare,
    comparison_page,
    comparison_table,
    on_other_rows,
    read_runs,
    run_names,
)


def runs(hostile: bool = False):
    """Two runs: the second is better by accuracy and worse by likelihood."""
    first = results(hostile=hostile)
    second = copy.deepcopy(first)
    second["metrics"][1]["accuracy"] += 0.01
    second["metrics"][1]["negative_log_likelihood"] += 0.01
    return [(HOSTILE[0] if hostile else "a", first), ("b", second)]


def test_rows_are_the_metrics_of_the_test_rows_or_of_others():
    rows = compare(runs())
    for row, (name, run) in zip(rows, runs(), strict=True):
        assert row["name"] == name
        for key, value in run["metrics"][1].items():
            assert row[key] == value
    assert rows[0]["seconds"] == 7300.5
    other = compare(runs(), "validation")
    assert other[0]["accuracy"] == runs()[0][1]["metrics"][0]["accuracy"]
    with pytest.raises(ResultsError, match="a has no metrics of 'train' rows"):
        compare(runs(), "train")
    with pytest.raises(ResultsError, match="a has no metrics"):
        compare([("a", {"format": 1})])


def test_the_best_of_each_column_is_bold():
    table = comparison_table(compare(runs()))
    bold = {name: [row[k].strong for row in table.rows] for k, name in enumerate(table.columns)}
    assert bold["accuracy"] == [False, True]
    assert bold["negative log-likelihood"] == [True, False]
    assert bold["balanced accuracy"] == [True, True]


def test_other_rows_are_noticed():
    several = runs()
    assert not on_other_rows(compare(several))
    several[1][1]["data"][1]["fingerprint"] = "sha256:of other features"
    assert not on_other_rows(compare(several))
    several[1][1]["data"][1]["labels"] = "sha256:2"
    assert on_other_rows(compare(several))
    assert "measured on different rows" in comparison_page(several)


def test_the_page_has_the_curves_of_all_together():
    text = comparison_page(runs())
    for figure in ("search", "few-shot", "layers", "loss", "accuracy"):
        assert text.count(f'id="figure-{figure}"') == 1
    assert text == comparison_page(runs())
    assert "</svg> b</li>" in search_figure(text)
    several = runs()
    several[1][1]["search"]["parameter"] = "reg"  # no axis for both
    assert "</svg> b</li>" not in search_figure(comparison_page(several))


def test_a_run_has_one_style_in_every_chart():
    several = runs()
    several[0][1]["few_shot"] = None
    text = comparison_page(several).partition('id="figure-few-shot"')[2].partition("</figure>")[0]
    assert 'class="s1"' in text  # as in the charts of both
    assert 'class="s0"' not in text
    assert "</svg> b</li>" in text


def search_figure(text: str) -> str:
    return text.partition('id="figure-search"')[2].partition("</figure>")[0]


def test_the_page_of_hostile_names_in_a_browser(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(comparison_page(runs(hostile=True)), encoding="utf-8")
    page = browser.open(path, 390)
    assert page.value("document.documentElement.scrollWidth") == 390
    assert page.value("document.querySelectorAll('script').length") == 1
    assert page.problems == []


def test_results_are_read_from_folders_and_files(tmp_path):
    for name in ("a", "b/probe", "c/probe"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text(json.dumps(results()))
    (tmp_path / "d.json").write_text(json.dumps(results()))
    paths = [tmp_path / name for name in ("a", "b/probe", "c/probe/results.json", "d.json")]
    assert [run for _, run in read_runs(paths)] == [results()] * 4
    assert run_names(paths) == ["a", str(paths[1]), str(paths[2]), "d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1', "not JSON, or cut short"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "results must be the dict"),
        (b'{"format": 9}', "this version of xclf reads 1"),
        (b'{"xclf": "0.1.0", "command": null, "model": "m", "accuracy": 1}', "parts missing"),
        (b'{"xclf": "0.1.0", "command": null, "model": "m", "test": 3}', "parts missing"),
        (b'{"test": 3}', "results are what --report FILE.json writes, what --json prints"),
        (None, "no such file"),
    ],
)
def test_damage_is_one_line(tmp_path, content, message):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultsError, match=message) as caught:
        read_runs([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
