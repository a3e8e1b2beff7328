"""Manifests that are read in blocks have the references that they have when they are read row by row."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moondream_beam.models.tasks import Caption
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.core.ref_columns import RefColumns, each_ref
from moondream_beam.transforms.inputs.lists.blocks import lines
from moondream_beam.transforms.inputs.manifest import read_in_columns, read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns

ADDRESSES = (
    "https://a.example/x.jpg", "http://a.b.example/c/d-e_f.~g/h.png", "https://a.example/", "https://a.example/a%20b.jpg",
    "https://a.example:80/x.jpg", "https://u:p@a.example/x.jpg", "HTTPS://A.example/x", "https://a.example/x.jpg?b=1",
    "https://localhost/x.jpg", "https://a.example//x.jpg", "https://a.example/../x", " https://a.example/x.jpg",
    "https://a.example/eyJhbGci.eyJzdWIi.abc", "https://a.example/.", "https://a.example/x.tar", "a.example/x.jpg",
    "s3://bucket/a/b.jpg", "s3://bucket//b.jpg", "gs://bucket/b.jpg", "s3://bucket", "az://c/b.jpg", "ftp://a.example/x",
    "/photos/a.jpg", "/photos//a.jpg", "/photos/./a.jpg", "/photos/../a.jpg", "/photos/", "/", "//a.example/x.jpg",
    "x.jpg", "a/x.jpg", "a/b.c/x.jpg", "./x.jpg", "../x.jpg", "a/../x.jpg", "a//x.jpg", "www.a/x.jpg",
    "photos.de/x.jpg",
    ".hidden/x.jpg", "~/x.jpg", "a/~x.jpg", "C:/x.jpg", "a\\b.jpg", "with space.jpg", "\u00e9/\u00e9.jpg", "data:,abc",
    "file:///photos/a.jpg", "x", "-", "", "  ", "\u200bx.jpg",
)  # fmt: skip


def in_order(refs: Sequence[ImageRef]) -> list[ImageRef]:
    return sorted(refs, key=lambda ref: (ref.uri, ref.filename, ref.problem))


def check(path: Path, columns: Columns | None = None) -> list[RefColumns]:
    """Compare both ways to read a manifest, and return what came as columns."""
    columns = columns or Columns("url")
    found = list(read_in_columns(str(path), columns))
    expected = list(read_manifest(str(path), columns))
    assert in_order([ref for each in found for ref in each_ref(each)]) == in_order(expected)
    assert pickle.loads(pickle.dumps(found)) is not None
    return [each for each in found if isinstance(each, RefColumns)]


def csv_line(fields: Sequence[str], number: random.Random) -> str:
    quoted = [f'"{field}"' if "," in field or number.random() < 0.1 else field for field in fields]
    return ",".join(quoted) + number.choice(["\n"] * 9 + ["\r\n"])


@pytest.mark.parametrize("seed", range(12))
def test_random_manifests_have_the_same_references_both_ways(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = random.Random(seed)
    monkeypatch.setattr(lines, "BLOCK_CHARS", number.choice([40, 300, 1 << 20]))
    addresses = [f"https://images.example.org/{index}.jpg" for index in range(60)]
    addresses += number.choices(ADDRESSES, k=number.choice([0, 60])) + number.choices(addresses, k=5)
    number.shuffle(addresses)
    texts = [csv_line([address, str(place)], number) for place, address in enumerate(addresses)]
    for extra in number.sample(["\n", "one\n", "a,b,c\n", '"x\ny.jpg",1\n', 'a"b.jpg,1\n', '"open,1\n', "\r,1\n"], k=3):
        texts.insert(number.randrange(len(texts)), extra)
    (tmp_path / "a.csv").write_text("url,number\n" + "".join(texts), newline="")
    (tmp_path / "a.tsv").write_text(
        "number\turl\n" + "".join(f"{index}\t{one}\n" for index, one in enumerate(addresses))
    )
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"url": address}) + "\n" for address in addresses))
    pq.write_table(pa.table({"url": [*addresses, None]}), tmp_path / "a.parquet", row_group_size=20)
    for path in sorted(tmp_path.iterdir()):
        check(path)


@pytest.mark.parametrize("address", ADDRESSES)
def test_each_address_is_the_same_in_a_block(address: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": [address, "https://a.example/plain.jpg"]}), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "content",
    [
        b"url,b\nx.jpg,\xff\ny.jpg,2\n", b"url\n\xff.jpg\n", b"\xef\xbb\xbfurl\nx.jpg\n", b"url\rx.jpg\ry.jpg\r",
        b"url\n",
        b"sep=;\nurl;b\nx.jpg;1\n", b"url;b\nx.jpg;1\n", b'url,b\nx.jpg,"1\n2"\ny.jpg,2',
        b"url,url2\n\n\nx.jpg,1\n\ny.jpg,2\n",
        b"url\n" + b"x.jpg\n" * 9 + b"y" * (9 << 20) + b"\nz.jpg\n",
        b"url,b\nx.jpg,1\ny.jpg\nz.jpg,1\n", b"url\n \n\t\nx.jpg\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
def test_odd_text_has_the_same_rows_in_blocks(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".csv.gz" else content)
    check(path)


def test_rows_before_damaged_content_are_kept(tmp_path: Path) -> None:
    number = random.Random(1)
    texts = "".join(f"https://a.example/{number.random()}.jpg\n" for _ in range(20_000))
    packed = gzip.compress(b"url\n" + texts.encode())
    path = tmp_path / "cut.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    assert sum(part.num_rows for part in check(path)) > 5000
    table = pa.table({"url": texts.split()})
    pq.write_table(table, tmp_path / "cut.parquet", row_group_size=2000, compression="zstd")
    content = bytearray((tmp_path / "cut.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    (tmp_path / "cut.parquet").write_bytes(content)
    assert sum(part.num_rows for part in check(tmp_path / "cut.parquet")) > 5000


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_every_type_of_text_is_read_in_blocks_or_row_by_row(kind: pa.DataType, tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": pa.array(ADDRESSES).cast(kind)
            if kind != pa.binary()
            else pa.array([each.encode() for each in ADDRESSES])
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert check(tmp_path / "a.parquet")


def test_partitions_root_names_and_prompts_are_read_row_by_row(tmp_path: Path) -> None:
    folder = tmp_path / "url=x.jpg"
    folder.mkdir()
    (folder / "a.csv").write_text("name,b\nn,1\nm,2\n")
    check(folder / "a.csv")
    (tmp_path / "a.csv").write_text("url,name\nx.jpg,n\ny.jpg,m\n")
    check(tmp_path / "a.csv", Columns("url", filename="name"))
    check(tmp_path / "a.csv", Columns("url", root=str(tmp_path)))
    check(tmp_path / "a.csv", Columns("url", tasks=(Caption(),)))


def test_nearly_all_rows_of_a_plain_manifest_come_as_columns(tmp_path: Path) -> None:
    for name, prefix in (
        ("urls", "https://a.example/b/"),
        ("keys", "s3://bucket/b/"),
        ("paths", "/b/"),
        ("names", "b/"),
    ):
        path = tmp_path / f"{name}.csv"
        path.write_text("url,b\n" + "".join(f"{prefix}{index}.jpg,1\n" for index in range(1000)) + '"q.jpg",2\n')
        assert sum(part.num_rows for part in check(path)) >= 1000
