"""Ids in published files are packed in few bytes and unpacked again."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from support.running.beam_runs import collect

from moondream_beam.transforms.core.shuffle import hash_bucket
from moondream_beam.transforms.planning import completed as module
from moondream_beam.transforms.planning.completed import ID_BYTES, PackIds, short_id, split_completed


def name(index: int) -> str:
    return sha256(f"{index}".encode()).hexdigest()


def publish(out: Path, kind: str, indices: range, file: str = "part-one-00000.parquet") -> str:
    (out / kind).mkdir(parents=True, exist_ok=True)
    rows = [{"key": name(-1 - index)[:20], "id": name(index)} for index in indices]
    pq.write_table(pa.Table.from_pylist(rows), out / kind / file)
    return str(out / kind / file)


def packed(paths: list[str]) -> list[tuple[int, bytes]]:
    return collect(lambda pipeline: pipeline | beam.Create(paths) | beam.ParDo(PackIds()))


def test_ids_are_packed_by_the_hash_bucket_of_their_image(tmp_path: Path) -> None:
    packs = packed([publish(tmp_path, "data", range(3000)), publish(tmp_path, "errors", range(3000, 4000))])
    assert {(number, id) for number, pack in packs for ids in split_completed([pack]) for id in ids} == {
        (hash_bucket(name(-1 - index)), short_id(name(index))) for index in range(4000)
    }


def test_an_id_takes_few_bytes_in_a_pack(tmp_path: Path) -> None:
    packs = packed([publish(tmp_path, "data", range(200_000))])
    assert sum(len(pack) for _, pack in packs) < 200_000 * (ID_BYTES + 4)


def test_failures_are_packed_with_their_files(tmp_path: Path) -> None:
    data = publish(tmp_path, "data", range(10))
    first, second = (publish(tmp_path, "errors", range(8, 12), f"part-{run}-00000.parquet") for run in "ab")
    done, failed = split_completed(pack for _, pack in packed([data, first, second]))
    assert done == {short_id(name(index)) for index in range(10)}
    assert {id: sorted(files) for id, files in failed.items()} == {
        short_id(name(index)): [first, second] for index in range(8, 12)
    }


def test_a_worker_holds_at_most_so_many_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_IDS", 20)
    step = PackIds()
    step.setup()
    step.start_bundle()
    packs = [list(step.process(publish(tmp_path, "data", range(9 * turn, 9 * turn + 9)))) for turn in range(4)]
    assert [sum(len(split_completed([pack])[0]) for _, pack in some) for some in packs] == [0, 0, 27, 0]
    assert sum(len(split_completed([pack.value[1]])[0]) for pack in step.finish_bundle()) == 9
    assert list(step.finish_bundle()) == []


def test_rows_of_other_programs_are_skipped(tmp_path: Path) -> None:
    path = publish(tmp_path, "data", range(2))
    rows = [*pq.read_table(path).to_pylist(), {"key": "mine", "id": name(7)}]
    rows += [{"key": name(1)[:20], "id": id} for id in ("42", "by hand", "z" * 64, "")]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert split_completed(pack for _, pack in packed([path]))[0] == {short_id(name(0)), short_id(name(1))}


def test_an_incomplete_file_stops_the_plan(tmp_path: Path) -> None:
    path = FileSystems.join(str(tmp_path), "half.parquet")
    Path(path).write_bytes(Path(publish(tmp_path, "data", range(1000))).read_bytes()[:5000])
    with pytest.raises(Exception, match=r"[Pp]arquet"):
        packed([path])
