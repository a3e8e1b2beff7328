"""An output as one HTML page that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ....transforms.dataset import statistics
from ....transforms.dataset.gallery import TEXT_CHARACTERS, GalleryRow, add_thumbnails, choose
from ....transforms.dataset.quality import QUALITY_FLAGS
from ....transforms.dataset.reader import Dataset
from ....transforms.images.prefetch import Fetch
from ....transforms.output.run_record import retried_errors
from .. import formatting

FOLDER = Path(__file__).parent
RUNS_CHARTED, RUNS_LISTED = 2, 20
SHADES = 6
FILTERS = (
    formatting.count,
    formatting.share,
    formatting.milliseconds,
    formatting.number,
    formatting.dollars,
    formatting.moment,
    formatting.place,
    formatting.option,
)


def render(dataset: Dataset, fetch: Fetch) -> str:
    """The page. What comes from rows, records and files is escaped by the template engine."""
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update({filter.__name__: filter for filter in FILTERS})
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return environment.get_template("report.html").render(
        style=Markup(style),
        script=Markup(script),
        # The page may run this script, look like this and hold pictures of its own: no more, whatever is in it.
        policy=f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}",
        **_facts(dataset, fetch),
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _facts(dataset: Dataset, fetch: Fetch) -> dict[str, Any]:
    dataset.materialize_flags()
    runs, records = statistics.run_rows(dataset), dataset.records()
    pictures = choose(dataset)
    add_thumbnails(pictures, fetch)
    totals = statistics.totals(dataset)
    return {
        "name": dataset.output.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1],
        "now": datetime.now(timezone.utc),
        "totals": totals,
        "runs": _runs(runs, records),
        "charted": [statistics.timeline(dataset, run) for run in _longest(runs)],
        "latest": records[-1] if records else None,
        "pace": _pace(records),
        "phases": statistics.phases(dataset),
        "spreads": _spreads(dataset),
        "asked": statistics.task_statistics(dataset),
        "errors": statistics.error_groups(dataset),
        "bills": statistics.bills(dataset),
        "openings": statistics.common_openings(dataset),
        "suspicions": [(*kind[:2], count) for kind, count in _flag_counts(dataset)],
        "pictures": [_card(picture) for picture in pictures],
    }


def _flag_counts(dataset: Dataset) -> list[tuple[Any, int]]:
    counts = statistics.flag_counts(dataset)
    return [(suspicion, counts[suspicion.name]) for suspicion in QUALITY_FLAGS]


def _longest(runs: list[statistics.RunRows]) -> list[statistics.RunRows]:
    """The latest of the runs that took some time; the latest of all where none did."""
    some = [run for run in runs if run.last_ms > run.first_ms] or runs
    return some[-RUNS_CHARTED:]


def _pace(records: list[dict[str, Any]]) -> float | None:
    """Pictures a second of the latest run that had any, its start included."""
    some = [record for record in records if record["counts"]["pictures"] and record["wall_seconds"]]
    return some[-1]["counts"]["pictures"] / some[-1]["wall_seconds"] if some else None


def _spreads(dataset: Dataset) -> list[tuple[str, str, statistics.Histogram]]:
    told = [
        ("Latency", "ms", statistics.histogram(dataset, "timings.total_ms")),
        ("Tokens out", "tokens", statistics.histogram(dataset, "output_tokens")),
        ("Length of texts", "characters", statistics.histogram(dataset, "length(caption)", "caption IS NOT NULL")),
    ]
    return [(title, unit, spread) for title, unit, spread in told if spread is not None]


def _runs(runs: list[statistics.RunRows], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each run's record says, beside the rows of it that are there. The latest first."""
    told = {record["run"]: record for record in records}
    rows = {run.run: run for run in runs}
    names = sorted(told.keys() | rows.keys(), reverse=True)
    return [_run(name, told.get(name), rows.get(name)) for name in names[:RUNS_LISTED]]


def _run(name: str, record: dict[str, Any] | None, rows: statistics.RunRows | None) -> dict[str, Any]:
    again = retried_errors(record, rows.failures if rows else 0)
    return {"run": name, "record": record, "rows": rows, "again": again}


def _card(picture: GalleryRow) -> dict[str, Any]:
    """A picture as the template draws it: the longer side is 1000 units."""
    unit = 1000 / max(picture.width, picture.height, 1)
    rows = [_row(row) for row in picture.rows]
    marked = [row for row in rows if row["boxes"] or row["points"]]
    for index, row in enumerate(marked):
        row["shade"] = index % SHADES
    return {
        "shown": picture,
        "rows": rows,
        "width": max(1, round(picture.width * unit)),
        "height": max(1, round(picture.height * unit)),
        "source": "" if picture.thumbnail is None else _data_uri(picture.thumbnail),
        "kinds": " ".join(kind.replace(" ", "-") for kind in _kinds(picture)),
    }


def _kinds(picture: GalleryRow) -> list[str]:
    # Also of what it was not chosen for.
    return list(dict.fromkeys([*picture.selected_for, *(kind for row in picture.rows for kind in row["flags"])]))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    text = row["caption"]
    return {
        **row,
        "text": None if text is None else text[:TEXT_CHARACTERS],
        "more_text": max(0, len(text or "") - TEXT_CHARACTERS),
        "boxes": formatting.places(row["objects"]),
        "points": formatting.places(row["points"]),
        "places": len(row["objects"] if row["objects"] is not None else row["points"] or ()),
        "shade": None,
    }


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
