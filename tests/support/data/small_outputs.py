"""Small outputs with known rows about images that exist."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from PIL import Image
from support.data.rows import annotation, failure

from moondream_beam.models.tasks import Box, Spot
from moondream_beam.transforms.core.records import Row
from moondream_beam.transforms.output.dataset_card import write_card
from moondream_beam.transforms.output.writer import ShardWriter

# Texts that must not be taken for markup, wherever they are shown.
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)></svg>{{ 7*7 }}</style></script>",
    "\u202eevil\u202c שלום עולם مرحبا",
    "👩‍👩‍👧‍👦🏳️‍🌈" * 40,
    "long" * 5000,
    "a\x00b\x07 and\nlines\r\nof it",
)


def publish(out: Path, *rows: Row, run: str = "one", shard: int = 0) -> Path:
    """Publish rows as one shard, and return the output."""
    writer = ShardWriter(str(out), run, shard)
    for row in rows:
        writer.add(row)
    writer.publish()
    write_card(str(out))
    return out


def draw_row(folder: Path, name: str, size: tuple[int, int] = (40, 30), **values: object) -> Row:
    """Write an image to this folder, and return a row about it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return row_of(path, name, **{"width": size[0], "height": size[1], "sha256": digest, **values})


def row_of(path: Path, name: str, **values: object) -> Row:
    """A row about an image, with an id and a key of its own."""
    unlike = f"{path}/{values.get('task', 'caption')}/{values.get('prompt', 'normal')}"
    plain = {"id": f"id of {unlike}", "key": f"key of {path}", "uri": str(path), "filename": name}
    return annotation(**{**plain, **values})


def with_digest(row: Row) -> Row:
    """Return a row with the digest that its picture's file has."""
    return row._replace(sha256=hashlib.sha256(Path(row.uri).read_bytes()).hexdigest())


def in_archive(row: Row, archive: Path) -> Row:
    """Write the image of a row into a new archive, and return the row with the place of the image there."""
    with tarfile.open(archive, "w") as tar:
        tar.add(row.uri, row.filename)
    with tarfile.open(archive) as tar:
        (member,) = tar.getmembers()
    return row._replace(uri=f"{archive}#{row.filename}", byte_offset=member.offset_data, byte_size=member.size)


def some_of_each(folder: Path) -> list[Row]:
    """Rows of all tasks on four images, one of which is missing, and two failures."""
    rows = []
    for name in ("a.jpg", "b.png", "sub/c.jpg"):
        rows += [
            draw_row(folder, name, caption=f"A picture named {name}."),
            draw_row(folder, name, task="query", prompt="What is it?", caption="yes", output_tokens=1),
            draw_row(folder, name, task="detect", prompt="cat", caption=None, objects=(Box(0.25, 0.5, 0.75, 1.0),) * 2),
            draw_row(folder, name, task="point", prompt="cat", caption=None, points=(Spot(0.5, 0.25),)),
        ]
    rows.append(row_of(folder / "gone.jpg", "gone.jpg", caption="", finish_reason="length"))
    rows.append(failure(id="f1", filename="broken.jpg", stage="decode", error="UndecodableError", message="cut off"))
    rows.append(failure(id="f2", key="k2", filename="far.jpg", stage="fetch", error="FetchError", message="404"))
    return rows
