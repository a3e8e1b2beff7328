"""``moondream-beam report``: one page with the contents of rows, in which no row can run or load anything."""

from __future__ import annotations

import argparse
import re
from html.parser import HTMLParser

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.outputs import HOSTILE, publish, record, troubled
from support.data.rows import annotation, failure

from moondream_beam import AnnotateToParquet, Caption, Moondream, ReadImages
from moondream_beam.pipelines.commands import report
from moondream_beam.pipelines.display.report_page.render import render
from moondream_beam.transforms.dataset import statistics
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.output.run_record import write_record

TEN_MEGABYTES = 10_000_000


class Page(HTMLParser):
    """Parse a page into its elements with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return troubled(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def source(output):
    with Dataset(str(output)) as dataset:
        return render(dataset, Fetcher())


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_command_writes_one_file_and_prints_its_path(tmp_path, command):
    publish(tmp_path, [annotation()])
    assert command("report", tmp_path) == (0, f"{tmp_path}/report.html\n", "")
    assert "A dog." in (tmp_path / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "errors", "report.html"}
    assert command("report", tmp_path)[0] == 0, "again, over the old one"


def test_a_run_writes_the_report_up_to_a_number_of_rows_and_else_prints_the_command(tmp_path, monkeypatch, capsys):
    publish(tmp_path, [annotation(id="1"), failure(id="2")])
    args = argparse.Namespace(output=str(tmp_path), report=True, allow_private_addresses=False)
    monkeypatch.setattr(report, "MAX_AUTO_REPORT_ROWS", 1)
    report.report_after_run(args)
    assert (
        capsys.readouterr().out == f"report   2 rows take minutes; to write it, run: moondream-beam report {tmp_path}\n"
    )
    assert not (tmp_path / "report.html").exists()
    monkeypatch.setattr(report, "MAX_AUTO_REPORT_ROWS", 2)
    report.report_after_run(args)
    assert (tmp_path / "report.html").exists()


def test_texts_of_rows_are_escaped(page):
    for text in HOSTILE[:5]:
        assert text in page.text
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "iframe", "object", "link", "base", "form", "h4"})
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "<b>photos</b>" in page.text, "nor do options become markup"


def test_the_page_refers_to_nothing_outside_itself(page, source):
    addresses = [
        attributes[name] or ""
        for _, attributes in page.elements
        for name in ("src", "href", "srcset", "data", "action", "style")
        if name in attributes
    ]
    assert addresses and all(re.match(r"#[a-z]+$|data:image/jpeg;base64,", address) for address in addresses)
    assert "url(" not in source and "@import" not in source


def test_the_policy_of_the_page_allows_its_own_script_style_and_pictures_only(page):
    (policy,) = [attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes]
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/=]{44}'; script-src 'sha256-[\w+/=]{44}'", policy
    )


def test_a_long_text_is_cut_with_a_note(page):
    assert "a" * 601 not in page.text and "and 4,400 more characters" in page.text


def test_boxes_and_points_are_drawn_over_their_picture(page):
    kinds = [attributes.get("class") for _, attributes in page.elements]
    assert kinds.count("mark") == kinds.count("halo") > 20
    assert kinds.count("spot") >= 5


def test_the_page_shows_the_statistics(page, output):
    with Dataset(str(output)) as dataset:
        totals, counts = statistics.totals(dataset), statistics.flag_counts(dataset)
    words = " ".join(page.text.split())
    assert f"The ledger balances {totals.annotations + totals.failures} rows" in words
    assert f"{totals.annotations} in data/ + {totals.failures} in errors/" in words
    for kind, count in counts.items():
        assert f"{kind.capitalize()}{count}" in words
    assert f"cost, estimated{totals.usd:.2f}" in words.replace("$", "")
    assert "UndecodableError" in words and "11.2" in words, "45 pictures in 4 seconds"


def test_a_missing_picture_has_a_reason(page):
    assert "the picture can't be had from its place any more" in page.text and "no picture" in page.text


def banner_of(folder):
    with Dataset(str(folder)) as dataset:
        found = Page(render(dataset, Fetcher()))
    (level,) = [
        words.split()[1]
        for _, attributes in found.elements
        if (words := attributes.get("class") or "")[:7] == "ledger "
    ]
    return level, found


@pytest.mark.parametrize(("errors", "level"), [(0, "good"), (1, "warn"), (3, "bad"), (18, "bad")])
def test_the_page_opens_in_the_colour_of_the_state(tmp_path, errors, level):
    rows = [annotation(id=str(number)) for number in range(20 - errors)]
    publish(tmp_path, rows + [failure(id=f"f{number}", key=f"f{number}") for number in range(errors)])
    found, page = banner_of(tmp_path)
    words = " ".join(page.text.split())
    assert found == level and "The ledger balances 20 rows" in words
    assert (f"{errors} of 20 requests have no answer: {5 * errors} %" in words) == (errors > 0)


def test_errors_stand_above_the_pictures_by_message_and_broken_pictures_have_cards(page, output):
    ids = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert ids.index("errors") < ids.index("pictures")
    kinds = [attributes.get("data-kinds", "") for tag, attributes in page.elements if tag == "li"]
    assert sum("with-errors" in of_one.split() for of_one in kinds) == 5
    assert "With errors5" in page.text and "b1.jpg" in page.text


def test_a_page_without_errors_has_neither_their_section_nor_their_filter(tmp_path):
    publish(tmp_path, [annotation()])
    _, page = banner_of(tmp_path)
    assert "errors" not in [attributes.get("id") for _, attributes in page.elements]
    assert "with-errors" not in [attributes.get("data-kind") for _, attributes in page.elements]


def test_answers_of_tiny_are_told_to_be_about_flat_shapes(tmp_path):
    publish(tmp_path, [annotation(model="tiny")])
    assert "flat coloured shapes only" in banner_of(tmp_path)[1].text


def test_the_page_tells_that_its_pictures_are_a_sample(page, output):
    assert "A sample of 41 of the 45 pictures" in " ".join(page.text.split())


def test_the_page_names_a_ledger_that_does_not_balance(tmp_path):
    publish(tmp_path, [annotation()])
    record(tmp_path, "one", balanced=False, pending=2, annotations=1)
    with Dataset(str(tmp_path)) as dataset:
        assert "The ledger of 1 run does not balance" in Page(render(dataset, Fetcher())).text


def test_the_page_tells_what_the_latest_run_left_out_of_its_input(tmp_path):
    publish(tmp_path, [annotation()])
    written = record(tmp_path, "one", pending=1, annotations=1)
    written["skipped"] = {"files ending in .<b>": {"count": 1200, "example": "<i>.txt"}}
    write_record(str(tmp_path), "one", written)
    with Dataset(str(tmp_path)) as dataset:
        words = " ".join(Page(render(dataset, Fetcher())).text.split())
    assert "Left out of the input of the latest run files ending in .<b>" in words
    assert "1,200, such as <i>.txt" in words


def test_a_run_whose_errors_were_retried_still_balances(tmp_path):
    publish(tmp_path, [annotation(id="1", run="one"), failure(id="2", run="one")])
    publish(tmp_path, [annotation(id="3", run="two")])
    record(tmp_path, "one", pending=4, annotations=1, failures=3)
    record(tmp_path, "two", pending=1, annotations=1)
    with Dataset(str(tmp_path)) as dataset:
        words = " ".join(Page(render(dataset, Fetcher())).text.split())
    assert "balances, 2 errors retried since" in words and words.count("retried since") == 1


def test_a_run_of_which_answers_were_asked_again_still_balances(tmp_path):
    publish(tmp_path, [annotation(id="1", run="one")])
    record(tmp_path, "one", pending=3, annotations=3)
    with Dataset(str(tmp_path)) as dataset:
        words = " ".join(Page(render(dataset, Fetcher())).text.split())
    assert "balances, 2 answers asked again since" in words


def test_a_page_stays_below_ten_megabytes_whatever_rows_hold(tmp_path):
    Image.effect_noise((900, 900), 200).convert("RGB").save(tmp_path / "noise.png")
    rows = [
        annotation(
            id=f"{index}-{task}",
            key=f"k{index:03}",
            uri=str(tmp_path / "noise.png"),
            filename="🏝" * 3000,
            prompt=f"{task}" + "<" * 9000,
            caption=("&" * 20_000),
            finish_reason="length",
        )
        for index in range(90)
        for task in range(3)
    ]
    publish(tmp_path, rows)
    with Dataset(str(tmp_path)) as dataset:
        assert len(render(dataset, Fetcher()).encode()) < TEN_MEGABYTES


@pytest.mark.parametrize(
    "words, cure",
    [(("report", "nowhere"), "no rows there"), (("report", "nowhere", "--cation"), "unknown option --cation")],
)
def test_a_bad_argument_is_one_line_of_error(words, cure, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, stdout, stderr = command(*words)
    assert (status, stdout) == (2, "") and cure in stderr and stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_unreadable_rows_are_one_line_of_error(command, tmp_path):
    publish(tmp_path, [annotation()])
    next(tmp_path.glob("data/*.parquet")).write_bytes(b"PAR1 no more PAR1")
    status, _, stderr = command("report", tmp_path)
    assert status == 2 and "can't be read" in stderr and stderr.count("\n") == 1


def test_annotate_ends_with_a_report_without_no_report(pictures, tmp_path, command):
    words = ("annotate", pictures, "--model", "tiny", "--caption", "--max-failure-rate", "0.5", "--output")
    status, stdout, _ = command(*words, tmp_path / "out")
    assert status == 0 and stdout.splitlines()[-1] == f"report   {tmp_path}/out/report.html"
    assert "b.jpg" in (tmp_path / "out" / "report.html").read_text()
    status, stdout, _ = command(*words, tmp_path / "bare", "--no-report")
    assert status == 0 and "report" not in stdout and not (tmp_path / "bare" / "report.html").exists()


def test_an_output_of_a_pipeline_in_python_has_a_report_too(pictures, tmp_path, command):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | ReadImages(str(pictures)) | AnnotateToParquet([Caption("short")], Moondream("tiny"), str(tmp_path))
    assert command("report", tmp_path) == (0, f"{tmp_path}/report.html\n", "")
    assert "Options" not in Page((tmp_path / "report.html").read_text()).text


@pytest.mark.parametrize("edit", [lambda page: b"", lambda page: b"<html>of another tool", lambda page: page + b"note"])
def test_a_report_that_is_edited_or_of_another_program_is_kept(pictures, tmp_path, command, edit):
    words = ("annotate", pictures, "--model", "tiny", "--caption", "--max-failure-rate", "0.5", "--output", tmp_path)
    command(*words)
    page = tmp_path / "report.html"
    page.write_bytes(content := edit(page.read_bytes()))
    status, _, stderr = command("report", tmp_path)
    assert status == 2 and f"{page} was edited" in stderr and "rename that file" in stderr
    # A run has ended well, and says so.
    status, stdout, stderr = command(*words)
    assert status == 0 and "balances" in stdout
    (line,) = [line for line in stderr.splitlines() if line.startswith("report   failed: ")]
    assert f"moondream-beam report {tmp_path}" in line
    assert page.read_bytes() == content
    page.unlink()
    assert command("report", tmp_path)[0] == command("report", tmp_path)[0] == 0


def test_a_report_that_fails_does_not_fail_the_run(pictures, tmp_path, command):
    (tmp_path / "out" / "report.html" / "in the way").mkdir(parents=True)
    words = ("annotate", pictures, "--model", "tiny", "--caption", "--max-failure-rate", "0.5")
    status, stdout, stderr = command(*words, "--output", tmp_path / "out")
    assert status == 0 and "balances" in stdout
    (line,) = [line for line in stderr.splitlines() if line.startswith("report   failed: ")]
    assert line.endswith(f"; to try again, run: moondream-beam report {tmp_path}/out")
    assert "Traceback" not in stderr


def test_the_page_of_an_output_without_rows_says_so_in_each_section(tmp_path):
    publish(tmp_path, [annotation()])
    (part,) = (tmp_path / "data").glob("*.parquet")
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    with Dataset(str(tmp_path)) as dataset:
        page = Page(render(dataset, Fetcher()))
    for text in ("There are no rows", "There is no picture.", "No task was asked.", "No run has written rows."):
        assert text in page.text
    assert "Time by phase" not in page.text
