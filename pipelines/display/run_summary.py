"""The ledger of a run in words, and the exit status that it deserves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apache_beam.io.filesystems import FileSystems

from ...transforms.output.layout import record_path, run_parts
from .progress import bill_in_words

OUT_OF_BALANCE = "DOES NOT BALANCE"


def format_summary(record: Mapping[str, Any], output: str, max_failure_rate: float) -> str:
    """What went in, what came out, whether it balances, what to do about errors, and where it lies."""
    counts, seconds = record["counts"], record["wall_seconds"]
    pictures = counts["pictures"]
    lines = _ledger(counts["pending"], counts["annotations"], counts["failures"], record)
    if counts["failures"]:
        above = f", more than --max-failure-rate {max_failure_rate:g} allows" * _too_many(counts, max_failure_rate)
        why = f"each row in {FileSystems.join(output, 'errors')} says why, and --retry-errors asks again"
        lines.append(f"errors   {counts['failures']} of {counts['pending']}{above}; {why}")
    if counts["retried"]:
        lines.append(f"again    {counts['retried']} of them had failed before")
    if counts["done"]:
        lines.append(f"before   {counts['done']} more were asked, and had their rows already, in data/ or errors/")
    if pictures:
        lines.append(
            f"pace     {pictures} pictures in {seconds:.1f} s, {pictures / seconds:.1f} a second, start included"
        )
    totals = record.get("totals", {})
    if bill := bill_in_words(totals.get("billed_units", 0.0), totals.get("usd", 0.0)):
        lines.append(f"bill     {bill}")
    return "\n".join([*lines, f"output   {output}", f"record   {record_path(output, record['run'])}"])


def _ledger(asked: int, annotations: int, failures: int, record: Mapping[str, Any]) -> list[str]:
    """Asked, told by the workers, found in the files: one line if they are the same, else each of them and the cure."""
    found, told = record["published"], f"{annotations} in data/ + {failures} in errors/"
    if record["balanced"]:
        return [f"ledger   {asked} asked = {told}: balances"]
    lines = [f"ledger   {asked} asked, {annotations + failures} told by the workers: {told}"]
    if record["balanced"] is None:
        known = "" if asked == annotations + failures else f"; and what was told {OUT_OF_BALANCE}"
        return [*lines, f"files    COULD NOT BE COUNTED: {found['count_error']}{known}"]
    lines.append(
        f"files    {found['data']} in data/ + {found['errors']} in errors/, in {found['files']}: {OUT_OF_BALANCE}"
    )
    if found["data"] + found["errors"] > annotations + failures:
        lines.append(f"cure     look for copies among {run_parts(record['run'])} in data/ and errors/, and tell us")
    else:
        lines.append("cure     run the same command again: it does what is missing; and tell us")
    return lines


def exit_status(record: Mapping[str, Any], max_failure_rate: float) -> int:
    """0 when all is well, 1 when the ledger does not balance, could not be counted, or more failed than was allowed."""
    return 0 if record["balanced"] and not _too_many(record["counts"], max_failure_rate) else 1


def _too_many(counts: Mapping[str, int], max_failure_rate: float) -> bool:
    return counts["failures"] / max(1, counts["pending"]) > max_failure_rate
