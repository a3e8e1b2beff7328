"""Annotators that cost money inside the job: the ledger balances whatever their API does."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.echo import Echo
from support.hosted import faults as wire
from support.hosted.clock import QuickClock
from support.hosted.faults import Fault, answer, changed, garbled
from support.hosted.fixtures import api, clock
from support.hosted.pictures import numbered

from moondream_beam import AnnotateToParquet, Fallback, Moondream, Query, ReadImages
from moondream_beam.models.hosted.fal.annotator import Fal
from moondream_beam.models.hosted.payment.journal import LocalStore
from moondream_beam.transforms.annotation.payment_journal import BeamStore, scope_of, with_journal
from moondream_beam.transforms.output.layout import Slice, payment_drafts_prefix, payments_folder
from moondream_beam.transforms.output.locks.lock import run_lock

__all__ = ["api", "clock"]

SHARE = 0.05
REFUSED = {
    "429": answer(429, "{}"),
    "429 wait": answer(429, "{}", Retry_After="5"),
    "500": answer(500, {"detail": "x"}),
    "502": answer(502, {"detail": "x"}),
    "502 nginx": answer(502, "<html>nginx</html>"),
    "503": answer(503, {"detail": "x"}),
    "504": answer(504, {"detail": "x"}, X_Fal_Request_Timeout_Type="user"),
}
LOST = (wire.reset, wire.reset_in_the_middle, wire.ends_early)
RESULTS = (
    lambda body: {**body, "outputs": body["outputs"][1:]},
    lambda body: {**body, "outputs": [*body["outputs"], "more"]},
    lambda body: {**body, "outputs": [None, *body["outputs"][1:]]},
    lambda body: {**body, "partial": True},
    lambda body: {},
)


def all_faults() -> list[Fault]:
    """Every kind of fault, at each place where it can be, with a share of its own."""
    kinds = [
        *(Fault(at, act) for at in ("submit", "status", "result") for act in REFUSED.values()),
        *(Fault(at, act, before=False) for at in ("submit", "status", "result") for act in LOST),
        *(Fault(at, garbled(lambda text: text[:9]), before=False) for at in ("submit", "status", "result")),
        Fault("submit", wire.reset),
        Fault("status", changed(lambda body: {"status": "FAILED"}), before=False),
        Fault("status", changed(lambda body: {"status": body["status"]}), before=False),
        *(Fault("result", changed(change), before=False) for change in RESULTS),
        Fault("status", answer(404, {"status": "NOT_FOUND"})),
        Fault("result", answer(404, {"status": "NOT_FOUND"})),
    ]
    for seed, fault in enumerate(kinds):
        fault.share = SHARE
        fault.seed = seed
        fault.__post_init__()
    return kinds


@pytest.mark.slow
@pytest.mark.parametrize("poison_is", ["index", "nothing"])
def test_a_thousand_pictures_balance_under_five_percent_of_every_fault(api, tmp_path, poison_is):
    folder, out, count = tmp_path / "photos", tmp_path / "out", 1000
    folder.mkdir()
    for number in range(count):
        numbered(number).save(folder / f"{number}.png")
    api.faults += all_faults()
    api.fal.poison, api.fal.poison_is = set(range(0, count, 20)), poison_is
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        fal = Fal(price=1.0, clock=QuickClock())
        _ = pipeline | ReadImages(str(folder)) | AnnotateToParquet([Query("What?")], fal, str(out), shard_size=300)

    data, errors = (
        pa.concat_tables(pq.read_table(path) for path in (out / kind).glob("*.parquet")).to_pylist()
        for kind in ("data", "errors")
    )
    assert len({row["filename"] for row in data + errors}) == len(data) + len(errors) == count
    assert all(row["caption"] == f"What? | {Path(row['filename']).stem}" for row in data), "each its own"
    kinds = Counter(row["error"] for row in errors)
    assert (
        set(kinds) <= {"LostAnswer", "Rejected", "EmptyAnswer", "Unavailable", "MismatchedAnswer"}
        and len(data) > count / 4
    )
    told = {int(Path(row["filename"]).stem) for row in errors if row["error"] == "Rejected"}
    assert told <= api.fal.poison
    assert sum(row["hosted"]["units"] for row in data + errors) <= api.fal.units + 1e-6
    assert all(fault.hits for fault in api.faults), "every kind of fault has struck"
    assert not (out / "_paid").exists()


def test_a_store_on_any_file_system_keeps_small_files(tmp_path):
    store = pickle.loads(pickle.dumps(BeamStore(str(tmp_path / "a" / "b"))))
    assert list(store.names()) == [] and store.read("x.json") is None
    store.write("x.json", b"1")
    store.write("x.json", b"2")
    assert (list(store.names()), store.read("x.json")) == (["x.json"], b"2")
    store.remove("x.json")
    store.remove("x.json")
    assert list(store.names()) == []


def test_a_journal_is_told_which_slice_a_run_is_of():
    assert scope_of("20261128", 7) == "20261128/7"
    assert scope_of(Slice(3, 16).run_name("20261128"), 7) == "20261128-3of16/7/3/16"


def test_the_journal_lies_beside_the_output_of_who_costs_money(tmp_path):
    echo = Echo()
    assert with_journal(echo, str(tmp_path), "one") is echo
    store = LocalStore(payments_folder(str(tmp_path)), payment_drafts_prefix(str(tmp_path), "one"))
    assert with_journal(Fal(), str(tmp_path), "one")._store == store
    behind = with_journal(Fallback(Moondream("tiny"), Fal()), str(tmp_path), "one")
    assert behind.api._store == store


DIES_WHILE_WRITING = """
import os, sys
from moondream_beam.models.hosted.payment.journal import LocalStore
os.fsync = lambda file: os._exit(9)
LocalStore(*sys.argv[1:]).write("x.json", b"1")
"""


def test_what_a_crash_left_of_a_journal_is_removed_by_the_next_run(tmp_path):
    store = with_journal(Fal(), str(tmp_path), "one")._store
    assert subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, store.folder, store.drafts]).returncode == 9
    assert [path.name for path in tmp_path.rglob("*draft*")] == ["one.draft-x.json.draft"]
    with run_lock(str(tmp_path), "two"):
        assert not list(tmp_path.rglob("*draft*"))
        store.write("x.json", b"2")
    assert store.read("x.json") == b"2"
