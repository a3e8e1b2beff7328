"""References to pictures, the rows of an output, and the job that makes rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from ...models.hosted.payment.billing import Billing
from ...models.tasks import DEFAULT_SAMPLING, Annotator, Box, Sampling, Spot, Task, task_digest
from ..io.containers.location import ImageCell, Member
from ..io.uris import display_uri
from .kept.values import kept_digest

if TYPE_CHECKING:
    import pyarrow as pa

Stage = Literal["list", "fetch", "decode", "answer"]

# How the ICC profile in an image file is used: not at all, or to convert the pixels to sRGB.
ColourProfiles = Literal["ignore", "srgb"]
IGNORE_PROFILES: ColourProfiles = "ignore"

KEY_DIGITS = 20
# What a fetcher takes: a URI, or a place inside an archive or a Parquet file.
Location = str | Member | ImageCell


# The kind of folders without which the input is not complete begins like this. In brackets follows the reason.
UNLISTED = "folders that could not be listed"
# The kinds of files in folders that are no pictures, by their ending.
FILES_ENDING, WITHOUT_ENDING = "files ending in ", "files without an ending"


class Skipped(NamedTuple):
    """Parts of the input that are left out: ``count`` things of a ``kind``, such as "files ending in .txt".

    ``is_input``: the things are pictures or rows of manifests, such as those beyond ``--limit``.
    """

    kind: str
    count: int = 1  # type: ignore[assignment]  # In place of the method of tuples.
    is_input: bool = False


class RowProblem(NamedTuple):
    """Why a row of the input can't be asked: the ``message``, and the row's own ``prompt`` as far as it is known."""

    message: str
    prompt: str


class WantedRow(NamedTuple):
    """A row that the output is to have: a task on a picture, for one row of the input.

    Attributes:
        columns: the values of the manifest's columns that the row keeps; empty if none are kept.
        number: how many rows with the same picture, task and ``columns`` come before this one.
        filename: the name of the picture in this row of the input.
        problem: why the task can't be asked; None if it can.
    """

    task: Task
    columns: tuple[Any, ...]
    number: int
    filename: str
    problem: RowProblem | None = None


class ImageRef(NamedTuple):
    """A picture to annotate. ``filename`` is its name relative to the listed folder, archive or manifest.

    Attributes:
        tasks: its own tasks; if empty, it gets the tasks of the job. A task is there several times if several rows of
            the input ask it.
        columns: for each of ``tasks``, the values of the manifest's columns that its row keeps; empty if none are kept.
        origins: for each of ``tasks``, ``number`` and ``filename`` of its ``WantedRow``; empty if they are 0 and
            ``filename``.
        problem: why the picture can't be read, if the input already showed that. Each task becomes a failure then.
        problems: for each of ``tasks``, why it can't be asked, or None if it can; empty if all can.
        skipped: None for a picture. Otherwise ``uri`` and ``filename`` are an example of parts of the input that are
            left out. Such a reference has no task and no row; the plan of the run counts it.
    """

    uri: str
    filename: str
    tasks: tuple[Task, ...] = ()
    columns: tuple[tuple[Any, ...], ...] = ()
    problem: str = ""
    # The place of an image inside an archive or a Parquet file, which ``uri`` names.
    inside: Member | ImageCell | None = None
    skipped: Skipped | None = None
    origins: tuple[tuple[int, str], ...] = ()
    problems: tuple[RowProblem | None, ...] = ()

    @property
    def has_nothing_to_ask(self) -> bool:
        """Whether the picture is not read, because each of its rows has a problem."""
        return bool(self.problem) or (bool(self.problems) and None not in self.problems)

    @property
    def location(self) -> Location:
        """What a fetcher is asked for."""
        return self.uri if self.inside is None else self.inside

    @property
    def byte_range(self) -> tuple[int | None, int | None]:
        """The columns ``byte_offset`` and ``byte_size``: those of a member of an archive, else None."""
        return (self.inside.offset, self.inside.size) if isinstance(self.inside, Member) else (None, None)

    @property
    def key(self) -> str:
        """The picture's id, the same in every run: the first 20 hex digits of the sha256 of its displayed URI."""
        return hashlib.sha256(encode(display_uri(self.uri))).hexdigest()[:KEY_DIGITS]

    def rows(self, tasks: Sequence[Task]) -> list[WantedRow]:
        """Return the rows that the output is to have. A picture without own tasks gets ``tasks``, those of the job."""
        own = self.tasks or tasks
        columns = self.columns or ((),) * len(own)
        origins = self.origins or ((0, self.filename),) * len(own)
        whole = [RowProblem(self.problem, task.prompt) if self.problem else None for task in own]
        problems = self.problems or whole
        return [
            WantedRow(task, kept, *origin, problem)
            for task, kept, origin, problem in zip(own, columns, origins, problems, strict=True)
        ]

    def with_rows(self, rows: Sequence[WantedRow]) -> ImageRef:
        """Return this reference with tasks, columns, numbers, names and problems of ``rows`` in place of its own."""
        plain = all(row.number == 0 and row.filename == self.filename for row in rows)
        return self._replace(
            tasks=tuple(row.task for row in rows),
            columns=tuple(row.columns for row in rows) if any(row.columns for row in rows) else (),
            origins=() if plain else tuple((row.number, row.filename) for row in rows),
            problem="",
            problems=tuple(row.problem for row in rows) if any(row.problem for row in rows) else (),
        )


def as_picture(ref: ImageRef) -> ImageRef | None:
    """Return a reference that makes rows, for steps without a plan, which would count what is skipped.

    A folder that could not be listed has a ``problem`` then, so that it becomes a failure.

    Returns:
        None for all else that is skipped.
    """
    if ref.skipped is None:
        return ref
    if not ref.skipped.kind.startswith(UNLISTED):
        return None
    return ref._replace(skipped=None, problem=f"{ref.filename}: {ref.skipped.kind}: make it readable, and run again")


class RowTimings(NamedTuple):
    """The milliseconds that a row took.

    Time spent on several rows at once (a fetch, a decoding, a forward pass) is split equally among them, so that sums
    over rows are right. ``wait_ms`` (in the queue) and ``total_ms`` are not split: they are wall-clock times.
    """

    fetch_ms: float = 0.0
    decode_ms: float = 0.0
    wait_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    total_ms: float = 0.0


class Annotation(NamedTuple):
    """A row of ``data/``: the answer to one task on one picture."""

    id: str
    key: str
    filename: str
    uri: str
    sha256: str
    width: int
    height: int
    task: str
    prompt: str
    caption: str | None
    objects: tuple[Box, ...] | None
    points: tuple[Spot, ...] | None
    finish_reason: str
    input_tokens: int
    output_tokens: int
    timings: RowTimings
    backend: str
    model: str
    revision: str
    run: str
    created_at: datetime
    hosted: Billing | None = None
    # Where the bytes of a member of a tar archive lie in the decompressed archive; None for all other pictures.
    byte_offset: int | None = None
    byte_size: int | None = None
    # What the model wrote before the answer to a query with reasoning; None for all other tasks.
    reasoning: str | None = None
    # The values of the manifest's columns that the row keeps, in the order of the schema's last columns.
    columns: tuple[Any, ...] = ()


class Failure(NamedTuple):
    """A row of ``errors/``: why one task on one picture has no answer."""

    id: str
    key: str
    filename: str
    uri: str
    task: str
    prompt: str
    stage: Stage
    error: str
    message: str
    retryable: bool
    attempts: int
    backend: str
    run: str
    created_at: datetime
    hosted: Billing | None = None
    byte_offset: int | None = None
    byte_size: int | None = None
    # As those of ``Annotation``.
    columns: tuple[Any, ...] = ()


Row = Annotation | Failure


class Job(NamedTuple):
    """What a run does with each picture: the tasks, unless the picture has its own, and the annotator.

    ``columns`` are the columns of a manifest that rows keep. ``colour_profiles`` is part of the ids of rows, because
    the answers depend on the pixels; ids with "ignore" are those of versions without this choice.
    """

    tasks: tuple[Task, ...]
    annotator: Annotator
    sampling: Sampling = DEFAULT_SAMPLING
    run: str = ""
    columns: tuple[pa.Field, ...] = ()
    colour_profiles: ColourProfiles = IGNORE_PROFILES

    def id_of(self, ref: ImageRef, task: Task, columns: Sequence[Any] = (), number: int = 0) -> str:
        """Return the ``id`` of a row, 64 hex digits.

        It is a sha256 of displayed URI, task, sampling, model and revision. Kept values that are not all null, a
        ``number`` above 0, and ``colour_profiles`` other than "ignore" are hashed too.
        """
        more = [f"kept:{kept}"] if columns and (kept := kept_digest(columns)) else []
        if number:
            more.append(f"number:{number}")
        return self._digest(display_uri(ref.uri), task, *more)

    def row_id(self, ref: ImageRef, row: WantedRow) -> str:
        """Return the ``id`` of one of the rows for a picture."""
        return self.id_of(ref, row.task, row.columns, row.number)

    def request_id(self, sha256: str, task: Task) -> str:
        """Return the id, in the form of ``id_of``, of a task on a picture with this sha256 of its bytes, at any URI.

        It seeds the sampling, and requests with the same id are answered once.
        """
        return self._digest(f"sha256:{sha256}", task)

    def id_suffix(self, task: Task) -> bytes:
        """Return what is hashed for an id after the displayed URI of the picture: the same for all pictures."""
        profiles = () if self.colour_profiles == IGNORE_PROFILES else (f"colour_profiles:{self.colour_profiles}",)
        parts = (task_digest(task), repr(self.sampling), self.annotator.name, self.annotator.revision, *profiles)
        return b"\0" + b"".join(encode(part) + b"\0" for part in parts)

    def _digest(self, picture: str, task: Task, *more: str) -> str:
        hashed = encode(picture) + self.id_suffix(task) + b"".join(encode(part) + b"\0" for part in more)
        return hashlib.sha256(hashed).hexdigest()


def encode(text: str) -> bytes:
    """Return a text as the bytes that are hashed for keys and ids. Bytes of names that are not UTF-8 are kept."""
    return text.encode("utf-8", "surrogateescape")


def check_colour_profiles(choice: str) -> ColourProfiles:
    """Return the choice.

    Raises:
        ValueError: if it is not one of ``ColourProfiles``.
    """
    for known in get_args(ColourProfiles):
        if choice == known:
            return known
    raise ValueError(f"colour profiles {choice!r}: give {' or '.join(get_args(ColourProfiles))}")
