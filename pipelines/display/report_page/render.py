"""Render an output as one HTML page that loads nothing: no server, no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ....models.tiny import NOTE
from ....transforms.dataset import statistics
from ....transforms.dataset.error_groups import error_groups
from ....transforms.dataset.gallery import FAILED, GalleryRow, add_thumbnails, choose
from ....transforms.dataset.quality import QUALITY_FLAGS
from ....transforms.dataset.reader import Dataset
from ....transforms.images.prefetch import Fetch
from ....transforms.output.run_record import retried_answers, retried_errors
from .. import formatting

FOLDER = Path(__file__).parent
MAX_CHARTED_RUNS, MAX_LISTED_RUNS = 2, 20
# A larger share of requests without an answer makes the banner red.
MAX_WARNED_SHARE = 0.1
# Colours of boxes and points in style.css.
NUM_SHADES = 6
FILTERS = {
    "count": formatting.format_count,
    "share": formatting.format_percent,
    "milliseconds": formatting.format_milliseconds,
    "number": formatting.format_number,
    "dollars": formatting.format_usd,
    "moment": formatting.format_time,
    "place": formatting.format_coordinate,
    "option": formatting.format_option,
}


def render(dataset: Dataset, fetch: Fetch) -> str:
    """Return the HTML of the page. Text from rows, records and files is escaped.

    Args:
        fetch: reads the bytes of the pictures for the thumbnails.
    """
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(FILTERS)
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return environment.get_template("report.html").render(
        style=Markup(style),
        script=Markup(script),
        # Allow this script, this style and embedded pictures only. Markup from a row could then run or load nothing.
        policy=f"default-src 'none'; img-src data:; style-src {_csp_hash(style)}; script-src {_csp_hash(script)}",
        **_context(dataset, fetch),
    )


def _csp_hash(text: str) -> str:
    """Return the source expression that allows ``text`` in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _context(dataset: Dataset, fetch: Fetch) -> dict[str, Any]:
    """Return the variables of the template report.html."""
    dataset.materialize_flags()
    runs, records = statistics.run_rows(dataset), dataset.records()
    pictures = choose(dataset)
    add_thumbnails(pictures, fetch)
    totals = statistics.totals(dataset)
    return {
        "name": dataset.output.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1],
        "now": datetime.now(timezone.utc),
        "totals": totals,
        "state": _state(totals, records),
        "note": NOTE if _is_of_tiny(dataset) else "",
        "runs": _list_runs(runs, records),
        "charted": [statistics.timeline(dataset, run) for run in _runs_to_chart(runs)],
        "latest": records[-1] if records else None,
        "pace": _pictures_per_second(records),
        "phases": statistics.phases(dataset),
        "histograms": _histograms(dataset),
        "asked": statistics.task_statistics(dataset),
        "errors": error_groups(dataset),
        "num_failed": sum(bool(picture.failures) for picture in pictures),
        "has_marks": any(row["objects"] or row["points"] for picture in pictures for row in picture.rows),
        "bills": statistics.bills(dataset),
        "openings": statistics.common_openings(dataset),
        "flags": _flag_counts(dataset),
        "pictures": [_card(picture) for picture in pictures],
    }


def _state(totals: statistics.Totals, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``level`` and ``lines`` of the banner: "bad", "warn" or "good", and the most important line first."""
    off = sum(record["balanced"] is False for record in records)
    uncounted = sum(record["balanced"] is None for record in records)
    whole = totals.annotations + totals.failures
    failed = (
        f"{totals.failures:,} of {whole:,} requests have no answer: {formatting.format_percent(totals.failures, whole)}"
    )
    lines = [failed] if totals.failures else []
    if off:
        return _banner("bad", f"The ledger of {off} {'run' if off == 1 else 'runs'} does not balance", *lines)
    if totals.twice:
        return _banner("bad", f"{totals.twice:,} rows exist twice", *lines)
    if uncounted:
        return _banner(
            "bad", f"The files of {uncounted} {'run' if uncounted == 1 else 'runs'} could not be counted", *lines
        )
    if not whole:
        return _banner("warn", "There are no rows")
    level = "good" if not lines else "warn" if totals.failures <= MAX_WARNED_SHARE * whole else "bad"
    return _banner(level, *lines, "The ledger balances")


def _banner(level: str, *lines: str) -> dict[str, Any]:
    return {"level": level, "lines": lines}


def _is_of_tiny(dataset: Dataset) -> bool:
    ((rows,),) = dataset.tuples("SELECT count(*) FROM answers WHERE model = 'tiny'")
    return bool(rows)


def _flag_counts(dataset: Dataset) -> list[tuple[str, str, int]]:
    """Return name, meaning and number of answers of each quality flag."""
    counts = statistics.flag_counts(dataset)
    return [(flag.name, flag.meaning, counts[flag.name]) for flag in QUALITY_FLAGS]


def _runs_to_chart(runs: list[statistics.RunRows]) -> list[statistics.RunRows]:
    """Return the last MAX_CHARTED_RUNS runs of ``runs`` whose rows span a millisecond or more; of all if none does."""
    return ([run for run in runs if run.last_ms > run.first_ms] or runs)[-MAX_CHARTED_RUNS:]


def _pictures_per_second(records: list[dict[str, Any]]) -> float | None:
    """Return pictures a second, start-up included, of the last record with pictures; None if no run had pictures."""
    some = [record for record in records if record["counts"]["pictures"] and record["wall_seconds"]]
    return some[-1]["counts"]["pictures"] / some[-1]["wall_seconds"] if some else None


def _histograms(dataset: Dataset) -> list[tuple[str, str, statistics.Histogram]]:
    """Return title, unit and histogram of each quantity that the rows have."""
    drawn = [
        ("Latency", "ms", statistics.histogram(dataset, "timings.total_ms")),
        ("Tokens out", "tokens", statistics.histogram(dataset, "output_tokens")),
        ("Length of texts", "characters", statistics.histogram(dataset, "length(caption)", "caption IS NOT NULL")),
    ]
    return [(title, unit, histogram) for title, unit, histogram in drawn if histogram is not None]


def _list_runs(runs: list[statistics.RunRows], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last MAX_LISTED_RUNS runs by name, the latest first. The name begins with the start time.

    Each has the keys ``run`` (name), ``record`` and ``rows`` (each None if there is none), ``retried`` and
    ``changed``: the numbers of its errors and of its answers that a later run asked again.
    """
    record_of = {record["run"]: record for record in records}
    rows_of = {run.run: run for run in runs}
    listed = []
    for name in sorted(record_of.keys() | rows_of.keys(), reverse=True)[:MAX_LISTED_RUNS]:
        record, rows = record_of.get(name), rows_of.get(name)
        retried = retried_errors(record, rows.failures if rows else 0)
        changed = retried_answers(record, rows.annotations if rows else 0)
        listed.append({"run": name, "record": record, "rows": rows, "retried": retried, "changed": changed})
    return listed


def _card(picture: GalleryRow) -> dict[str, Any]:
    """Return the variables of the macro ``picture``. In its drawing the longer side is 1000 units."""
    unit = 1000 / max(picture.width, picture.height, 1)
    rows = [_card_row(row) for row in picture.rows]
    marked = [row for row in rows if row["boxes"] or row["points"]]
    for index, row in enumerate(marked):
        row["shade"] = index % NUM_SHADES
    return {
        "shown": picture,
        "rows": rows,
        "failures": _faults(picture),
        "width": max(1, round(picture.width * unit)),
        "height": max(1, round(picture.height * unit)),
        "source": "" if picture.thumbnail is None else _data_uri(picture.thumbnail),
        "kinds": " ".join(kind.replace(" ", "-") for kind in _filters_of(picture)),
    }


def _filters_of(picture: GalleryRow) -> list[str]:
    """Return the filters that show the picture: those that it was chosen for, and every flag of its rows."""
    failed = [FAILED] if picture.failures else []
    flags = (kind for row in picture.rows for kind in row["flags"])
    return list(dict.fromkeys([*picture.selected_for, *failed, *flags]))


def _faults(picture: GalleryRow) -> list[dict[str, Any]]:
    """Return the failures of a picture by message and stage, with the tasks that each took."""
    faults: dict[tuple[str, str], list[str]] = {}
    for row in picture.failures:
        faults.setdefault((row["message"], row["stage"]), []).append(f"{row['task']} {row['prompt']}".strip())
    return [{"message": message, "stage": stage, "asked": asked} for (message, stage), asked in faults.items()]


def _card_row(row: dict[str, Any]) -> dict[str, Any]:
    text = row["caption"]
    return {
        **row,
        "text": None if text is None else text[: formatting.TEXT_CHARACTERS],
        "more_text": max(0, len(text or "") - formatting.TEXT_CHARACTERS),
        "boxes": formatting.drawn_places(row["objects"]),
        "points": formatting.drawn_places(row["points"]),
        "places": len(row["objects"] if row["objects"] is not None else row["points"] or ()),
        "shade": None,
    }


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
