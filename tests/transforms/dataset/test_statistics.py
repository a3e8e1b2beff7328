"""Each statistic equals the result of counting the same rows in Python."""

from __future__ import annotations

from collections import Counter
from statistics import mean, median

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.outputs import publish, troubled
from support.data.rows import annotation, failure

from moondream_beam.models.hosted.payment.billing import Billing
from moondream_beam.transforms.dataset import statistics
from moondream_beam.transforms.dataset.reader import Dataset


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return troubled(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def dataset(output):
    with Dataset(str(output)) as opened:
        yield opened


def rows(output, kind):
    return pa.concat_tables(pq.read_table(path) for path in sorted(output.glob(f"{kind}/*.parquet"))).to_pylist()


@pytest.fixture(scope="module")
def data(output):
    return rows(output, "data")


@pytest.fixture(scope="module")
def errors(output):
    return rows(output, "errors")


def test_totals_are_sums_over_rows(dataset, data, errors):
    totals = statistics.totals(dataset)
    assert totals.annotations == len(data) == 88 and totals.failures == len(errors) == 5
    assert totals.pictures == len({row["key"] for row in data + errors}) == 45
    assert totals.twice == 0
    assert totals.input_tokens == sum(row["input_tokens"] for row in data)
    assert totals.output_tokens == sum(row["output_tokens"] for row in data)
    paid = [row["hosted"]["usd"] for row in data + errors if row["hosted"]]
    assert totals.usd == pytest.approx(sum(filter(None, paid))) and totals.usd > 0


def test_flagged_rows_count_once_in_totals_and_once_for_each_flag(dataset):
    counts = statistics.flag_counts(dataset)
    assert all(counts.values()), "each kind is there"
    assert max(counts.values()) <= statistics.totals(dataset).suspicious <= sum(counts.values())


def test_rows_of_an_id_that_occurs_twice_are_counted(tmp_path):
    publish(tmp_path, [annotation(id="a"), annotation(id="b")])
    publish(tmp_path, [annotation(id="a", run="two"), failure(id="b", run="two")])
    with Dataset(str(tmp_path)) as dataset:
        assert statistics.totals(dataset).twice == 2


def test_a_histogram_counts_every_value_in_its_bin(dataset, data):
    values = [row["timings"]["total_ms"] for row in data]
    spread = statistics.histogram(dataset, "timings.total_ms")
    assert spread.median == pytest.approx(median(values))
    bins = Counter(min(int(value // spread.width), statistics.NUM_BINS - 1) for value in values)
    assert spread.counts == tuple(bins[bin] for bin in range(statistics.NUM_BINS))
    assert sum(spread.counts) == len(values)


def test_a_histogram_counts_the_rows_that_meet_the_condition(dataset, data):
    spread = statistics.histogram(dataset, "length(caption)", "caption IS NOT NULL")
    assert sum(spread.counts) == sum(row["caption"] is not None for row in data)


def test_without_rows_there_is_no_histogram(dataset):
    assert statistics.histogram(dataset, "output_tokens", "task = 'none'") is None


@pytest.mark.parametrize("width, rounded", [(0, 1), (1, 1), (1.1, 2), (3, 5), (7, 10), (11, 20), (2000, 2000)])
def test_bin_widths_are_rounded_up(width, rounded):
    assert statistics.round_up(width) == rounded


def test_a_timeline_counts_every_row_of_a_run(dataset, data, errors):
    (run,) = statistics.run_rows(dataset)
    moments = statistics.timeline(dataset, run)
    assert (run.annotations, run.failures) == (len(data), len(errors))
    assert (sum(moments.annotations), sum(moments.failures)) == (len(data), len(errors))
    start = min(row["created_at"] for row in data)
    in_first = sum((row["created_at"] - start).total_seconds() < moments.seconds for row in data)
    assert moments.annotations[0] == in_first
    assert len(moments.annotations) == len(moments.failures) <= statistics.MAX_SPANS + 1


def test_phases_are_sums_of_milliseconds(dataset, data):
    for phase, spent in statistics.phases(dataset).items():
        assert spent == pytest.approx(sum(row["timings"][f"{phase}_ms"] for row in data))


def test_tasks_are_counted_with_their_failures(dataset, data, errors):
    asked = {(task.task, task.prompt): task for task in statistics.task_statistics(dataset)}
    assert {task: found.answers for task, found in asked.items() if found.answers} == Counter(
        (row["task"], row["prompt"]) for row in data
    )
    assert asked["query", "Why?"].failures == len(errors) and asked["query", "Why?"].answers == 0
    boxes = [len(row["objects"]) for row in data if row["task"] == "detect"]
    assert asked["detect", "dog"].mean_places == pytest.approx(mean(boxes))


def test_bills_are_sums_for_each_backend(dataset, data, errors):
    hosted = [row["hosted"] for row in data + errors if row["hosted"]]
    (bill,) = statistics.bills(dataset)
    assert (bill.backend, bill.rows, bill.units) == ("rules", len(hosted), sum(part["units"] for part in hosted))
    assert bill.usd == pytest.approx(statistics.totals(dataset).usd)
    assert bill.estimated == sum(part["estimated"] for part in hosted) > 0


def test_a_bill_without_a_price_has_no_dollars(tmp_path):
    publish(tmp_path, [annotation(hosted=Billing("j", 2.0, None, False, None))])
    with Dataset(str(tmp_path)) as dataset:
        assert statistics.bills(dataset) == [statistics.Bill("rules", 1, 2.0, None, 0)]
        assert statistics.totals(dataset).usd is None


def test_openings_are_the_first_three_words_of_texts(tmp_path):
    texts = ["A dog on sand", "a  dog on a lawn", "\nA dog on ice", "A cat.", "Yes", "Yes"]
    publish(tmp_path, [annotation(id=str(index), caption=text) for index, text in enumerate(texts)])
    with Dataset(str(tmp_path)) as dataset:
        assert statistics.common_openings(dataset) == [("a dog on", 3)]


def test_an_output_of_failures_only_has_statistics(tmp_path):
    publish(tmp_path, [failure()])
    with Dataset(str(tmp_path)) as dataset:
        assert statistics.totals(dataset)[:4] == (1, 0, 1, 0)
        assert statistics.phases(dataset) == dict.fromkeys(statistics.PHASES, 0)
        assert statistics.common_openings(dataset) == []
