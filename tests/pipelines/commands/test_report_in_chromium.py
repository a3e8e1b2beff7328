"""The report in Chromium, 1280 and 390 pixels wide: it loads without errors, and its filters and buttons work."""

from __future__ import annotations

import shutil

import pytest
from support.data.outputs import HOSTILE, troubled
from support.servers.chromium import chromium

from moondream_beam.pipelines.display.report_page.render import render
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")]

SHOWN = "[...document.querySelectorAll('.card')].filter((card) => card.checkVisibility()).length"
PRESSED = "[...document.querySelectorAll('[data-kind][aria-pressed=true]')].map((button) => button.dataset.kind).join()"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    output = troubled(tmp_path_factory.mktemp("chromium"))
    with Dataset(str(output)) as dataset:
        (output / "report.html").write_text(render(dataset, Fetcher()))
    return output / "report.html"


@pytest.fixture(scope="module")
def browser():
    with chromium(PROGRAM) as page:
        yield page


@pytest.fixture(params=[1280, 390])
def page(request, browser, report):
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(report, request.param)
    return browser


def test_it_opens_without_an_error_and_requests_only_itself(page, report):
    assert page.complaints == []
    assert {url for url in page.requests if not url.startswith("data:image/jpeg")} == {report.as_uri()}


def test_it_is_no_wider_than_the_window(page):
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")


def test_texts_with_markup_run_nothing_and_are_shown_as_text(page):
    assert page.ask("document.title") == "out – moondream-beam report"
    text = page.ask("document.body.textContent")
    assert all(hostile in text for hostile in HOSTILE[:5])


def test_every_thumbnail_is_drawn(page):
    drawn = "Promise.all([...document.querySelectorAll('image')].map((image) => image.decode().then(() => 1, () => 0)))"
    sizes = page.call("Runtime.evaluate", expression=drawn, awaitPromise=True, returnByValue=True)["result"]["value"]
    assert len(sizes) > 20 and all(sizes)


def test_a_filter_shows_its_kind_only(page):
    page.ask("document.querySelector('[data-kind=loop]').click()")
    assert page.ask(PRESSED) == "loop"
    kinds = page.ask(
        "[...document.querySelectorAll('.card:not([hidden])')].map((card) => card.dataset.kinds).join('|')"
    )
    assert kinds and all("loop" in of_one for of_one in kinds.split("|"))


def test_search_finds_texts_and_reports_no_match(page):
    find = "search.value = '{}'; search.dispatchEvent(new Event('input'))"
    page.ask(find.format("say nothing like that"))
    assert page.ask(SHOWN) == 0 and page.ask("!nothing.hidden")
    page.ask(find.format("3 DOGS"))
    assert page.ask(SHOWN) >= 1 and page.ask("nothing.hidden")


def test_twelve_pictures_are_shown_at_first_and_all_on_demand(page):
    assert page.ask(SHOWN) == 12
    assert page.ask("document.querySelector('#num-shown').textContent") == (
        "12 of 41 pictures shown, a sample of all 45"
    )
    page.ask("document.querySelector('#more').click()")
    assert page.ask(SHOWN) == page.ask("document.querySelectorAll('.card').length") > 30
    assert page.ask("document.querySelector('#more').hidden")


def test_boxes_can_be_hidden(page):
    display = "getComputedStyle(document.querySelector('.card:not([hidden]) .view g')).display"
    assert page.ask(display) == "inline"
    page.ask("document.querySelector('#marks').click()")
    assert page.ask(display) == "none"


def test_the_filter_of_errors_shows_cards_with_place_and_message(page):
    page.ask("document.querySelector('[data-kind=with-errors]').click()")
    assert page.ask(SHOWN) == 5
    texts = page.ask("[...document.querySelectorAll('.card:not([hidden])')].map((card) => card.textContent).join('|')")
    cards = texts.split("|")
    assert all("/a.jpg" in card for card in cards) and sum("gone" in card and "fetch" in card for card in cards) == 3


def test_no_table_and_no_filter_is_cut(page):
    cut = (
        "[...document.querySelectorAll('.scroll, .filters')].filter((one) => one.scrollWidth > one.clientWidth).length"
    )
    assert page.ask(cut) == 0


def test_the_keyboard_alone_reaches_the_filters_and_uses_them(page):
    page.press("Tab")
    assert page.ask("document.activeElement.className") == "skip"
    for _ in range(30):
        page.press("Tab")
        if page.ask("document.activeElement.dataset.kind") == "random":
            break
    page.press("Enter")
    assert page.ask(PRESSED) == "random"


def test_a_row_in_focus_lights_its_boxes(page):
    page.ask("document.querySelector('.card:not([hidden]) [data-mark]').focus()")
    assert page.ask("document.querySelectorAll('.view.chosen g.lit').length") == 1


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_light_or_dark_as_the_system_is(dark, browser, report):
    browser.open(report, 1280, dark=dark)
    paper = browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (paper < 60) == dark
