"""Paced: an annotator without a model that gives a number of answers a second and notes what it was asked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from support.data.echo import TIMINGS, TOKENS, Echo, reply

from moondream_beam.models.tasks import Outcome, Request


@dataclass(frozen=True)
class Paced(Echo):
    """Answers requests in batches, each after the time that ``rate`` answers a second allow.

    When a batch is asked, each of its requests is a line in the file ``log``: the id and the seconds of the monotonic
    clock. Several processes may share the file.
    """

    log: str = ""
    rate: float = 100.0

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        arrivals, log = iter(requests), os.open(self.log, os.O_WRONLY | os.O_APPEND)
        while batch := list(islice(arrivals, self.batch_size)):
            now = time.monotonic()
            os.write(log, "".join(f"{request.id} {now}\n" for request in batch).encode())
            time.sleep(len(batch) / self.rate)
            for request in batch:
                yield Outcome(request.id, reply(request), "paced", TIMINGS, TOKENS)
        os.close(log)
