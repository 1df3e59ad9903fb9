"""The guide in a real browser: no errors, nothing too wide, a search that finds."""

from __future__ import annotations

import pytest

from xclf.report.guide import guide


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("guide") / "guide.html"
    found.write_text(guide(), encoding="utf-8")
    return found


@pytest.mark.parametrize(("width", "dark"), [(390, True), (390, False), (1280, False)])
def test_no_errors_and_nothing_wider_than_the_window(browser, path, width, dark):
    page = browser.open(path, width, dark=dark)
    assert page.value("document.documentElement.scrollWidth") == width
    beyond = """Array.from(document.querySelectorAll('body *'))
        .filter((each) => !each.closest('pre, table, .skip'))
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
        .map((each) => each.outerHTML.slice(0, 80))"""
    assert page.value(beyond) == []
    assert page.problems == []


def test_links_lead_to_places(browser, path):
    page = browser.open(path, 1280)
    nowhere = """Array.from(document.querySelectorAll('a[href^="#"]'))
        .filter((each) => !document.getElementById(each.getAttribute('href').slice(1)))
        .map((each) => each.getAttribute('href'))"""
    assert page.value(nowhere) == []


def test_the_search_finds_words_and_says_how_many_places(browser, path):
    page = browser.open(path, 390)
    type_in = """(text) => {
        const input = document.getElementById('search');
        input.value = text;
        input.dispatchEvent(new Event('input'));
        return [document.getElementById('found').textContent,
                document.querySelectorAll('#results li').length,
                document.querySelector('#results a')?.getAttribute('href') ?? null,
                document.getElementById('list').hidden];
    }"""
    places, shown, first, hidden = page.value(f"({type_in})('margin')")
    assert places.endswith(" places")
    assert shown >= 2
    assert hidden
    assert page.value(f"document.querySelector('{first}') !== null")
    held = page.value(
        f"document.querySelector('{first}').closest('article').textContent.includes('margin')"
    )
    assert held
    assert page.value(f"({type_in})('qwertzuiop')") == ["0 places", 0, None, True]
    assert page.value(f"({type_in})('')") == ["", 0, None, False]
    page.value("document.getElementById('search').blur()")
    page.press("/")
    assert page.value("document.activeElement.id") == "search"
    assert page.problems == []
