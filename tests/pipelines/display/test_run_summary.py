"""The summary at the end of a run, and the exit status."""

from __future__ import annotations

import pytest

from moondream_beam.pipelines.display.run_summary import exit_status, format_summary
from moondream_beam.transforms.annotation.run_end import balances
from moondream_beam.transforms.core.records import UNLISTED
from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.monitoring.row_counts import RowCounts


def record(annotations: int, failures: int, done: int = 0, **published: object) -> dict:
    """Return the record of a run with ten requests. Its files hold the reported rows, except for ``published``."""
    counts = {
        "pictures": 5,
        "pending": 10,
        "done": done,
        "retried": 0,
        "annotations": annotations,
        "failures": failures,
        "inputs": 5,
    }
    reported = Summary(annotations, failures)
    found = RowCounts(annotations, failures, files=3)._replace(**published)
    balanced = balances(Count(pending=10), reported, found)
    return {"run": "r1", "wall_seconds": 2.0, "balanced": balanced, "counts": counts, "published": found._asdict()}


def test_a_run_that_balances_has_one_line_of_ledger():
    assert format_summary(record(10, 0, done=4), "out", 0.0).splitlines() == [
        "input    5 pictures",
        "ledger   10 requests = 10 in data/ + 0 in errors/: balances",
        "done     4 more requests had their rows from earlier runs, in data/ or errors/",
        "pace     5 pictures in 2.0 s, 2.5 a second, including the start of the workers",
        "output   out",
        "record   out/runs/r1.json",
    ]


def test_changed_and_unread_pictures_are_counted_in_lines_of_their_own():
    done = record(10, 0)
    done["counts"] |= {"changed": 4, "unread": 2}
    lines = format_summary(done, "out", 0.0).splitlines()
    assert [line for line in lines if line.startswith("changed  4 of these requests")]
    assert [line for line in lines if line.startswith("unread   2 pictures")]


def test_rows_removed_from_errors_are_counted_in_a_line_of_their_own():
    done = record(10, 0)
    done["counts"]["corrected"] = 3
    lines = format_summary(done, "out", 0.0).splitlines()
    assert "removed  3 rows from errors/, because their inputs were corrected" in lines


def test_rows_of_other_requests_in_errors_are_counted_beside_those_of_this_run():
    lines = format_summary({**record(8, 2), "error_rows": 5}, "out", 0.0).splitlines()
    assert [line for line in lines if line.startswith("errors ") and "; 3 more in errors/ about other requests" in line]
    assert "more in errors/" not in format_summary({**record(8, 2), "error_rows": 2}, "out", 0.0)


def test_a_message_about_a_line_of_a_manifest_gives_that_line_as_the_example():
    message = "list.csv#4: column question is empty: fill it in"
    common = [{"rows": 3, "message": message, "example": "a.jpg", "retryable": 0}]
    lines = format_summary({**record(7, 3), "common_errors": common}, "out", 0.0).splitlines()
    assert "         3 x column question is empty: fill it in, such as list.csv#4" in lines


def test_a_run_without_errors_tells_how_many_rows_of_others_stand_in_errors():
    lines = format_summary({**record(10, 0), "error_rows": 7}, "out", 0.0).splitlines()
    assert "errors   no request of this input; the 7 in out/errors are about other requests" in lines
    assert [line for line in lines if line.startswith("action ") and "--retry-errors" in line]


@pytest.mark.parametrize("outcome", [None, "written", "updated"])
def test_a_card_of_ours_has_no_line(outcome):
    assert "card" not in format_summary({**record(10, 0), "card": outcome}, "out", 0.0)


def test_a_card_of_somebody_else_or_an_edited_one_has_one_line():
    lines = format_summary({**record(10, 0), "card": "foreign"}, "out", 0.0).splitlines()
    assert lines[-3].startswith("card     out/README.md ") and 'data_files="out/data/*.parquet"' in lines[-3]
    lines = format_summary({**record(10, 0), "card": "edited"}, "out", 0.0).splitlines()
    assert lines[-3].startswith("card     out/README.md was edited")


def test_a_run_whose_input_could_not_be_listed_in_full_says_so_and_fails():
    skipped = {f"{UNLISTED} (Permission denied)": {"count": 1, "example": "shut"}}
    partial = {**record(10, 0), "skipped": skipped}
    first, second, *_ = format_summary(partial, "out", 0.0).splitlines()
    assert "1 x folders that could not be listed (Permission denied) (such as shut)" in first
    assert "NOT COMPLETE" in second and "run the same command again" in second
    assert exit_status(partial, 1.0) == 1
    assert exit_status({**partial, "skipped": {"files ending in .txt": {"count": 1, "example": "a"}}}, 0.0) == 0


@pytest.mark.parametrize(
    "options, line",
    [
        ({"inputs": ["photos"], "manifest": []}, "input    5 pictures"),
        ({"inputs": [], "manifest": ["a.csv"]}, "input    5 rows of manifests"),
        ({"inputs": ["photos"], "manifest": ["a.csv"]}, "input    5 pictures and rows of manifests"),
        ({"inputs": ["photos"], "slice": "3/16"}, "input    5 pictures in slice 3/16"),
    ],
)
def test_the_first_line_is_what_the_input_holds(options, line):
    assert format_summary({**record(10, 0), "options": options}, "out", 0.0).splitlines()[0] == line


def test_of_a_manifest_the_rows_are_told_that_are_there_already():
    lines = format_summary({**record(10, 0, done=4), "options": {"manifest": ["a.csv"]}}, "out", 0.0).splitlines()
    assert lines[2] == "done     4 more rows are there from earlier runs, in data/ or errors/"


def test_where_rows_share_requests_the_ledger_leads_from_requests_to_rows():
    lines = format_summary({**record(8, 2), "requests": 2}, "out", 0.0).splitlines()
    assert lines[1] == "ledger   2 requests for 10 rows = 8 in data/ + 2 in errors/: balances"
    assert lines[2].startswith("errors   2 in errors/ and 8 in data/ in all, more than --max-failure-rate 0 allows; ")


def test_what_is_left_out_of_the_input_is_told_with_an_example_of_each_kind():
    skipped = {"files ending in .json": {"count": 3, "example": "a.json"}, "pipes": {"count": 1, "example": "b.jpg"}}
    line = format_summary({**record(10, 0), "skipped": skipped}, "out", 0.0).splitlines()[0]
    assert line == ("input    5 pictures; 3 other files: 3 .json (such as a.json); left out: 1 x pipes (such as b.jpg)")


def test_files_passed_over_are_counted_by_ending_the_commonest_first():
    counts = {".pdf": 1, ".txt": 4, **{f".x{number}": 1 for number in range(8)}}
    skipped = {
        f"files ending in {ending}": {"count": count, "example": f"a{ending}"} for ending, count in counts.items()
    }
    skipped["files without an ending"] = {"count": 2, "example": "LICENSE"}
    line = format_summary({**record(10, 0), "skipped": skipped}, "out", 0.0).splitlines()[0]
    assert line.startswith("input    5 pictures; 15 other files: 4 .txt, 2 without an ending, 1 .pdf, 1 .x0, ")
    assert line.endswith(" and 3 more endings (such as a.txt)")


@pytest.mark.parametrize(
    "failures, allowed, line",
    [
        (1, 0.0, "errors   1 in errors/ and 9 in data/ in all, more than --max-failure-rate 0 allows; "),
        (3, 0.25, "errors   3 in errors/ and 7 in data/ in all, more than --max-failure-rate 0.25 allows; "),
        (1, 0.1, "errors   1 in errors/ and 9 in data/ in all; "),
    ],
)
def test_errors_are_counted_with_the_place_of_their_reasons_and_the_option_to_ask_again(failures, allowed, line):
    lines = format_summary(record(10 - failures, failures), "out", allowed).splitlines()
    assert lines[2] == line + "each row in out/errors gives its reason"
    assert lines[3] == "action   these errors may be temporary: run the same command with --retry-errors"


@pytest.mark.parametrize(
    "kept, lines",
    [
        (
            record(8, 1),
            [
                "ledger   10 requests, 9 rows reported by the workers: 8 in data/ + 1 in errors/",
                "files    8 in data/ + 1 in errors/, in 3 files: DOES NOT BALANCE",
                "action   rows are missing; run the same command again to process only what is missing",
            ],
        ),
        (
            record(9, 1, data=7),
            [
                "ledger   10 requests, 10 rows reported by the workers: 9 in data/ + 1 in errors/",
                "files    7 in data/ + 1 in errors/, in 3 files: DOES NOT BALANCE",
                "action   rows are missing; run the same command again to process only what is missing",
            ],
        ),
        (
            record(9, 1, data=12, files=4),
            [
                "ledger   10 requests, 10 rows reported by the workers: 9 in data/ + 1 in errors/",
                "files    12 in data/ + 1 in errors/, in 4 files: DOES NOT BALANCE",
                "action   rows are there twice; look for copies of files among part-r1-* in data/ and errors/ of out, "
                "and delete them",
            ],
        ),
        (
            record(9, 1, count_error="s3://b/out: it is tired"),
            [
                "ledger   10 requests, 10 rows reported by the workers: 9 in data/ + 1 in errors/",
                "files    COULD NOT BE COUNTED: s3://b/out: it is tired",
                "action   committed rows are kept; to count them, run: moondream-beam status out",
            ],
        ),
        (
            record(8, 1, count_error="no"),
            [
                "ledger   10 requests, 9 rows reported by the workers: 8 in data/ + 1 in errors/",
                "files    COULD NOT BE COUNTED: no; the report of the workers DOES NOT BALANCE",
            ],
        ),
    ],
)
def test_a_run_out_of_balance_shows_both_counts_and_the_action_and_fails(kept, lines):
    assert format_summary(kept, "out", 1.0).splitlines()[1 : len(lines) + 1] == lines
    assert exit_status(kept, max_failure_rate=1.0) == 1


@pytest.mark.parametrize("failures, allowed, status", [(0, 0.0, 0), (1, 0.0, 1), (1, 0.1, 0), (2, 0.1, 1)])
def test_the_exit_status_follows_the_failure_rate(failures, allowed, status):
    assert exit_status(record(10 - failures, failures), allowed) == status


def test_errors_of_earlier_runs_count_in_each_run():
    earlier = {**record(0, 0, done=112), "balanced": True}
    earlier["counts"] |= {"pending": 0, "failed_before": 16}
    lines = format_summary(earlier, "out", 0.0).splitlines()
    assert lines[2] == (
        "errors   16 in errors/ and 96 in data/ in all, 16 of the errors from earlier runs, "
        "more than --max-failure-rate 0 allows; each row in out/errors gives its reason"
    )
    assert (exit_status(earlier, 0.0), exit_status(earlier, 0.2)) == (1, 0)


def test_the_commonest_errors_stand_below_with_an_example():
    failed = {**record(2, 8), "retryable_errors": 0}
    failed["common_errors"] = [
        {"rows": 5, "message": "image file is truncated", "example": "cut.jpg", "retryable": False},
        {"rows": 3, "message": "x" * 500, "example": "b.jpg", "retryable": False},
    ]
    lines = format_summary(failed, "out", 0.0).splitlines()
    assert lines[2].endswith("gives its reason")
    assert lines[3] == "         5 x image file is truncated, such as cut.jpg"
    assert lines[4].startswith("         3 x xxx") and lines[4].endswith("..., such as b.jpg") and len(lines[4]) < 220


PRIVATE = "host h is in a private or reserved network: allow it with --allow-private-addresses"


@pytest.mark.parametrize(
    "retryable, message, cure",
    [
        (0, "image file is truncated", "correct what the messages name, then run the same command with --retry-errors"),
        (2, "HTTP 503", "these errors may be temporary: run the same command with --retry-errors"),
        (1, "HTTP 503", "1 of these errors may be temporary: run the same command with --retry-errors; for the others"),
        (0, PRIVATE, "then run the same command with --retry-errors --allow-private-addresses"),
    ],
)
def test_the_line_below_the_messages_is_what_to_do(retryable, message, cure):
    common = [{"rows": 2, "message": message, "example": "a.jpg", "retryable": retryable}]
    failed = {**record(8, 2), "retryable_errors": retryable, "error_rows": 2, "common_errors": common}
    line = format_summary(failed, "out", 0.0).splitlines()[4]
    assert line.startswith("action   ") and cure in line


def test_messages_that_are_counted_over_rows_of_other_requests_too_are_told_so():
    common = [{"rows": 7, "message": "HTTP 404", "example": "a.jpg", "retryable": 0}]
    failed = {**record(8, 2), "retryable_errors": 0, "counted_error_rows": 7, "common_errors": common}
    assert "over all 7 rows in errors/" in format_summary(failed, "out", 0.0)


def test_answers_that_end_at_a_limit_are_counted_in_a_line_of_their_own():
    lines = format_summary({**record(10, 0), "totals": {"cut_off": 3}}, "out", 0.0).splitlines()
    assert "cut off  3 answers (finish_reason is length): for whole texts, raise --max-tokens" in lines


def test_a_run_with_too_many_failures_of_its_own_is_told_by_its_own_numbers():
    lines = format_summary(record(0, 10, done=90), "out", 0.5).splitlines()
    (errors,) = [line for line in lines if line.startswith("errors ")]
    assert "this run asked for 10 rows, and 10 failed, more than --max-failure-rate 0.5 allows" in errors
