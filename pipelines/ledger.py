"""The ledger of a run in words, and the exit status that it deserves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..transforms.card import record_path
from .progress import bill_in_words

OUT_OF_BALANCE = "DOES NOT BALANCE; run the same command again, and tell us"


def balance_sheet(record: Mapping[str, Any], output: str) -> str:
    """What went in, what came out, whether it balances, and where it lies."""
    counts, seconds = record["counts"], record["wall_seconds"]
    asked, pictures = counts["pending"], counts["pictures"]
    came_out = f"{counts['annotations']} in data/ + {counts['failures']} in errors/"
    lines = [f"ledger   {asked} asked = {came_out}: {'balances' if record['balanced'] else OUT_OF_BALANCE}"]
    if counts["retried"]:
        lines.append(f"again    {counts['retried']} of them had failed before")
    if counts["done"]:
        lines.append(f"before   {counts['done']} more were asked, and had their rows already")
    if pictures:
        lines.append(
            f"pace     {pictures} pictures in {seconds:.1f} s, {pictures / seconds:.1f} a second, start included"
        )
    totals = record.get("totals", {})
    if bill := bill_in_words(totals.get("billed_units", 0.0), totals.get("usd", 0.0)):
        lines.append(f"bill     {bill}")
    return "\n".join([*lines, f"output   {output}", f"record   {record_path(output, record['run'])}"])


def exit_status(record: Mapping[str, Any], max_failure_rate: float) -> int:
    """0 when all is well, 1 when the ledger does not balance or more failed than was allowed."""
    counts = record["counts"]
    failure_rate = counts["failures"] / max(1, counts["pending"])
    return 0 if record["balanced"] and failure_rate <= max_failure_rate else 1
