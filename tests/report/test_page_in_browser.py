"""The page in a real browser: no errors, nothing too wide, tables that sort and search."""

from __future__ import annotations

import itertools

import pytest
from page_cases import HOSTILE, results

from xclf.report.page import write_page


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Pages of few and of many classes."""
    home = tmp_path_factory.mktemp("pages")
    found = {}
    for name, classes in (("few", 10), ("many", 200)):
        found[name] = home / f"{name}.html"
        write_page(results(classes, rows=2000, hostile=True), found[name])
    return found


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("few", 390, True), ("few", 1280, False), ("many", 390, False), ("many", 1280, True)],
)
def test_no_errors_and_nothing_wider_than_the_window(browser, paths, name, width, dark):
    page = browser.open(paths[name], width, dark=dark)
    page.value("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.value("document.documentElement.scrollWidth") == width
    beyond = """Array.from(document.querySelectorAll('body *'))
        .filter((each) => !each.closest('.scroll, .skip, .hidden'))
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
        .map((each) => each.outerHTML.slice(0, 80))"""
    assert page.value(beyond) == []
    assert page.problems == []


def test_paper_has_the_width_of_its_tables(browser, paths):
    page = browser.open(paths["many"], 690, media="print")
    assert page.value("document.documentElement.scrollWidth") == 690
    shown = "document.querySelectorAll('#classes ~ .table tbody tr').length"
    assert page.value(shown) == 200
    visible = """Array.from(document.querySelectorAll('#classes ~ .table tbody tr'))
        .filter((row) => row.getClientRects().length).length"""
    assert page.value(visible) == 60
    assert page.problems == []


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_what_is_behind_them(browser, paths, dark):
    page = browser.open(paths["few"], 390, dark=dark)
    # WCAG 2.2, 1.4.3: a contrast of 4.5 for text.
    assert page.value(CONTRASTS) == []


CONTRASTS = """(() => {
  const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const rgb = channels(getComputedStyle(e).backgroundColor);
      if (rgb.length < 4 || rgb[3] > 0) return rgb;
    }
  };
  return Array.from(document.querySelectorAll('body *')).filter((e) =>
    !e.closest('.heat') && Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.data.trim())
  ).filter((e) => !['SCRIPT', 'STYLE', 'title'].includes(e.tagName)).map((e) => {
    const style = getComputedStyle(e);
    const ink = channels(e.ownerSVGElement ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 60)];
  }).filter(([contrast]) => contrast < 4.5);
})()"""


@pytest.fixture
def classes(browser, paths):
    """The page of many classes; its `read` runs a script on the table of them."""
    page = browser.open(paths["many"], 1280)

    def read(script):
        page_script = """(() => {
          const table = document.querySelector('#classes ~ .table');
          const heads = Array.from(table.querySelectorAll('thead th'));
          const rows = Array.from(table.querySelectorAll('tbody tr')).filter((row) => !row.hidden);
          const column = (k) => rows.map((row) => row.cells[k].textContent.trim());
          return %s;
        })()"""
        return page.value(page_script % script)

    page.read = read
    return page


def test_a_click_on_a_head_sorts_and_says_so(classes):
    numbers = "rows.map((row) => Number(row.cells[2].dataset.value))"
    classes.read("heads[2].querySelector('button').click()")
    values = classes.read(numbers)
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    sorts = classes.read("heads.map((head) => head.getAttribute('aria-sort'))")
    assert sorts == ["none", "none", "descending", "none", "none", "none"]
    assert classes.value("document.getElementById('status').textContent") == (
        "sorted by recall, descending"
    )
    classes.read("heads[2].querySelector('button').click()")
    assert classes.read(numbers) == sorted(values)
    assert classes.read("heads[2].getAttribute('aria-sort')") == "ascending"
    classes.read("heads[0].querySelector('button').click()")
    names = classes.read("column(0)")
    ordered = [name for name in names if name.startswith("class")]
    assert ordered == [f"class {k}" for k in range(3, 200)]  # by number, not by character
    assert classes.read("heads[2].getAttribute('aria-sort')") == "none"


def test_a_search_shows_the_classes_that_have_the_text(classes):
    type_in = """(() => {
      const input = table.querySelector('input');
      input.value = %s;
      input.dispatchEvent(new Event('input'));
    })()"""
    classes.read(type_in % "' CLASS 19 '")
    assert classes.read("column(0)") == ["class 19", *(f"class {k}" for k in range(190, 200))]
    assert classes.read("table.querySelector('output').textContent") == "11 of 200 classes"
    classes.read(type_in % "'<script>'")
    assert classes.read("column(0)") == [HOSTILE[0]]
    classes.read(type_in % "''")
    assert len(classes.read("rows")) == 200


def test_the_keyboard_reaches_search_and_heads(classes):
    classes.read("table.querySelector('input').focus()")
    for key in "class 7":
        classes.press(key)
    assert len(classes.read("column(0)")) == 11
    classes.press("Tab")  # the part that scrolls
    classes.press("Tab")
    assert classes.value("document.activeElement.textContent") == "class"
    classes.press("Enter")
    assert classes.read("heads[0].getAttribute('aria-sort')") == "ascending"
    assert classes.problems == []


def test_long_labels_of_an_axis_stay_in_their_picture(browser, tmp_path):
    found = results()
    found["history"]["objective"] = [0.06037160 - 1e-9 * k for k in found["history"]["iteration"]]
    write_page(found, tmp_path / "page.html")
    page = browser.open(tmp_path / "page.html", 390)
    script = """[...document.querySelectorAll("svg")].every(svg => {
        const left = svg.getBoundingClientRect().left;
        return [...svg.querySelectorAll("text")].every(
            text => text.getBoundingClientRect().left >= left - 0.5);
    })"""
    assert page.value(script)


def test_pictures_have_text_alternatives_and_their_numbers(browser, paths):
    page = browser.open(paths["few"], 1280)
    labels = page.value(
        "Array.from(document.querySelectorAll('svg[role=img]'), (e) => e.ariaLabel)"
    )
    assert len(labels) == 7
    assert all(len(label) > 40 for label in labels)
    assert page.value("document.querySelectorAll('figure.chart details table').length") == 7
    unnamed = "Array.from(document.querySelectorAll('img')).filter((e) => !e.alt).length"
    assert page.value(unnamed) == 0
    levels = page.value("Array.from(document.querySelectorAll('h1,h2,h3'), (e) => +e.tagName[1])")
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_the_copy_button_copies_or_selects_the_command(browser, paths):
    page = browser.open(paths["few"], 390)
    page.value("document.querySelector('.copy').click()")
    said = page.value("""new Promise((done) => {
        const status = document.getElementById('status');
        const look = () => status.textContent ? done(status.textContent) : setTimeout(look, 5);
        look();
    })""")
    assert said in ("command copied", "command selected")
    if said == "command selected":
        assert page.value("getSelection().toString()") == f"xclf probe '{HOSTILE[0]}'"
    text = page.value("document.querySelector('.command code').textContent")
    assert text == f"xclf probe '{HOSTILE[0]}'"
    assert page.problems == []


def test_a_script_that_is_not_the_pages_does_not_run(browser, paths, tmp_path):
    """The policy's own test: were a name to become markup, it would still do nothing."""
    text = paths["few"].read_text(encoding="utf-8")
    path = tmp_path / "injected.html"
    path.write_text(text.replace("<footer>", "<script>document.title = 'ran'</script><footer>"))
    page = browser.open(path, 390)
    assert page.value("document.title") != "ran"
    assert any("Content Security Policy" in problem for problem in page.problems)
