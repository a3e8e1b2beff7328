"""Images in tar archives, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_archive
from moondream_beam.transforms.io.containers import compression
from moondream_beam.transforms.planning import locality
from moondream_beam.transforms.planning.locality import read_order, shard_key

NAMES = ["000.jpg", "000.json", "deep/001#a.JPEG", "deep/.hidden.jpg", "000.jpg", "caf\udce9.png", "empty.webp"]
IN_ALL = ["000.jpg", "deep/001#a.JPEG", "000.jpg#2", "caf\udce9.png", "empty.webp"]
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".gz": gzip.compress,
    ".tgz": gzip.compress,
    ".bz2": bz2.compress,
    ".tbz2": bz2.compress,
    ".xz": lzma.compress,
    ".txz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content).to_pybytes(),
}
COMPRESSED = [".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"]


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10 + number, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def make(path: Path, names: list[str]) -> str:
    """An archive whose image of number N is 10 + N pixels wide; members called empty have no bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            content = b"" if name.startswith("empty") else picture(number)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    pack = PACK[path.suffix]
    path.write_bytes(pack(plain.getvalue()))
    return str(path)


def members(path: str) -> list[ImageRef]:
    return [ref for ref in list_archive(ImageRef(path, Path(path).name)) if not ref.skipped]


def test_members_with_the_extension_of_an_image_are_listed_under_unique_names(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", NAMES)
    refs = members(path)
    assert [ref.filename for ref in refs] == IN_ALL
    assert [ref.uri for ref in refs] == [f"{path}#{name}" for name in IN_ALL]
    assert len({ref.key for ref in refs}) == len(refs)


def test_the_bytes_of_a_member_are_returned(tmp_path: Path) -> None:
    refs, fetch = members(make(tmp_path / "set #1.tar", NAMES)), Fetcher()
    assert [fetch(ref.location) for ref in refs[:4]] == [picture(number) for number in (0, 2, 4, 5)]
    with pytest.raises(ValueError, match="empty"):
        fetch(refs[4].location)


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_compressed_archive_has_the_members_of_the_plain_one(tmp_path: Path, ending: str) -> None:
    plain, packed = make(tmp_path / "a.tar", NAMES), make(tmp_path / f"a{ending}", NAMES)
    refs, fetch = members(packed), Fetcher()
    assert [ref.filename for ref in refs] == IN_ALL
    assert [ref.uri for ref in refs] == [f"{packed}#{name}" for name in IN_ALL]
    assert [fetch(ref.location) for ref in refs[:4]] == [fetch(ref.location) for ref in members(plain)[:4]]
    with pytest.raises(ValueError, match="empty"):
        fetch(refs[4].location)
    assert len({shard_key(ref) for ref in refs}) == 1 and sorted(sorted(refs), key=read_order) == refs


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
@pytest.mark.parametrize("tenth", (0, 2, 5, 8))
def test_a_compressed_archive_that_breaks_off_is_one_failure_after_its_members(
    tmp_path: Path, ending: str, tenth: int, small_blocks: int
) -> None:
    names = [f"{index:03}.ppm" for index in range(40)]
    path = Path(make(tmp_path / f"a{ending}", names))
    whole = members(str(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])
    *found, broken = members(str(path))
    intact = [ref for ref in found if not ref.problem]
    assert intact == whole[: len(intact)] and broken.uri == str(path) and "broken" in broken.problem
    # Of at most one picture a part is there.
    assert [ref.uri for ref in found[len(intact) :]] in ([], [whole[len(intact)].uri])
    fetch = Fetcher()
    assert [fetch(ref.location) for ref in intact] == [picture(index) for index in range(len(intact))]
    for ref in whole[len(found) :]:
        with pytest.raises(ValueError, match="compressed data|shorter"):
            fetch(ref.location)


def test_a_compressed_archive_that_is_a_bomb_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_peak: Callable[[], int]
) -> None:
    monkeypatch.setattr(compression, "BYTES_BEFORE_RATIO", 16 << 20)
    plain = io.BytesIO(Path(make(tmp_path / "a.tar", ["a.jpg"])).read_bytes()[:1024])
    info = tarfile.TarInfo("b.jpg")
    info.size = 64 << 20
    bomb = tmp_path / "a.tar.gz"
    bomb.write_bytes(gzip.compress(plain.getvalue() + info.tobuf() + bytes(64 << 20)))
    memory_peak()
    first, second, broken = members(str(bomb))
    assert "200 times its size" in broken.problem and memory_peak() < 48 << 20
    assert Fetcher()(first.location) == picture(0)
    assert second.filename == "b.jpg" and "200 times its size" in second.problem


def test_a_header_above_the_limit_is_refused(tmp_path: Path, memory_peak: Callable[[], int]) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"x" * info.size))
    memory_peak()
    (broken,) = members(str(path))
    assert "a header has more than 1 MiB" in broken.problem and memory_peak() < 24 << 20


def test_endless_extended_headers_are_one_failure(tmp_path: Path) -> None:
    endless = tarfile.TarInfo("pax")
    endless.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(endless.tobuf() * 3000)
    (found,) = list_archive(ImageRef(f"{tmp_path}/a.tar", "a.tar"))
    assert found.problem.startswith("a.tar: the archive is broken after 0 pictures, replace it: ")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_missing_archive_is_one_failure(tmp_path: Path, ending: str) -> None:
    (gone,) = members(str(tmp_path / f"a{ending}"))
    assert "No such file" in gone.problem


@pytest.mark.parametrize("ending", [".tar", ".tar.zst"])
def test_a_repacked_archive_is_refused_when_a_member_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    refs = members(make(path, ["a.jpg", "b.jpg", "c.jpg"]))
    make(path, ["0.json", "a.jpg", "bb.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(ValueError, match="has changed since"):
        Fetcher()(refs[2].location)


def test_a_member_keeps_its_key_when_the_archive_is_repacked(tmp_path: Path) -> None:
    before = {ref.filename: ref.key for ref in members(make(tmp_path / "a.tar", ["b.jpg", "c.jpg"]))}
    after = {ref.filename: ref.key for ref in members(make(tmp_path / "a.tar", ["a.jpg", "c.jpg", "b.jpg"]))}
    assert before.items() <= after.items()


@pytest.mark.parametrize(("cut", "whole"), [(0, 0), (100, 0), (560, 1), (600, 1), (1200, 1), (1800, 2), (3500, 3)])
def test_an_archive_that_breaks_off_is_one_failure_after_its_members(tmp_path: Path, cut: int, whole: int) -> None:
    path = Path(make(tmp_path / "a.tar", ["a.jpg", "b.jpg", "c.jpg"]))
    path.write_bytes(path.read_bytes()[:cut])
    *found, broken = members(str(path))
    assert len(found) == whole
    assert broken.uri == str(path) and "broken" in broken.problem


def test_an_archive_that_became_shorter_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", ["a.jpg", "b.jpg"])
    refs = members(path)
    Path(path).write_bytes(Path(path).read_bytes()[:1600])
    for ref in (refs[1], refs[1]._replace(inside=refs[1].inside._replace(offset=99999))):
        with pytest.raises(ValueError, match="shorter"):
            Fetcher()(ref.location)


def test_members_of_one_segment_share_a_shard_and_are_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locality, "SEGMENT_BYTES", 4096)
    refs = members(make(tmp_path / "a.tar", [f"{index}.jpg" for index in range(12)]))
    assert 1 < len({shard_key(ref) for ref in refs}) < len(refs)
    assert sorted(sorted(refs, key=lambda ref: ref.key), key=read_order) == refs
    assert shard_key(ImageRef("/a.jpg", "a.jpg")) == ImageRef("/a.jpg", "a.jpg").key


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
@pytest.mark.parametrize("ending", [".tar", ".tar.xz"])
def test_members_of_archives_in_buckets_are_read_by_ranges(
    kind: str, ending: str, bucket_of: Callable[[str], Bucket], tmp_path: Path
) -> None:
    bucket = bucket_of(kind)
    uri = bucket.put(f"sets/a{ending}", Path(make(tmp_path / f"a{ending}", ["a.jpg", "b.jpg"])).read_bytes())
    refs, fetch = members(uri), Fetcher()
    assert [ref.uri for ref in refs] == [f"{uri}#a.jpg", f"{uri}#b.jpg"]
    assert [fetch(ref.location) for ref in refs] == [picture(0), picture(1)]


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.zst"])
def test_the_whole_job_annotates_every_member_once_with_its_byte_range(tmp_path: Path, ending: str) -> None:
    make(tmp_path / f"a{ending}", NAMES)
    broken = tmp_path / f"b{ending}"
    make(tmp_path / "b.tar", ["x.jpg", "y.jpg"])
    broken.write_bytes(PACK[broken.suffix]((tmp_path / "b.tar").read_bytes()[:1200]))

    def run() -> dict[str, Any]:
        job = AnnotateToParquet((Caption(),), Echo(), str(tmp_path / "out"))
        (record,) = collect(lambda pipeline: pipeline | ReadImages(f"{tmp_path}/*{ending}") | job)
        return record

    record = run()
    assert record["balanced"] and record["counts"]["pending"] == 7
    assert sorted((row["filename"], row["width"]) for row in rows(tmp_path / "out", "data")) == [
        ("000.jpg", 10),
        ("000.jpg#2", 14),
        ("caf\\udce9.png", 15),
        ("deep/001#a.JPEG", 12),
        ("x.jpg", 10),
    ]
    (tmp_path / "plain").mkdir()
    content = Path(make(tmp_path / "plain/a.tar", NAMES)).read_bytes()
    for row in rows(tmp_path / "out", "data"):
        if row["filename"] != "x.jpg":
            there = content[row["byte_offset"] : row["byte_offset"] + row["byte_size"]]
            assert sha256(there).hexdigest() == row["sha256"]
    failed = {(row["filename"], row["stage"], row["byte_size"]) for row in rows(tmp_path / "out", "errors")}
    assert failed == {(broken.name, "list", None), ("empty.webp", "fetch", 0)}
    assert run()["counts"]["pending"] == 0


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_picture_in_which_the_archive_ends_has_a_problem_with_the_archive_to_replace(
    tmp_path: Path, name: str
) -> None:
    noise = [sha256(bytes([number])).digest() * 200 for number in range(4)]
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for number, content in enumerate(noise):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            if number == 2:
                end = plain.tell() - 3000
    path = tmp_path / name
    path.write_bytes(PACK[path.suffix](plain.getvalue()[:end]))
    *whole, cut, archive = list_archive(ImageRef(str(path), name))
    assert [ref.filename for ref in whole] == ["0.jpg", "1.jpg"] and not any(ref.problem for ref in whole)
    assert cut.filename == "2.jpg" and "replace the archive" in cut.problem
    assert archive.uri == str(path) and "broken after 2 pictures" in archive.problem
