"""The summary that ``annotate`` prints at the end of a run, and the exit status."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...transforms.core.records import FILES_ENDING, UNLISTED, WITHOUT_ENDING
from ...transforms.core.summary import counted
from ...transforms.io.object_stores.file_systems import FileSystems
from ...transforms.output.layout import CARD_NAME, record_path
from ...transforms.output.run_record import DEVICE_FAILURES
from .progress import format_bill

OUT_OF_BALANCE = "DOES NOT BALANCE"
# Characters of an error's message.
MAX_MESSAGE = 160
# Endings of files that are named in the line about the input.
MAX_ENDINGS = 8
ALLOW_PRIVATE = "--allow-private-addresses"


def format_summary(record: Mapping[str, Any], output: str, max_failure_rate: float) -> str:
    """Return the lines of the summary: input, ledger, errors, earlier rows, pace, bill, card, output and record.

    Args:
        record: the record of the run, as in ``runs/<run>.json``.
        max_failure_rate: the value of ``--max-failure-rate``.
    """
    counts, seconds = record["counts"], record["wall_seconds"]
    pictures = counts["pictures"]
    lines = [*_format_input(record), *_format_ledger(record, output)]
    lines += _format_errors(record, output, max_failure_rate)
    for worker, reason in record.get(DEVICE_FAILURES, {}).items():
        lines.append(f"device   {worker} FAILED: {reason}; other workers did its shards")
    if counts["retried"]:
        lines.append(f"retried  {counts['retried']} of these {_unit(record)} had failed in an earlier run")
    if corrected := counts.get("corrected", 0):
        lines.append(f"removed  {counted(corrected, 'rows')} from errors/, because their inputs were corrected")
    if changed := counts.get("changed", 0):
        lines.append(f"changed  {changed} of these {_unit(record)} had rows about pictures that have changed since")
    if unread := counts.get("unread", 0):
        kept = (
            "pictures with rows could not be read, so their rows were kept; to check them, run the same command again"
        )
        lines.append(f"unread   {unread} {kept}")
    if counts["done"]:
        # Several rows of a manifest may share a request.
        named = "rows are there" if record.get("options", {}).get("manifest") else "requests had their rows"
        lines.append(f"done     {counts['done']} more {named} from earlier runs, in data/ or errors/")
    if pictures:
        pace = f"{counted(pictures, 'pictures')} in {seconds:.1f} s, {pictures / seconds:.1f} a second"
        lines.append(f"pace     {pace}, including the start of the workers")
    totals = record.get("totals", {})
    if cut_off := totals.get("cut_off", 0):
        found = f"{counted(cut_off, 'answers')} (finish_reason is length)"
        lines.append(f"cut off  {found}: for whole texts, raise --max-tokens")
    if bill := format_bill(totals.get("billed_units", 0.0), totals.get("usd", 0.0)):
        lines.append(f"bill     {bill}")
    lines += _format_card(record.get("card"), output)
    return "\n".join([*lines, f"output   {output}", f"record   {record_path(output, record['run'])}"])


def _format_input(record: Mapping[str, Any]) -> list[str]:
    """Return one line with what the input holds: pictures or rows of manifests, and what is left out, by kind.

    With ``--slice``, that is the part of the slice. The parts of all slices add up to the input.
    """
    options = record.get("options", {})
    names = ["pictures"] * bool(options.get("inputs")) + ["rows of manifests"] * bool(options.get("manifest"))
    count = record["counts"].get("inputs", 0)
    found = f"{count} {' and '.join(names) or 'pictures'}"
    if count == 1:
        found = found.replace("pictures", "picture").replace("rows", "row")
    if options.get("slice"):
        found += f" in slice {options['slice']}"
    skipped = dict(record.get("skipped", {}))
    endings = {kind: skipped.pop(kind) for kind in list(skipped) if kind.startswith((FILES_ENDING, WITHOUT_ENDING))}
    found += _format_endings(endings)
    others = ", ".join(f"{each['count']} x {kind} (such as {each['example']})" for kind, each in skipped.items())
    line = f"input    {'; left out: '.join(filter(None, [found, others]))}"
    if _is_complete(record):
        return [line]
    return [line, "action   the input is NOT COMPLETE: make these folders readable, and run the same command again"]


def _format_endings(skipped: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the part of the line about files that are no pictures, by ending, the commonest first; "" if none."""
    if not skipped:
        return ""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1]["count"], item[0]))
    named = [f"{each['count']} {kind.removeprefix(FILES_ENDING).removeprefix('files ')}" for kind, each in ordered]
    more = len(named) - MAX_ENDINGS
    shown = ", ".join(named[:MAX_ENDINGS]) + f" and {more} more endings" * (more > 0)
    files = counted(sum(each["count"] for each in skipped.values()), "other files")
    return f"; {files}: {shown} (such as {ordered[0][1]['example']})"


def _format_ledger(record: Mapping[str, Any], output: str) -> list[str]:
    """Return the lines about the numbers of requests and rows.

    Args:
        record: the record of the run. Its ``balanced`` is True if the requests, the rows that the workers reported and
            the rows in the files are equal in number, False if not, and None if the files could not be counted.
        output: the output folder, for the messages.

    Returns:
        One line if ``balanced`` is True; else the counts of the workers, those of the files, and what to do.
    """
    counts, found, run = record["counts"], record["published"], record["run"]
    pending, reported = counts["pending"], counts["annotations"] + counts["failures"]
    split = f"{counts['annotations']} in data/ + {counts['failures']} in errors/"
    planned = counted(pending, "requests")
    if _unit(record) == "rows":
        planned = f"{counted(record['requests'], 'requests')} for {counted(pending, 'rows')}"
    if record["balanced"]:
        return [f"ledger   {planned} = {split}: balances"]
    lines = [f"ledger   {planned}, {counted(reported, 'rows')} reported by the workers: {split}"]
    if record["balanced"] is None:
        unequal = "" if pending == reported else f"; the report of the workers {OUT_OF_BALANCE}"
        lines.append(f"files    COULD NOT BE COUNTED: {found['count_error']}{unequal}")
        return [*lines, f"action   committed rows are kept; to count them, run: moondream-beam status {output}"]
    files = f"{found['data']} in data/ + {found['errors']} in errors/, in {counted(found['files'], 'files')}"
    lines.append(f"files    {files}: {OUT_OF_BALANCE}")
    if found["data"] + found["errors"] > min(pending, reported):
        names = f"part-{run}-* in data/ and errors/ of {output}"
        return [*lines, f"action   rows are there twice; look for copies of files among {names}, and delete them"]
    return [*lines, "action   rows are missing; run the same command again to process only what is missing"]


def _format_errors(record: Mapping[str, Any], output: str, max_failure_rate: float) -> list[str]:
    """Return the lines about failures of this run and of earlier ones: counts, the commonest messages, what to do."""
    counts, folder = record["counts"], FileSystems.join(output, "errors")
    before = counts.get("failed_before", 0)
    failed = counts["failures"] + before
    if not failed:
        return _format_other_errors(record.get("error_rows", 0), folder)
    answers = counts["annotations"] + counts["done"] - before
    found = f"{failed} in errors/ and {answers} in data/ in all"
    found += f", {before} of the errors from earlier runs" * bool(before)
    if (others := record.get("error_rows", 0) - failed) > 0:
        found += f"; {others} more in errors/ about other requests"
    above = ""
    if _too_many(counts, max_failure_rate):
        if _failure_rates(counts)[1] <= max_failure_rate:
            above = f"; this run asked for {counted(counts['pending'], 'rows')}, and {counts['failures']} failed"
        above += f", more than --max-failure-rate {max_failure_rate:g} allows"
    lines = [f"errors   {found}{above}; each row in {folder} gives its reason"]
    common = record.get("common_errors", [])
    for error in common:
        place, message = _split_place(error["message"])
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."
        lines.append(f"         {error['rows']} x {message}, such as {place or error['example']}")
    if (rows := record.get("counted_error_rows", 0)) > failed:
        lines.append(f"         (counted over all {counted(rows, 'rows')} in errors/, also those of other requests)")
    return [*lines, f"action   {_cure(record.get('retryable_errors', failed), max(rows, failed), common)}"]


def _split_place(message: str) -> tuple[str, str]:
    """Return the line of a manifest that a message begins with, such as ``list.csv#4``, or "", and the rest of it."""
    found = re.fullmatch(r"(\S+#[0-9]+): (.*)", message, re.DOTALL)
    return (found[1], found[2]) if found else ("", message)


def _format_other_errors(rows: int, folder: str) -> list[str]:
    """Return the lines about rows in errors/ if no request of this run has one; no line if there are none."""
    if not rows:
        return []
    found = (
        f"no request of this input; the {rows} in {folder} are about other requests"
        if rows > 1
        else (f"no request of this input; the one in {folder} is about another request")
    )
    cure = "if an input was corrected, --retry-errors removes the rows about its former state"
    return [f"errors   {found}", f"action   {cure}"]


def _cure(retryable: int, errors: int, common: Sequence[Mapping[str, Any]]) -> str:
    """Return what to do about errors, of which ``retryable`` may succeed without a change."""
    again = "run the same command with --retry-errors"
    # A corrected file alone is not enough: the next run skips requests that have a row in errors/.
    if any(ALLOW_PRIVATE in error["message"] for error in common):
        again += f" {ALLOW_PRIVATE}, if you trust these addresses"
    if not retryable:
        return f"correct what the messages name, then {again}; without a correction the errors stay the same"
    if retryable == errors:
        return f"these errors may be temporary: {again}"
    return (
        f"{retryable} of these errors may be temporary: {again}; for the others, first correct what the messages name"
    )


def _format_card(outcome: str | None, output: str) -> list[str]:
    """Return the line about a README.md that was edited or that is not ours, or no line."""
    path = FileSystems.join(output, CARD_NAME)
    if outcome == "edited":
        return [f"card     {path} was edited and kept; runs change only the description of its configs"]
    if outcome == "foreign":
        load = f'load_dataset("parquet", data_files="{FileSystems.join(output, "data", "*.parquet")}")'
        return [f"card     {path} is not from moondream-beam and was kept; to load the rows: {load}"]
    return []


def _unit(record: Mapping[str, Any]) -> str:
    """Return what ``pending`` counts: "requests", or "rows" if several rows of the input share a request."""
    pending = record["counts"]["pending"]
    return "requests" if record.get("requests", pending) == pending else "rows"


def exit_status(record: Mapping[str, Any], max_failure_rate: float) -> int:
    """Return 0 if ``balanced`` of the record is True and at most ``max_failure_rate`` of requests failed, else 1.

    A run whose files could not be counted, or whose input could not be listed in full, gives 1.
    """
    complete = record["balanced"] and _is_complete(record)
    return 0 if complete and not _too_many(record["counts"], max_failure_rate) else 1


def _is_complete(record: Mapping[str, Any]) -> bool:
    """Return whether all folders of the input could be listed."""
    return not any(kind.startswith(UNLISTED) for kind in record.get("skipped", {}))


def _too_many(counts: Mapping[str, int], max_failure_rate: float) -> bool:
    """Return whether too large a share failed, of what this run asked or of all that the input asks for."""
    return max(_failure_rates(counts)) > max_failure_rate


def _failure_rates(counts: Mapping[str, int]) -> tuple[float, float]:
    """Return the share that failed of what this run asked, and the share of all that the input asks for."""
    before, done = counts.get("failed_before", 0), counts.get("done", 0)
    return (
        counts["failures"] / max(1, counts["pending"]),
        (counts["failures"] + before) / max(1, counts["pending"] + done),
    )
