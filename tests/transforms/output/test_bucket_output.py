"""The status of an output in a bucket can be read from any machine."""

from __future__ import annotations

import pytest
from apache_beam.io.filesystems import FileSystems
from support.data.small_outputs import some_of_each

from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.dataset.gallery import choose
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.monitoring.progress import ProgressFiles
from moondream_beam.transforms.monitoring.status import OutputStatus
from moondream_beam.transforms.output.dataset_card import write_card
from moondream_beam.transforms.output.locks.lock import active_runs, run_lock
from moondream_beam.transforms.output.writer import ShardWriter

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_status_and_rows_of_an_output_in_a_bucket(kind, bucket_of, tmp_path):
    out = f"{bucket_of(kind).root}/out"
    progress = ProgressFiles(out, "one")
    with run_lock(out, "one"):
        assert progress.read_plan() is None
        progress.record_plan(Count(pictures=9, pending=30))
        writer = ShardWriter(out, "one", 0)
        for row in some_of_each(tmp_path):
            writer.add(row)
        writer.publish()
        write_card(out)
        assert active_runs(out) == ["one"]
        (run,) = OutputStatus(out).poll()
        progress.remove()
    assert (run.state, run.annotations, run.failures, run.planned) == ("running", 13, 2, Count(9, 30))
    assert active_runs(out) == [] and progress.read_plan() is None
    assert FileSystems.match([f"{out}/_temporary/*"])[0].metadata_list == []
    with Dataset(out) as dataset:
        assert dataset.tuples("SELECT count(*), count(objects) FROM data") == [(13, 3)]
        answered, failed = {"a.jpg", "b.png", "sub/c.jpg", "gone.jpg"}, {"broken.jpg", "far.jpg"}
        assert {picture.filename for picture in choose(dataset)} == answered | failed
