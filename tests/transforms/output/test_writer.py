"""The rows of a shard become files, all of which are published or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.rows import annotation, failure

from moondream_beam.models.hosted.payment.billing import Billing
from moondream_beam.transforms.core.records import Annotation, Failure
from moondream_beam.transforms.core.row_schema import ANNOTATION_SCHEMA, FAILURE_SCHEMA, annotation_schema
from moondream_beam.transforms.io.object_stores.file_systems import FileSystems
from moondream_beam.transforms.output import writer as module
from moondream_beam.transforms.output.reader import check_schema
from moondream_beam.transforms.output.writer import MAX_BATCH_ROWS, ShardWriter

FIRST = "data/part-one-00000"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def files(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def ids(out: Path, kind: str) -> list[str]:
    return sorted(name for path in (out / kind).glob("*.parquet") for name in pq.read_table(path)["id"].to_pylist())


def fill(writer: ShardWriter, *rows: Annotation | Failure) -> ShardWriter:
    for row in rows:
        writer.add(row)
    return writer


Rows = Callable[..., list]


def test_no_file_has_its_final_name_before_publish(out: Path, rows: Rows) -> None:
    writer = fill(ShardWriter(str(out), "one", 7), *rows(3), *rows(2, failed=True))
    assert not writer.is_published
    assert not list(out.glob("data/*")) + list(out.glob("errors/*"))
    assert writer.publish()
    assert writer.is_published
    assert files(out) == ["data/part-one-00007.parquet", "errors/part-one-00007.parquet"]
    assert ids(out, "data") == ["a0", "a1", "a2"]
    assert ids(out, "errors") == ["f0", "f1"]


def test_row_groups_are_written_to_the_temporary_folder(out: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW_GROUP_BYTES", 1)
    writer = fill(ShardWriter(str(out), "one", 0), *rows(2 * MAX_BATCH_ROWS))
    (hidden,) = files(out)
    assert hidden.startswith("_temporary/part-one-00000-")
    writer.publish()
    assert files(out) == ["data/part-one-00000.parquet"]


def test_files_have_all_columns_in_order_and_are_compressed(out: Path, rows: Rows) -> None:
    fill(ShardWriter(str(out), "one", 0), *rows(2), *rows(1, failed=True)).publish()
    for kind, schema in (("data", ANNOTATION_SCHEMA), ("errors", FAILURE_SCHEMA)):
        file = pq.ParquetFile(out / kind / "part-one-00000.parquet")
        assert file.schema_arrow.equals(schema)
        group = file.metadata.row_group(0)
        assert {group.column(index).compression for index in range(group.num_columns)} == {"ZSTD"}


def test_a_shard_of_failures_alone_has_a_data_file_without_rows(out: Path, rows: Rows) -> None:
    writer = fill(ShardWriter(str(out), "one", 0), *rows(2, failed=True))
    writer.publish()
    assert writer.is_published
    assert files(out) == ["data/part-one-00000.parquet", "errors/part-one-00000.parquet"]
    file = pq.ParquetFile(out / "data" / "part-one-00000.parquet")
    # `datasets` cannot read a row group without rows.
    assert (file.num_row_groups, file.schema_arrow) == (0, ANNOTATION_SCHEMA)


def test_a_shard_without_failures_has_no_errors_file(out: Path, rows: Rows) -> None:
    fill(ShardWriter(str(out), "one", 0), *rows(1)).publish()
    assert files(out) == ["data/part-one-00000.parquet"]


def test_discard_deletes_all_files(out: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW_GROUP_BYTES", 1)
    writer = fill(ShardWriter(str(out), "one", 0), *rows(2 * MAX_BATCH_ROWS + 1), *rows(MAX_BATCH_ROWS, failed=True))
    assert files(out)
    writer.discard()
    assert files(out) == []


def test_discard_without_rows_is_no_error(out: Path) -> None:
    ShardWriter(str(out), "one", 0).discard()
    assert not out.exists()


def test_files_and_row_groups_have_at_most_so_many_bytes(
    out: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_256 = module.to_table(rows(MAX_BATCH_ROWS), ANNOTATION_SCHEMA).nbytes
    monkeypatch.setattr(module, "MAX_ROW_GROUP_BYTES", int(2.5 * of_256))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", int(4.5 * of_256))
    fill(ShardWriter(str(out), "one", 3), *rows(9 * MAX_BATCH_ROWS + 5)).publish()
    assert files(out) == [f"data/part-one-00003{part}.parquet" for part in ("-1", "-2", "")]
    groups = {
        path.stem: [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        for path in (out / "data").iterdir()
        if (file := pq.ParquetFile(path))
    }
    two = 2 * MAX_BATCH_ROWS
    assert groups == {"part-one-00003": [two, two], "part-one-00003-1": [two, two], "part-one-00003-2": [256 + 5]}
    assert len(set(ids(out, "data"))) == 9 * MAX_BATCH_ROWS + 5


def test_long_texts_exceed_neither_the_limits_nor_memory(
    out: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, memory_peak: Callable[[], int]
) -> None:
    text, bound = "x" * 100_000, 1 << 20
    monkeypatch.setattr(module, "MAX_ROW_GROUP_BYTES", bound)
    monkeypatch.setattr(module, "MAX_BATCH_CHARACTERS", bound // 4)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 4 * bound)
    writer = ShardWriter(str(out), "one", 0)
    for index in range(120):
        writer.add(rows(1)[0]._replace(id=str(index), caption=f"{index}{text}"))
    writer.publish()
    assert len(ids(out, "data")) == 120
    written = [pq.ParquetFile(path).metadata for path in (out / "data").iterdir()]
    assert len(written) == 4
    sizes = [[file.row_group(group).total_byte_size for group in range(file.num_row_groups)] for file in written]
    assert max(sum(groups) for groups in sizes) <= 4 * bound and max(map(max, sizes)) <= bound
    assert memory_peak() < 4 * bound


def test_a_row_larger_than_the_limit_gets_its_own_file(out: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_ROW_GROUP_BYTES", "MAX_BATCH_CHARACTERS", "MAX_FILE_BYTES"):
        monkeypatch.setattr(module, name, 1000)
    fill(ShardWriter(str(out), "one", 0), *(row._replace(caption="x" * 5000) for row in rows(3))).publish()
    assert [pq.read_table(path).num_rows for path in (out / "data").iterdir()] == [1, 1, 1]


@dataclass
class Disk:
    """The final names in the order of publication. A rename to ``broken`` fails."""

    published: list[str] = field(default_factory=list)
    broken: str = ""


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk, real = Disk(), FileSystems.rename

    def rename(sources: list[str], targets: list[str]) -> None:
        for target in targets:
            name = "/".join(Path(target).parts[-2:])
            if name == disk.broken:
                raise OSError("the disk has failed")
            disk.published.append(name)
        real(sources, targets)

    monkeypatch.setattr(FileSystems, "rename", rename)
    return disk


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW_GROUP_BYTES", 1)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1)


@pytest.mark.usefixtures("small_files")
def test_errors_are_published_first_and_the_first_data_file_last(out: Path, rows: Rows, disk: Disk) -> None:
    fill(ShardWriter(str(out), "one", 0), *rows(2 * MAX_BATCH_ROWS), *rows(1, failed=True)).publish()
    assert disk.published == [f"{part}.parquet" for part in ("errors/part-one-00000", "data/part-one-00000-1", FIRST)]


@pytest.mark.usefixtures("small_files")
def test_the_next_attempt_publishes_the_rest_of_a_commit(out: Path, rows: Rows, disk: Disk) -> None:
    first = fill(ShardWriter(str(out), "one", 0), *rows(3 * MAX_BATCH_ROWS), *rows(2, failed=True))
    disk.broken = f"{FIRST}.parquet"
    with pytest.raises(OSError, match="failed"):
        first.publish()
    first.discard()
    left = [f"{part}.parquet" for part in ("data/part-one-00000-1", "data/part-one-00000-2", "errors/part-one-00000")]
    assert [path for path in files(out) if not path.startswith("_temporary/")] == left
    second = ShardWriter(str(out), "one", 0)
    with pytest.raises(OSError, match="failed"):
        second.recover_commit()
    disk.broken = ""
    assert second.recover_commit()
    assert files(out) == [f"{FIRST}-1.parquet", f"{FIRST}-2.parquet", f"{FIRST}.parquet", left[-1]]
    assert len(ids(out, "data")) == 3 * MAX_BATCH_ROWS
    assert second.recover_commit()
    assert not ShardWriter(str(out), "one", 1).recover_commit()


def test_a_second_attempt_does_not_replace_published_files(out: Path, rows: Rows) -> None:
    first = fill(ShardWriter(str(out), "one", 0), *rows(2), *rows(1, failed=True))
    second = fill(ShardWriter(str(out), "one", 0), *rows(3))
    assert first.publish()
    assert not second.publish()
    assert files(out) == ["data/part-one-00000.parquet", "errors/part-one-00000.parquet"]
    assert ids(out, "data") == ["a0", "a1"]


def test_shards_and_runs_have_their_own_files(out: Path, rows: Rows) -> None:
    for run, shard in (("one", 1), ("one", 10), ("two", 1), ("one", 100_000), ("one", 10_000)):
        fill(ShardWriter(str(out), run, shard), *rows(1)).publish()
    assert len(ids(out, "data")) == 5
    assert ShardWriter(str(out), "one", 10_000).published_summary().annotations == 1


@pytest.mark.usefixtures("small_files")
def test_the_published_summary_is_the_sum_over_the_rows(out: Path, rows: Rows) -> None:
    writer = fill(ShardWriter(str(out), "one", 0), *rows(300), *rows(3, failed=True))
    writer.add(failure(hosted=Billing("job", 1.5, None, False, None)))
    writer.add(annotation(hosted=Billing("job", 100.0, 0.25, True, "{}")))
    writer.publish()
    assert writer.published_summary() == (301, 4, 2107, 903, 602.0, 1204.0, 101.5, 0.25, 0, 0)
    ShardWriter(str(out), "one", 1).publish()
    assert ShardWriter(str(out), "one", 1).published_summary() == (0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0)


def test_an_output_whose_errors_lack_a_kept_column_is_refused_with_the_folder_to_delete(out: Path, rows: Rows) -> None:
    fill(ShardWriter(str(out), "one", 0), *rows(1, failed=True)).publish()
    schema = annotation_schema([pa.field("split", pa.string())])
    (out / "data" / "part-one-00000.parquet").unlink()
    with pytest.raises(ValueError, match=rf"split.*[Dd]elete.*{out}/errors"):
        check_schema(str(out), schema)
    check_schema(str(out), annotation_schema([]))
