"""Keep the journal of paid jobs in the output folder, so that a run after a crash does not pay for them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...models.hosted.annotator import JournaledAnnotator
from ...models.hosted.http.errors import AccountError
from ...models.hosted.payment.journal import LocalStore, Store
from ...models.tasks import Annotator, Outcome, Request, Size, Task, supports_reasoning
from ..core.errors import RunStopped
from ..core.records import Row
from ..io.object_stores.file_systems import FileSystems
from ..output.files import glob_files, is_local, make_folder
from ..output.layout import Slice, payment_drafts_prefix, payments_folder


@dataclass(frozen=True)
class BeamStore:
    """``Store`` in a folder of an object store that Beam can open. Object stores write a whole object or nothing."""

    folder: str

    def names(self) -> Iterable[str]:
        """Return the names of the .json files in the folder, without the folder; empty if the folder is missing."""
        return [FileSystems.split(path)[1] for path in glob_files(FileSystems.join(self.folder, "*.json"))]

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None if the file does not exist."""
        path = FileSystems.join(self.folder, name)
        try:
            with FileSystems.open(path) as file:
                content: bytes = file.read()
        except Exception:  # Each store raises another class if a worker has removed the file in the meantime.
            if FileSystems.exists(path):
                raise
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Create the file or replace its content. Create the folder if needed."""
        make_folder(self.folder)
        with FileSystems.create(FileSystems.join(self.folder, name)) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Delete the file. Do nothing if the file does not exist."""
        path = FileSystems.join(self.folder, name)
        try:
            FileSystems.delete([path])
        except OSError:
            if FileSystems.exists(path):
                raise


@dataclass
class RecordingAnnotator:
    """An annotator that records the id of each outcome, so that ``clear_journal`` can delete their journal entries.

    ``scope`` is the journal scope of the shard; see ``scope_of``. ``num_requests`` is the number of requests that were
    pulled. The other members are those of the inner annotator.
    """

    annotator: Annotator
    scope: str
    ids: list[str] = field(default_factory=list)
    num_requests: int = 0

    @property
    def in_flight(self) -> int:
        """The number of requests that have been pulled and have no outcome yet."""
        return self.num_requests - len(self.ids)

    @property
    def name(self) -> str:
        """Return the inner annotator's name."""
        return self.annotator.name

    @property
    def revision(self) -> str:
        """Return the inner annotator's revision."""
        return self.annotator.revision

    @property
    def tasks(self) -> frozenset[type[Task]]:
        """Return the kinds of task that the inner annotator supports."""
        return self.annotator.tasks

    @property
    def supports_reasoning(self) -> bool:
        """Return whether the inner annotator supports a query with reasoning."""
        return supports_reasoning(self.annotator)

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return the inner annotator's answer."""
        return self.annotator.accepts_reduced(size, reduced)

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Yield the inner annotator's outcomes, and append the id of each to ``ids``."""
        counted = self._count(requests)
        if isinstance(self.annotator, JournaledAnnotator):
            outcomes = self.annotator.answer(counted, self.scope)
        else:
            outcomes = self.annotator.answer(counted)
        for outcome in outcomes:
            self.ids.append(outcome.id)
            yield outcome

    def _count(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self.num_requests += 1
            yield request

    def clear_journal(self) -> None:
        """Delete the journal entries of all recorded ids. Call this after the shard's rows are committed."""
        if isinstance(self.annotator, JournaledAnnotator):
            self.annotator.remove_from_journal(self.ids, self.scope)


def scope_of(run: str, shard: int) -> str:
    """Return the journal scope of a shard: ``run/shard``, or ``run/shard/number/of`` if the run is a slice."""
    part = Slice.from_run_name(run)
    return f"{run}/{shard}/{part.number}/{part.of}" if part else f"{run}/{shard}"


def stop_on_account_error(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield these rows.

    Raises:
        RunStopped: if the hosted API rejects the account, such as for a wrong key or an empty balance. The journal
            keeps the answers that are paid and not yet committed.
    """
    try:
        yield from rows
    except AccountError as error:
        raise RunStopped(
            f"stopped: {error}; paid answers are kept: correct this and run the same command again to resume"
        ) from error


def with_journal(annotator: Annotator, output: str, run: str) -> Annotator:
    """Return a copy of a hosted annotator that keeps its journal in ``output/_paid``; return others unchanged.

    On a local disk, drafts of journal files lie in ``output/_temporary`` under names that begin with the run's name.
    """
    if not isinstance(annotator, JournaledAnnotator):
        return annotator
    folder = payments_folder(output)
    # The next run deletes the drafts of dead runs, which it recognizes by the run's name.
    store: Store = LocalStore(folder, payment_drafts_prefix(output, run)) if is_local(output) else BeamStore(folder)
    journaled: Annotator = annotator.with_store(store)
    return journaled
