"""The journal of an annotator that costs money, kept beside the output: a crash must not pay twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from ...models.hosted.annotator import JournaledAnnotator
from ...models.hosted.http.errors import AccountError
from ...models.hosted.journal import LocalStore, Store
from ...models.tasks import Annotator, Outcome, Request, Size, Task
from ..core.errors import RunStopped
from ..core.records import Row
from ..output.files import glob_files, is_local, make_folder
from ..output.layout import Slice, payment_drafts_prefix, payments_folder


@dataclass(frozen=True)
class BeamStore:
    """A folder on any of Beam's file systems, where an object is written whole or not at all."""

    folder: str

    def names(self) -> Iterable[str]:
        """The files that are there; none where there is no folder."""
        return [FileSystems.split(path)[1] for path in glob_files(FileSystems.join(self.folder, "*.json"))]

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it is gone."""
        path = FileSystems.join(self.folder, name)
        try:
            with FileSystems.open(path) as file:
                content: bytes = file.read()
        except Exception:  # Each store has its own for a file that another worker has just removed.
            if FileSystems.exists(path):
                raise
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""
        make_folder(self.folder)
        with FileSystems.create(FileSystems.join(self.folder, name)) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        path = FileSystems.join(self.folder, name)
        try:
            FileSystems.delete([path])
        except BeamIOError:
            if FileSystems.exists(path):
                raise


@dataclass
class RecordingAnnotator:
    """An annotator that notes the ids of what it has answered, in the ``scope`` that its journal knows it by."""

    annotator: Annotator
    scope: str
    ids: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The annotator's own, as the others."""
        return self.annotator.name

    @property
    def revision(self) -> str:
        """Which state of the model."""
        return self.annotator.revision

    @property
    def tasks(self) -> frozenset[type[Task]]:
        """The kinds of task that it can be asked."""
        return self.annotator.tasks

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Whether fewer pixels of a picture do."""
        return self.annotator.accepts_reduced(size, reduced)

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Answer a stream, and note what has been."""
        if isinstance(self.annotator, JournaledAnnotator):
            outcomes = self.annotator.answer(requests, self.scope)
        else:
            outcomes = self.annotator.answer(requests)
        for outcome in outcomes:
            self.ids.append(outcome.id)
            yield outcome

    def forget(self) -> None:
        """What was answered has published rows."""
        if isinstance(self.annotator, JournaledAnnotator):
            self.annotator.forget(self.ids, self.scope)


def scope_of(run: str, shard: int) -> str:
    """A shard of a run as the journal of paid jobs knows it."""
    its = Slice.from_run_name(run)
    return f"{run}/{shard}/{its.number}/{its.of}" if its else f"{run}/{shard}"


def stop_on_account_error(rows: Iterable[Row]) -> Iterator[Row]:
    """These rows, until the API refuses us altogether.

    Raises:
        StoppedError: it does. The journal keeps what was answered.
    """
    try:
        yield from rows
    except AccountError as error:
        raise RunStopped(f"stopped: {error}; what was answered is kept, and the same command goes on") from error


def with_journal(annotator: Annotator, output: str, run: str) -> Annotator:
    """An annotator that costs money, with its journal beside an output that a run writes to; any other as it is."""
    if not isinstance(annotator, JournaledAnnotator):
        return annotator
    folder = payments_folder(output)
    store: Store = LocalStore(folder, payment_drafts_prefix(output, run)) if is_local(output) else BeamStore(folder)
    kept: Annotator = annotator.beside(store)
    return kept
