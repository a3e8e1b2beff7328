"""Links in tar archives, archives behind each other in one file, and members that are no pictures."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

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
from moondream_beam.transforms.images.refetch import relocate
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_archive
from moondream_beam.transforms.io.containers.tar import NO_FILE, NO_TAR, NO_TARGET

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": lambda content: pa.Codec("zstd").compress(content).to_pybytes(),
}
SYMBOLIC, HARD, PIPE, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE


def picture(number: int) -> bytes:
    """Return an image that is 10 + number pixels wide."""
    file = io.BytesIO()
    Image.new("RGB", (10 + number, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tarred(*members: tuple[str, int | bytes, str] | tuple[str, int | bytes], **options: object) -> bytes:
    """Return a tar archive. A member is (name, number of a picture or content), or (name, type, target of a link)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for name, what, *target in members:
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = what, target[0]
                tar.addfile(info)
            else:
                content = picture(what) if isinstance(what, int) else what
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def listed(path: object) -> list[ImageRef]:
    return list(list_archive(ImageRef(str(path), os.path.basename(str(path)))))


def contents(refs: Iterable[ImageRef]) -> dict[str, bytes]:
    fetch = Fetcher()
    return {ref.filename: fetch(ref.location) for ref in refs if not ref.skipped and not ref.problem}


def left_out(refs: Iterable[ImageRef]) -> dict[str, tuple[int, str]]:
    return {ref.skipped.kind: (ref.skipped.count, ref.filename) for ref in refs if ref.skipped}


def by_tarfile(path: Path) -> dict[str, bytes]:
    """Return what Python's tarfile gives for each member that has the name of a picture."""
    with tarfile.open(path, ignore_zeros=True) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar.getmembers() if each.name.endswith(".png")}


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["-P"]])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_folder_with_links_has_the_same_pictures_in_its_archive(
    tmp_path: Path, ending: str, options: list[str]
) -> None:
    deep = tmp_path / "set" / ("long" * 15) / ("name" * (1 if "--format=ustar" in options else 15))
    deep.mkdir(parents=True)
    for number in range(3):
        (tmp_path / "set" / f"{number}.png").write_bytes(picture(number))
    (deep / "l.png").write_bytes(picture(3))
    (tmp_path / "set" / "blob").write_bytes(picture(4))
    os.link(tmp_path / "set" / "0.png", tmp_path / "set" / "hard.png")
    os.link(deep / "l.png", deep / "hard.png")
    os.symlink("1.png", tmp_path / "set" / "symbolic.png")
    os.symlink("symbolic.png", tmp_path / "set" / "chain.png")
    os.symlink("blob", tmp_path / "set" / "named.png")
    os.symlink("../../2.png", deep / "up.png")
    os.symlink(deep.relative_to(tmp_path / "set"), tmp_path / "set" / "folder")
    os.symlink("folder/l.png", tmp_path / "set" / "through.png")
    folder = str(tmp_path / "set") if "-P" in options else "set"
    subprocess.run(["tar", *options, "-caf", f"a{ending}", folder], cwd=tmp_path, check=True)
    refs = listed(tmp_path / f"a{ending}")
    on_disk = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in (tmp_path / "set").rglob("*.png")}
    found = {name[name.index("set/") :]: content for name, content in contents(refs).items()}
    assert found == on_disk and len(found) == 11
    assert left_out(refs) == {"files without an ending": (2, min(ref.filename for ref in refs if ref.skipped))}


@pytest.mark.parametrize("ending", [".tar", ".tar.xz"])
def test_links_are_read_as_tarfile_reads_them(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    members = [
        ("later.png", SYMBOLIC, "sub/x.png"),
        ("./dot.png", 1),
        ("hard.png", HARD, "./dot.png"),
        ("sub/x.png", 2),
        ("sub/y.png", SYMBOLIC, "../dot.png"),
        (".hidden.png", 3),
        ("shown.png", SYMBOLIC, ".hidden.png"),
    ]
    path.write_bytes(PACK[ending](tarred(*members)))
    expected = by_tarfile(path)
    del expected[".hidden.png"]
    refs = listed(path)
    assert contents(refs) == expected and left_out(refs) == {}
    assert len({ref.key for ref in refs}) == len(refs) == 6


def test_links_that_lead_outside_nowhere_or_in_a_circle_are_counted_and_never_followed_on_disk(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(9))
    path = tmp_path / "a.tar"
    targets = [f"{tmp_path}/secret.png", "secret.png", "../secret.png", "link6.png", "folder"]
    links = [(f"link{number}.png", SYMBOLIC, target) for number, target in enumerate(targets)]
    circle = [("link5.png", SYMBOLIC, "link6.png"), ("link6.png", SYMBOLIC, "link5.png"), ("link7.png", HARD, "gone")]
    path.write_bytes(tarred(("a.png", 1), *links, *circle, ("folder", tarfile.DIRTYPE, "")))
    refs = listed(path)
    assert contents(refs) == {"a.png": picture(1)}
    assert left_out(refs) == {NO_TARGET: (8, "link0.png")}


def test_of_several_members_of_a_name_a_link_is_to_the_one_that_extracting_gives(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members = [("a.png", 1), ("h.png", HARD, "a.png"), ("s.png", SYMBOLIC, "a.png"), ("a.png", 2), ("s.png", 3)]
    path.write_bytes(tarred(*members, ("t.png", SYMBOLIC, "s.png")))
    found = contents(listed(path))
    expected = {"a.png": 1, "h.png": 1, "s.png": 2, "a.png#2": 2, "s.png#2": 3, "t.png": 3}
    assert found == {name: picture(number) for name, number in expected.items()}


@pytest.mark.parametrize("ending", list(PACK))
def test_archives_that_were_joined_are_all_read(tmp_path: Path, ending: str) -> None:
    parts = [
        tarred(("a.png", 1), ("b.png", 2)),
        tarred(("c.png", 3), ("d.png", HARD, "c.png"), format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}),
        tarred(),
        tarred(("e.png", SYMBOLIC, "a.png")),
    ]
    path = tmp_path / f"a{ending}"
    joined = PACK[ending](b"".join(parts))
    for content in (joined, b"".join(map(PACK[ending], parts))):
        path.write_bytes(content)
        if ending != ".tar.zst":
            assert set(by_tarfile(path)) == {"a.png", "b.png", "c.png", "d.png", "e.png"}
        refs = listed(path)
        assert contents(refs) == {
            f"{name}.png": picture(number) for name, number in zip("abcde", (1, 2, 3, 3, 1), strict=True)
        }
        assert not left_out(refs)


def test_pictures_of_the_same_name_in_joined_archives_get_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tarred(("a.png", 1)) + tarred(("a.png", 2)))
    assert contents(listed(tmp_path / "a.tar")) == {"a.png": picture(1), "a.png#2": picture(2)}


def test_links_in_joined_archives_are_to_the_files_of_their_own_archive(tmp_path: Path) -> None:
    parts = [
        tarred(("a.png", number), ("h.png", HARD, "a.png"), ("s.png", SYMBOLIC, "a.png"), *more)
        for number, more in ((1, [("only.png", 3), ("t.png", SYMBOLIC, "late.png")]), (2, [("late.png", 4)]))
    ]
    path = tmp_path / "joined.tar"
    path.write_bytes(b"".join(parts))
    fetch = Fetcher()
    widths = {
        ref.filename: Image.open(io.BytesIO(fetch(ref.location))).width - 10
        for ref in list_archive(ImageRef(str(path), path.name))
        if not ref.skipped
    }
    assert widths == {
        **{"a.png": 1, "h.png": 1, "s.png": 1, "only.png": 3, "t.png": 4},
        **{"a.png#2": 2, "h.png#2": 2, "s.png#2": 2, "late.png": 4},
    }


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_joined_archive_that_is_cut_off_is_a_failure_after_all_pictures_before(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    second = tarred(("b.png", 2), ("l.png", HARD, "b.png"), ("c.png", 3))
    path.write_bytes(PACK[ending](tarred(("a.png", 1)) + second[:1700]))
    *found, broken = listed(path)
    assert contents(found) == {name: picture(number) for name, number in (("a.png", 1), ("b.png", 2), ("l.png", 2))}
    assert broken.uri == str(path) and "broken after 3 pictures" in broken.problem


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_data_behind_the_end_that_are_no_archive_are_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACK[ending](tarred(("a.png", 1)) + b"signature" * 100))
    refs = listed(path)
    assert contents(refs) == {"a.png": picture(1)}
    assert left_out(refs) == {NO_TAR: (1, f"a{ending}, byte 10240")}


def test_members_that_are_no_pictures_are_counted_by_ending_and_pipes_and_devices_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    others = [("a.json", b"{}"), ("deep/b.JSON", b"{}"), ("a.cls", b"1"), ("deep/.hidden.txt", b""), ("README", b"")]
    special = [("pipe.png", PIPE, ""), ("dev/null", DEVICE, ""), ("latest", SYMBOLIC, "a.png")]
    path.write_bytes(tarred(("a.png", 1), ("deep", tarfile.DIRTYPE, ""), *others, *special))
    refs = listed(path)
    assert contents(refs) == {"a.png": picture(1)}
    assert left_out(refs) == {
        "files ending in .json": (2, "a.json"),
        "files ending in .cls": (1, "a.cls"),
        "files without an ending": (2, "README"),
        NO_FILE: (2, "dev/null"),
    }


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=pax", "--sparse-version=0.1"]])
def test_a_sparse_picture_and_a_link_to_it_are_failures_with_the_cure(tmp_path: Path, options: list[str]) -> None:
    with open(tmp_path / "hole.png", "wb") as file:
        file.write(picture(1))
        file.truncate(1 << 20)
    (tmp_path / "a.png").write_bytes(picture(2))
    os.symlink("hole.png", tmp_path / "link.png")
    names = ["hole.png", "a.png", "link.png"]
    subprocess.run(["tar", *options, "-S", "-cf", "a.tar", *names], cwd=tmp_path, check=True)
    refs = listed(tmp_path / "a.tar")
    assert contents(refs) == {"a.png": picture(2)} and not left_out(refs)
    problems = {ref.uri: ref.problem for ref in refs if ref.problem}
    assert set(problems) == {f"{tmp_path}/a.tar#hole.png", f"{tmp_path}/a.tar#link.png"}
    assert all("without --sparse" in problem for problem in problems.values())


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_the_picture_of_a_link_is_found_again_from_its_row(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACK[ending](tarred(("a.png", 1), ("l.png", SYMBOLIC, "b.png"), ("b.png", 2))))
    refs = listed(path)
    again = [relocate(ref.uri, *ref.byte_range)._replace(filename=ref.filename) for ref in refs]
    assert (
        contents(again)
        == contents(refs)
        == {name: picture(n) for name, n in {"a.png": 1, "b.png": 2, "l.png": 2}.items()}
    )
    # Of the same sizes, but the link leads to another picture now.
    path.write_bytes(PACK[ending](tarred(("a.png", 1), ("l.png", SYMBOLIC, "a.png"), ("b.png", 2))))
    for ref in (relocate(refs[-1].uri, *refs[-1].byte_range),):
        with pytest.raises(ValueError, match="has changed since"):
            Fetcher()(ref.location)


def test_an_archive_without_a_picture_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tarred())
    (tmp_path / "b.tar").write_bytes(tarred(("a.json", b"{}")))
    assert left_out(listed(tmp_path / "a.tar")) == {"archives without a picture": (1, "a.tar")}
    assert left_out(listed(tmp_path / "b.tar"))["archives without a picture"] == (1, "b.tar")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_links_and_joined_archives_in_buckets_are_read(
    bucket_of: Callable[[str], Bucket], ending: str, small_blocks: int
) -> None:
    bucket = bucket_of("s3")
    parts = tarred(("a.png", 1), ("l.png", HARD, "a.png")), tarred(("b.png", 2), ("m.png", SYMBOLIC, "l.png"))
    uri = bucket.put(f"sets/a{ending}", b"".join(map(PACK[ending], parts)))
    expected = {name: picture(number) for name, number in {"a.png": 1, "b.png": 2, "l.png": 1, "m.png": 1}.items()}
    refs = listed(uri)
    assert contents(refs) == contents(
        relocate(ref.uri, *ref.byte_range)._replace(filename=ref.filename) for ref in refs
    )
    assert contents(refs) == expected


def test_an_archive_that_fails_while_links_are_looked_up_is_a_failure(bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of("s3")
    uri = bucket.put("a.tar", tarred(("a.png", 1), ("l.png", HARD, "a.png")))
    first, *_ = list_archive(ImageRef(uri, "a.tar"))
    passes = len(bucket.proxy.asked) // 2
    assert first.filename == "a.png" and passes > 0
    bucket.proxy.reset()
    refs = []
    for ref in list_archive(ImageRef(uri, "a.tar")):
        refs.append(ref)
        # The first pass has read the header of the first member.
        bucket.proxy.rule = lambda method, path, before: 404 if len(bucket.proxy.asked) > passes else None
    assert refs[-1].uri == uri and "broken" in refs[-1].problem


def test_the_whole_job_has_a_row_for_each_link_and_asks_once_for_its_picture(tmp_path: Path) -> None:
    members = [("a.png", 1), ("l.png", HARD, "a.png"), ("a.json", b""), ("gone.png", SYMBOLIC, "/nowhere.png")]
    (tmp_path / "a.tar").write_bytes(tarred(*members))
    job = AnnotateToParquet((Caption(),), Echo(), str(tmp_path / "out"))
    (record,) = collect(lambda pipeline: pipeline | ReadImages(f"{tmp_path}/a.tar") | job)
    rows = [row for path in (tmp_path / "out/data").glob("*") for row in pq.read_table(path).to_pylist()]
    assert {row["filename"]: (row["width"], row["byte_offset"]) for row in rows} == {
        "a.png": (11, 512),
        "l.png": (11, 512),
    }
    assert sorted(row["output_tokens"] for row in rows) == [0, 3]
    assert record["balanced"] and record["counts"]["inputs"] == 2
    assert {kind: each["count"] for kind, each in record["skipped"].items()} == {
        "files ending in .json": 1,
        NO_TARGET: 1,
    }
