"""Report how far a worker is: to the run's progress files, its heartbeat and Beam's counters."""

from __future__ import annotations

from apache_beam.metrics.metric import Metrics

from ..core.summary import Summary
from .heartbeat import Heartbeat
from .progress import ProgressFiles

NAMESPACE = "moondream_beam"
COUNTERS = ("annotations", "failures", "output_tokens")


class ProgressReporter:
    """Reports how far a worker is with its shard: to the run's progress files, the heartbeat and Beam's counters."""

    def __init__(self, output: str, run: str, heartbeat: Heartbeat) -> None:
        self._files, self._heartbeat = ProgressFiles(output, run), heartbeat
        self._shard_summary = Summary()

    def report(self, shard: int, summary: Summary, in_flight: int = 0, *, published: bool = False) -> bool:
        """Report the sums over a shard's rows so far.

        Args:
            in_flight: the requests of the shard that are being answered.
            published: these are the sums of the published shard. Beam's counters, in the namespace ``NAMESPACE``, grow
                by them.

        Returns:
            False if the progress files were not updated, because the last update was less than 0.5 seconds ago.
        """
        self._shard_summary = summary
        self._heartbeat.report(shard, summary.rows)
        if published:
            for name in COUNTERS:
                Metrics.counter(NAMESPACE, name).inc(getattr(summary, name))
        return self._files.report(shard, summary, in_flight, last=published)

    def run_summary(self) -> Summary:
        """Return the sums over the rows of all shards of the run.

        For an output in a bucket, which has no progress files of shards, these are the sums of the last report.
        """
        return self._files.read()[1] if self._files.folder else self._shard_summary
