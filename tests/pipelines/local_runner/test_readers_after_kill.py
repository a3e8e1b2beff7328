"""No reader takes an unfinished file of a run that was killed for rows."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from support.spark.session import spark_session

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw

pytestmark = pytest.mark.slow

# The command, killed at the end of a shard: the files are complete, and are not committed.
KILLED = """
import os, signal, sys
from moondream_beam.pipelines.cli import main
from moondream_beam.transforms.output import writer
commit, left = writer.create_exclusive, int(sys.argv[1])
def killed(*args):
    global left
    left -= 1
    return commit(*args) if left >= 0 else os.kill(os.getpid(), signal.SIGKILL)
writer.create_exclusive = killed
main(sys.argv[2:])
"""


def count_duckdb(out: Path) -> int:
    return duckdb.sql(f"SELECT count(*) FROM '{out}/**/*.parquet'").fetchall()[0][0]


# Readers that are given the whole folder, as their documentation shows.
READERS: dict[str, Callable[[Path], int]] = {
    "datasets": lambda out: len(datasets.load_dataset(str(out))["train"]),
    "datasets of Parquet": lambda out: len(datasets.load_dataset("parquet", data_dir=str(out))["train"]),
    "datasets, streaming": lambda out: len(list(datasets.load_dataset(str(out), streaming=True)["train"])),
    "duckdb": count_duckdb,
    "polars": lambda out: polars.scan_parquet(f"{out}/**/*.parquet").collect().height,
    "polars of a folder": lambda out: polars.scan_parquet(out).collect().height,
    "pyarrow": lambda out: pyarrow.dataset.dataset(out, exclude_invalid_files=True).count_rows(),
    "pandas": lambda out: len(pandas.read_parquet(out)),
}


@pytest.fixture(autouse=True)
def default_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def killed(folder: Path, shards: int) -> Path:
    """Annotate, and kill the run after so many shards, when the files of the next one are complete.

    Return the output.
    """
    pictures, out = folder / "pictures", folder / "out"
    pictures.mkdir()
    for number, seed in zip(range(16), TEST_SEEDS, strict=False):
        draw(seed).image.save(pictures / f"{number}.png")
    words = ["annotate", pictures, "--output", out, "--model", "tiny", "--caption", "short", "--shard-size", 1]
    process = subprocess.run([sys.executable, "-c", KILLED, str(shards), *map(str, words)], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert list((out / "_temporary").glob("part-*")) and (out / "README.md").is_file()
    return out


def rows_by(reader: Callable[[Path], int], out: Path) -> int:
    """Return the number of rows that a reader finds, 0 if it finds no file that it can read."""
    try:
        return reader(out)
    # Each reader has errors of its own if there is nothing to read.
    except Exception:
        return 0


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a first run that was killed before its first commit."""
    return killed(tmp_path_factory.mktemp("first"), shards=0)


@pytest.fixture(scope="module")
def two_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a first run that was killed before its third commit: two shards are published."""
    return killed(tmp_path_factory.mktemp("later"), shards=2)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with spark_session(tmp_path_factory.mktemp("spark")) as session:
        yield session


def test_spark_reads_only_published_rows_of_a_killed_run(spark: Any, first_run: Path, two_shards: Path) -> None:
    folders = spark.read.option("recursiveFileLookup", "true").option("pathGlobFilter", "*.parquet")
    rows = sum(pq.read_metadata(path).num_rows for path in (two_shards / "data").iterdir())
    assert folders.parquet(str(two_shards)).count() == spark.read.parquet(f"{two_shards}/data").count() == rows >= 2
    with pytest.raises(Exception, match="UNABLE_TO_INFER_SCHEMA|Unable to infer schema"):
        folders.parquet(str(first_run))


@pytest.mark.parametrize("reader", READERS)
def test_a_first_run_that_was_killed_has_no_rows(reader: str, first_run: Path) -> None:
    assert rows_by(READERS[reader], first_run) == 0


@pytest.mark.parametrize("reader", READERS)
def test_only_published_rows_of_a_killed_run_are_read(reader: str, two_shards: Path) -> None:
    # The others refuse any folder that holds README.md, and are given the folder of the rows.
    takes_whole = reader in ("datasets", "datasets, streaming", "duckdb", "polars", "pyarrow")
    rows = sum(pq.read_metadata(path).num_rows for path in (two_shards / "data").iterdir())
    assert rows >= 2 and READERS[reader](two_shards if takes_whole else two_shards / "data") == rows


def test_no_unfinished_file_has_the_extension_of_a_table(first_run: Path, two_shards: Path) -> None:
    for out, published in ((first_run, 0), (two_shards, 2)):
        tables = [path for path in out.rglob("*") if path.suffix in (".parquet", ".json", ".jsonl", ".csv", ".arrow")]
        assert len(tables) == published and all(path.parent == out / "data" for path in tables)
