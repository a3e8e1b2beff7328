"""Make and parse every file name of an output.

    README.md, report.html
    data/part-RUN-SHARD[-NUMBER].parquet      answers
    errors/part-RUN-SHARD[-NUMBER].parquet    failures
    runs/RUN.json                             the record of a run that has ended
    _paid/                                    the journal of paid API jobs
    _temporary/                               files of runs and commands that have not ended

The name of each file in ``_temporary`` contains its run. The name of a run contains its slice, for example
``20260101T000000-89abcdef-3of16``. A run can therefore tell from the names alone which files it may delete. No file
there has an extension of Parquet or JSON, because readers that search all folders take such files for rows.
"""

from __future__ import annotations

import re
import time
import uuid
from datetime import datetime, timezone
from typing import NamedTuple

from ..io.object_stores.file_systems import FileSystems

DATA, ERRORS = "data", "errors"
CARD_NAME, REPORT_NAME = "README.md", "report.html"
EMPTY_PART = "part-empty.parquet"
ALL_PARTS = "part-*.parquet"
# The approximate number of pictures in a shard, and the seconds between two files of the answer journal of a shard.
SHARD_SIZE, CHECKPOINT_S = 1000, 60.0

_PART = re.compile(r"part-(.+)-\d{5,}(?:-\d+)?\.parquet", re.ASCII)
# Until 2026-11, drafts of parts ended in .parquet, and readers that search all folders took them for rows.
_TEMPORARY_PART = re.compile(
    r"part-(.+)-\d{5,}(?:-[0-9a-f]{32}\.(?:draft|parquet)|\.commit(?:-[0-9a-f]{32})?)", re.ASCII
)
_ANSWERS = re.compile(r"part-(.+)-(\d{5,})\.answers-[0-9a-f]{32}-\d+-(\d+)", re.ASCII)
_TEMPORARY_FILE = re.compile(
    r"(.+)\.(?:lock|progress|(?:plan|stop)(?:-[0-9a-f]{32})?|content-keys-[0-9a-f-]+|draft-[^/]+)", re.ASCII
)
_DRAFT_WITHOUT_RUN = re.compile(r"draft-(\d+)-[0-9a-f]{32}", re.ASCII)


class Slice(NamedTuple):
    """One of ``of`` parts of the input, which have about the same number of images. ``number`` counts from 0."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Return the slice that ``NUMBER/COUNT`` means: ``"3/16"`` is ``Slice(3, 16)``.

        Raises:
            ValueError: if the text has another form, or if NUMBER is not below COUNT.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if not match or not int(match[1]) < int(match[2]):
            raise ValueError(f"slice {text}: give NUMBER/COUNT, from 0/16 to 15/16 where there are 16")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_run_name(cls, run: str) -> Slice | None:
        """Return the slice in the name of a run, or None if the run is not one of several slices."""
        match = re.fullmatch(r".+-(\d+)of(\d+)", run, re.ASCII)
        return cls(int(match[1]), int(match[2])) if match else None

    def run_name(self, run: str) -> str:
        """Return the name of a run of this slice: ``run`` with ``-NUMBERofCOUNT`` at its end."""
        return f"{run}-{self.number}of{self.of}"


def new_run_name() -> str:
    """Return a name for a run: the present second, four hex digits for the time within it, and four random ones.

    Names are in the order in which the runs began, also within a second: reports and exports look for the latest run.
    Two runs that begin at one moment have different names, because runs of one name share the lock of the output.
    """
    now = datetime.now(timezone.utc)
    return f"{now:%Y%m%dT%H%M%S}-{(now.microsecond << 16) // 1_000_000:04x}{uuid.uuid4().hex[:4]}"


def started_at(run: str) -> datetime | None:
    """Return the time in the name of a run, such as ``20260101T000000-89abcdef``, or None if the name has no time."""
    match = re.match(r"\d{8}T\d{6}", run, re.ASCII)
    return datetime.strptime(match[0], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc) if match else None


def can_run_together(run: str, other: str) -> bool:
    """Return whether two runs may write to one output at the same time.

    They may if they are different slices of the same number of slices, because these have no image in common.
    """
    one, two = Slice.from_run_name(run), Slice.from_run_name(other)
    return bool(one and two and one.of == two.of and one.number != two.number)


# Published files.


def part_name(run: str, shard: int, number: int = 0) -> str:
    """Return the published name of a file of a shard. ``number`` counts the files of the shard from 0."""
    return f"part-{run}-{shard:05d}{f'-{number}' if number else ''}.parquet"


def run_parts(run: str) -> str:
    """Return a glob for the names of a run's parts. It also matches parts of runs whose names begin with ``run`` and a
    dash."""
    return f"part-{run}-*.parquet"


def shard_parts(run: str, shard: int) -> tuple[str, str]:
    """Return globs that match the names of all published files of one shard, and no other names."""
    return part_name(run, shard), f"part-{run}-{shard:05d}-*.parquet"


def run_of_part(name: str) -> str | None:
    """Return the run that published a file of this name, or None if no run gives files such a name."""
    match = _PART.fullmatch(name)
    return match[1] if match else None


def kind_of(path: str) -> str:
    """Return the name of the folder that a published file is in: ``data`` or ``errors``."""
    return FileSystems.split(FileSystems.split(path)[0].rstrip("/\\"))[1]


def record_path(output: str, run: str) -> str:
    """Return the path of the record that a run writes when it ends. ``run`` may be ``*`` for all runs."""
    return FileSystems.join(output, "runs", f"{run}.json")


def payments_folder(output: str) -> str:
    """Return the folder of the journal of paid API jobs."""
    return FileSystems.join(output, "_paid")


# Temporary files.


def temporary_folder(output: str) -> str:
    """Return the folder of unfinished files. It is on the same file system as the output, so that renames work."""
    return FileSystems.join(output, "_temporary")


def lock_path(output: str, run: str) -> str:
    """Return the path of the file that locks an output for a run. ``run`` may be ``*`` for all runs."""
    return _temporary(output, f"{run}.lock")


def run_of_lock(name: str) -> str | None:
    """Return the run whose lock has this file name, or None if the name is not that of a lock."""
    return name.removesuffix(".lock") if name.endswith(".lock") else None


def progress_folder(output: str, run: str) -> str:
    """Return the folder of a run's progress files, which only a local output has."""
    return _temporary(output, f"{run}.progress")


def plan_path(output: str, run: str) -> str:
    """Return the path of the file that says how much a run has to do, for an output in a bucket."""
    return _temporary(output, f"{run}.plan")


def stop_path(output: str, run: str) -> str:
    """Return the path of the file that asks the workers of a run to keep their answers and to end."""
    return _temporary(output, f"{run}.stop")


def content_keys_prefix(output: str, run: str) -> str:
    """Return how the paths of all files begin that hold content hashes of images: a number from 0 follows."""
    return _temporary(output, f"{run}.content-keys-")


def unpublished_part_path(output: str, run: str, shard: int) -> str:
    """Return a new path for a file of a shard that is being written.

    The name has no extension of Parquet. Otherwise readers that search all folders take the file for rows.
    """
    return _temporary(output, f"part-{run}-{shard:05d}-{uuid.uuid4().hex}.draft")


def commit_path(output: str, run: str, shard: int) -> str:
    """Return the path of a shard's commit file, which lists the files that will be published."""
    return _temporary(output, f"part-{run}-{shard:05d}.commit")


class AnswerFile(NamedTuple):
    """What the name of a file of the answer journal says: its run, its shard, and its number of rows."""

    run: str
    shard: int
    rows: int

    @classmethod
    def parse(cls, name: str) -> AnswerFile | None:
        """Return what the name says, or None if this is not the name of such a file."""
        match = _ANSWERS.fullmatch(name)
        return cls(match[1], int(match[2]), int(match[3])) if match else None


def answers_path(output: str, run: str, shard: int, attempt: str, number: int, rows: int) -> str:
    """Return the path of a file of the answer journal.

    Args:
        attempt: 32 hex digits, those of one attempt at the shard.
        number: counts the files of the attempt from 0.
        rows: the number of rows in the file.
    """
    return _temporary(output, f"part-{run}-{shard:05d}.answers-{attempt}-{number}-{rows}")


def answers_glob(output: str, run: str, shard: int) -> str:
    """Return a glob for the files of the answer journal of one shard."""
    return _temporary(output, f"part-{run}-{shard:05d}.answers-*")


def run_answers_glob(output: str, run: str) -> str:
    """Return a glob for the files of the answer journal of a run. It also matches those of runs whose names begin with
    ``run`` and a dash."""
    return _temporary(output, f"part-{run}-*.answers-*")


def all_answers_glob(output: str) -> str:
    """Return a glob for the files of the answer journal of all shards of all runs."""
    return _temporary(output, "part-*.answers-*")


def draft_path(output: str, run: str = "") -> str:
    """Return a new path where a run writes a file before it is renamed to its final name.

    Without ``run``, the name contains the current time instead. No lock then tells whether the writer is alive.
    """
    unique = uuid.uuid4().hex
    return _temporary(output, f"{run}.draft-{unique}" if run else f"draft-{time.time():.0f}-{unique}")


def payment_drafts_prefix(output: str, run: str) -> str:
    """Return how the paths begin where a run writes files of the payment journal before they are renamed."""
    return _temporary(output, f"{run}.draft-")


def run_of_temporary_file(name: str) -> str | None:
    """Return the run that a file or folder in ``_temporary`` belongs to, or None if the name contains no run."""
    match = _TEMPORARY_PART.fullmatch(name) or _TEMPORARY_FILE.fullmatch(name) or _ANSWERS.fullmatch(name)
    return match[1] if match else None


def draft_time(name: str) -> int | None:
    """Return when a draft of a command without a run was begun, in seconds since 1970.

    Returns:
        None if this is not the name of such a draft.
    """
    match = _DRAFT_WITHOUT_RUN.fullmatch(name)
    return int(match[1]) if match else None


def _temporary(output: str, name: str) -> str:
    return FileSystems.join(temporary_folder(output), name)
