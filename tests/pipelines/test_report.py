"""``moondream-beam report``: the page as a file, and as a browser shows it."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from chromium import chromium
from outputs import HOSTILE, draw_row, publish, row_of, some_of_each
from PIL import Image

from moondream_beam.models.tasks import Box
from moondream_beam.pipelines import report
from moondream_beam.transforms.card import write_record

TEN_MEGABYTES = 10_000_000
needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")


@pytest.fixture
def page(tmp_path, command):
    """Writes the page of these rows: its path."""

    def write(*rows, **record):
        out = publish(tmp_path / "out", *rows)
        if record:
            plain = {"run": "one", "model": "echo", "revision": "1", "balanced": True, "wall_seconds": 2.0}
            counts = {"pictures": 4, "pending": 15, "done": 0, "annotations": 13, "failures": 2}
            write_record(str(out), "one", {**plain, "counts": counts, **record})
        status, said, complained = command("report", out)
        assert (status, said, complained) == (0, f"{out}/report.html\n", "")
        return out / "report.html"

    return write


def hostile_rows(folder):
    rows = [
        draw_row(folder, f"{index}.png", id=f"h{index}", caption=text, prompt=text, finish_reason="length")
        for index, text in enumerate(HOSTILE)
    ]
    bad = [row for row in some_of_each(folder) if not hasattr(row, "caption")]
    told = [row._replace(message=text, error="<b>E</b>", prompt=text) for row, text in zip(bad, HOSTILE, strict=False)]
    return [*rows, *told, row_of(folder / "no.png", "<i>name</i>.png")]


def test_figures_stand_on_the_page(page, tmp_path):
    text = page(*some_of_each(tmp_path), sampling={"temperature": 0.2}).read_text()
    assert "15 rows = 13 in data/ + 2 in errors/, each of them once" in text
    tiles = dict(re.findall(r'"tile"><dt>([^<]+)</dt><dd>([\d,.]+)', text))
    assert tiles == {
        "pictures": "6", "answers": "13", "errors": "2", "suspicious": "1", "tokens out": "33",
        "pictures a second, last run": "2",
    }  # fmt: skip
    assert "UndecodableError" in text and "temperature" in text


def test_a_ledger_that_does_not_balance_is_told(page, tmp_path):
    text = page(*some_of_each(tmp_path), balanced=False).read_text()
    assert "The ledger of 1 run does not balance" in text


def test_what_comes_from_data_stays_text(page, tmp_path):
    text = page(*hostile_rows(tmp_path), options={"<script>": "<script>alert(1)</script>"}).read_text()
    assert text.count("<script>") == 1 and text.count("<style>") == 1
    assert "<img" not in text and "onerror=alert" in text and "<i>name" not in text and "<b>E" not in text
    assert "and 19,400 more characters" in text
    assert not re.search(r"(?:src|href)=\"(?!data:image/jpeg;base64,|#pictures)", text)


def test_the_page_stays_small_whatever_the_rows_hold(page, tmp_path):
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (500, 500, 3), dtype=np.uint8))
    noise.save(tmp_path / "noise.png")
    rows = []
    for picture in range(120):
        path = tmp_path / f"{picture}.png"
        path.symlink_to(tmp_path / "noise.png")
        for task in range(8):
            texts = {"caption": '"' * 5000, "objects": (Box(0.1, 0.2, 0.3, 0.4),) * 50, "prompt": f"{task}" + "<" * 900}
            rows.append(row_of(path, "n" * 250, **texts, width=500, height=500))
    assert page(*rows).stat().st_size < TEN_MEGABYTES


def test_a_page_that_cant_be_written_fails_no_run(tmp_path, capsys):
    publish(tmp_path / "out", *some_of_each(tmp_path))
    (tmp_path / "out" / "report.html").mkdir()
    report.try_report(str(tmp_path / "out"))
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("no report: ") and len(said.err.splitlines()) == 1


def test_annotate_writes_it_unless_told_not_to(pictures, tmp_path, command):
    words = ("annotate", pictures / "a.png", "--model", "tiny", "--caption", "short", "--output")
    _, said, _ = command(*words, tmp_path / "one")
    assert f"report   {tmp_path}/one/report.html" in said and (tmp_path / "one" / "report.html").exists()
    _, said, _ = command(*words, tmp_path / "two", "--no-report")
    assert "report" not in said and not (tmp_path / "two" / "report.html").exists()


@pytest.mark.slow
@needs_chromium
def test_a_browser_opens_it_without_a_complaint_and_without_the_network(page, tmp_path):
    path = page(*hostile_rows(tmp_path), *some_of_each(tmp_path / "more"), versions={"torch": "2"})
    with chromium() as tab:
        for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
            tab.open(path, width, dark=dark)
            assert tab.ask("document.documentElement.scrollWidth") == width, "nothing sticks out"
            assert "owned" not in tab.ask("document.title")
            assert tab.ask("getComputedStyle(document.body).backgroundColor") == (
                "rgb(18, 18, 20)" if dark else "rgb(247, 246, 243)"
            )
        assert tab.complaints == []
        assert {url.split(":")[0] for url in tab.requests} == {"file", "data"}
        shown = "[...document.querySelectorAll('.card:not([hidden]) dd bdi')].map(e => e.textContent)"
        # HTML knows no null.
        assert HOSTILE[0] in tab.ask(shown) and HOSTILE[2] in tab.ask(shown)


@pytest.mark.slow
@needs_chromium
def test_pictures_are_filtered_by_click_by_key_and_by_word(page, tmp_path):
    path = page(*some_of_each(tmp_path))
    with chromium() as tab:
        tab.open(path, 1280)
        visible = "[...document.querySelectorAll('.card:not([hidden]) header b')].map(e => e.textContent)"
        assert len(tab.ask(visible)) == 4
        tab.ask("document.querySelector('[data-kind=empty]').click()")
        assert tab.ask(visible) == ["gone.jpg"] and tab.ask("told.textContent") == "1 of 1 pictures"
        tab.ask("document.querySelector('[data-kind=all]').focus()")
        tab.press("Enter")
        assert len(tab.ask(visible)) == 4
        for _ in range(2):
            tab.press("Tab")
        tab.press(" ")
        assert tab.ask("document.activeElement.dataset.kind") == "empty" and tab.ask(visible) == ["gone.jpg"]
        tab.ask("document.querySelector('[data-kind=all]').click(); search.value = 'NAMED b'")
        tab.ask("search.dispatchEvent(new Event('input'))")
        assert tab.ask(visible) == ["b.png"]
        tab.ask("document.querySelector('.card:not([hidden]) [data-mark]').focus()")
        assert tab.ask("document.querySelectorAll('.view.chosen g.lit').length") == 1


@pytest.mark.slow
@needs_chromium
def test_boxes_lie_where_they_were_found(page, tmp_path):
    box = Box(0.25, 0.5, 0.75, 1.0)
    path = page(draw_row(tmp_path, "a.png", (400, 200), task="detect", prompt="cat", caption=None, objects=(box,)))
    with chromium() as tab:
        tab.open(path, 1280)
        place = "(e => { const b = e.getBBox(); return [b.x, b.y, b.width, b.height] })(document.querySelector('%s'))"
        assert tab.ask(place % ".view image") == [0, 0, 1000, 500]
        assert tab.ask(place % ".view .mark") == [250, 250, 500, 250]
