"""An annotator for drills: it logs what it is asked, and holds its process until a file exists."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.data.echo import Echo

from moondream_beam.models.tasks import Outcome, Request

PATIENCE = 400.0
# The program that runs a job with ``Held`` on a cluster.
DRIVER = Path(__file__).with_name("driver.py")


@dataclass(frozen=True)
class Held(Echo):
    """Answers as ``Echo`` does, and appends the id of each request to a file of the process in ``folder``.

    The GPUs that the process may see are in a file ``PID.gpus``. After ``hold_after`` answers of one call, the process
    writes a file ``PID.held`` and waits until there is a file ``go``. ``once``: only the first process that comes there
    waits.
    """

    folder: str = ""
    hold_after: int = 1 << 30
    once: bool = False

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        Path(self.folder, f"{os.getpid()}.gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        for number, outcome in enumerate(super().answer(self._logged(requests))):
            if number == self.hold_after:
                self._hold()
            yield outcome

    def _logged(self, requests: Iterable[Request]) -> Iterator[Request]:
        log = Path(self.folder, f"{os.getpid()}.asked")
        for request in requests:
            with log.open("a") as file:
                file.write(f"{request.id}\n")
            yield request

    def _hold(self) -> None:
        folder = Path(self.folder)
        if self.once:
            try:
                (folder / "first").mkdir()
            except FileExistsError:
                return
        (folder / f"{os.getpid()}.held").touch()
        end = time.monotonic() + PATIENCE
        while not (folder / "go").exists() and time.monotonic() < end:
            time.sleep(0.05)


def asked(folder: Path) -> list[str]:
    """Return the ids of all requests that were asked, in all processes."""
    return [id for log in folder.glob("*.asked") for id in log.read_text().split()]


def held(folder: Path) -> list[int]:
    """Return the ids of the processes that wait for the file ``go``, or did so."""
    return [int(path.stem) for path in folder.glob("*.held")]
