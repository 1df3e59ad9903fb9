"""The page of a run: its sections, its numbers, its refusal of markup in names."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from page_cases import HOSTILE, results

from xclf.report.page import page, write_page

VOID = {"meta", "link", "input", "img", "br"}


class Document(HTMLParser):
    """The elements of a page: every one closed, ids unique; texts, and links to elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self.policy = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append(data)
        elif data.strip():
            self.texts.append(data)

    def has(self, text: str) -> bool:
        """Whether a piece of text says this."""
        return any(text in each for each in self.texts)


def test_a_page_is_well_formed_and_has_every_section():
    document = Document(page(results()))
    assert document.open == []
    assert len(set(document.ids)) == len(document.ids)
    sections = {"metrics", "curves", "errors", "tasks", "classes", "weights", "run", "data"}
    figures = {"search", "few-shot", "layers", "loss", "accuracy", "confusion", "reliability"}
    assert set(document.ids) >= sections | {"times"} | {f"figure-{name}" for name in figures}
    for text in ("C = 1: 90.00%", "2 h 1 min", "1.5 GiB", "SoftmaxClassifier", "reg=0.0001"):
        assert document.has(text)
    inside = [link for link in document.links if link.startswith("#")]
    assert {link[1:] for link in inside} <= set(document.ids)


def test_a_metric_with_two_names_is_one_column_of_tasks():
    found = results()
    for task in found["tasks"]:
        task["metrics"] |= {"mean_per_class": 0.25, "balanced_accuracy": 0.25}
    found["metrics"], found["per_class"] = [], []
    document = Document(page(found))
    assert document.has("balanced accuracy")
    assert not document.has("mean per class")


def test_headline_numbers_are_those_of_the_test_rows():
    found = results()
    document = Document(page(found))
    accuracy = found["metrics"][1]["accuracy"]
    at = document.texts.index("accuracy")
    assert document.texts[at + 1] == f"{100 * accuracy:.2f}%"
    assert document.texts[at + 2].startswith("95% interval ")
    assert document.has("On test, 400 rows")


def test_nothing_comes_from_elsewhere():
    text = page(results())
    document = Document(text)
    outside = [link for link in document.links if not link.startswith(("#", "data:image/"))]
    assert outside == ["https://example.org/a"]  # the source of the protocol, to click on
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", text)
    style, script = document.scripts
    hashes = [
        "sha256-" + base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in (style, script)
    ]
    assert document.policy == (
        f"default-src 'none'; img-src data:; style-src '{hashes[0]}'; script-src '{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("classes", [4, 40])
def test_names_with_markup_are_text(classes):
    harmless, hostile = (Document(page(results(classes, hostile=h))) for h in (False, True))
    # The same elements but for the pairs of classes and the parts that names may wrap to.
    assert set(hostile.tags) == set(harmless.tags)
    assert hostile.tags.count("script") == hostile.tags.count("title") - (
        harmless.tags.count("title") - 1
    )
    for name in HOSTILE:
        assert hostile.has(name)
    assert hostile.scripts == harmless.scripts


def test_names_that_are_not_printable_are_escaped(tmp_path):
    found = results()
    found["class_names"][0] = "a\x1b[31m\u202eb\udcff"
    found["title"] = "\x00"
    write_page(found, tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert r"a\x1b[31m\u202eb\udcff" in text
    assert not re.search("[\x00-\x08\x0e-\x1f\u202e]", text)


def test_a_page_is_the_same_for_the_same_results():
    found = results()
    before = copy.deepcopy(found)
    assert page(found) == page(json.loads(json.dumps(found)))
    assert found == before


def test_a_page_of_any_part_of_the_results():
    found = results()
    first = {key: found[key] for key in ("format", "kind", "title", "xclf", "created")}
    for key in found:
        document = Document(page(first | {key: found[key]}))
        assert document.open == []
        assert Document(page({**found, key: None} if key != "format" else found)).open == []
    assert "svg" not in Document(page(first)).tags


def test_numbers_that_are_missing():
    found = results()
    found["metrics"][1] = {"data": "test", "accuracy": None, "top5": 0.5}
    found["search"]["points"][4]["score"] = None  # the chosen one
    found["search"]["points"][0] = {"value": 1e-4, "score": 0.1}
    found["few_shot"]["points"][0] = {"shots": 1, "mean": 0.2, "low": None, "high": None}
    found["layers"]["points"] = [{"name": "a", "score": None}]
    found["history"]["objective"] = [None] * 30
    found["per_class"][0]["average_precision"] = None
    found["times"][0]["seconds"] = None
    document = Document(page(found))
    assert "figure-layers" not in document.ids
    assert "figure-loss" not in document.ids
    assert "figure-search" in document.ids
    assert not document.has("nan")
    assert not document.has("None")


@pytest.mark.parametrize(
    "search",
    [
        {"points": [{"value": 0.0, "score": 0.5}, {"value": 1.0, "score": 0.6}], "log": True},
        {"points": [{"value": "adam", "score": 0.5}, {"value": "sgd", "score": 0.6}]},
        {"points": [{"value": 1.0, "score": 0.5}], "chosen": 0, "log": True},
        {"points": [{"value": 1.0, "score": -2.5}, {"value": 2.0, "score": -1e9}]},
        {"points": [{"value": v, "score": v, "others": f"lr {v}"} for v in (0.1, 0.2)]},
    ],
)
def test_searches_of_other_kinds(search):
    found = {"format": 1, "kind": "sweep", "class_names": []}
    found["search"] = {"parameter": "reg", "metric": "neg_log_loss", **search}
    document = Document(page(found))
    assert "figure-search" in document.ids
    positions = re.findall(r"translate\(([-0-9.e]+) ([-0-9.e]+)\)", page(found))
    assert len(positions) >= len(search["points"])
    assert all(0 <= float(x) <= 400 and 0 <= float(y) <= 270 for x, y in positions)


def test_many_classes_have_pairs_and_no_heat_map():
    document = Document(page(results(classes=31)))
    assert "figure-confusion" not in document.ids
    assert document.has("Most confused classes")
    assert "figure-confusion" in Document(page(results(classes=30))).ids


def test_a_thousand_classes_stay_small():
    text = page(results(classes=1000, rows=5000))
    # A line of a table: six cells of 50 characters and a bar of 190; an image and its names: 300.
    assert len(text) < 1000 * 800 + 150_000


@pytest.mark.parametrize("bad", [{}, {"format": 2}, None, []])
def test_other_formats_are_refused(bad):
    with pytest.raises(ValueError, match="results"):
        page(bad)


def test_nothing_is_left_of_a_page_that_fails(tmp_path):
    with pytest.raises(ValueError, match="format"):
        write_page({}, tmp_path / "p.html")
    assert list(tmp_path.iterdir()) == []
