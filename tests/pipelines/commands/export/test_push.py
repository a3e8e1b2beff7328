"""``moondream-beam push``: an output becomes a dataset on the hub, which `datasets` loads and the viewer shows."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from PIL import Image
from support.data.outputs import publish, record
from support.data.rows import annotation, failure
from support.servers.hub import TOKEN, Hub

from moondream_beam.transforms.dataset.push import files
from moondream_beam.transforms.dataset.push.card import size_category
from moondream_beam.transforms.output.dataset_card import update_card, write_card

NAME = "datasets/ann/answers"
RUN = "20300102T030405-aaaa"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Return an empty hub, and set the token that may write to it."""
    hub = Hub()
    with hub.serving(monkeypatch, tmp_path / "cache"):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an output of two runs: four captions and one box of three pictures in two shards, and two failures."""
    out, rows = tmp_path / "out", []
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        path = tmp_path / "pictures" / f"p{number}.png"
        Image.new("RGB", (30 + number, 20), (80 * number, 9, 9)).save(path)
        about = {"key": f"k{number}", "uri": str(path), "sha256": sha256(path.read_bytes()).hexdigest(), "run": RUN}
        rows.append(annotation(id=f"a{number}", task="caption", prompt="short", **about))
    rows.append(annotation(id="a3", task="query", prompt="<b>a|b</b>?", **about))
    publish(out, rows[:2])
    publish(out, [*rows[2:], failure(id="f0", run=RUN), failure(id="f1", run=RUN)], shard=1)
    write_card(str(out), run=RUN)
    (out / "report.html").write_text("<p>report</p>")
    record(out, RUN, annotations=4, failures=2)
    return out


def pushed(hub: Hub) -> dict[str, bytes]:
    """Return the files of the dataset at the head of its branch."""
    repository = hub.repositories[NAME]
    return repository.commits[repository.refs["main"]]


def load(hub: Hub, folder: Path, *config: str) -> list[dict[str, Any]]:
    """Return the rows that `datasets` loads from the pushed files, sorted by id."""
    for name, content in pushed(hub).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    loaded = datasets.load_dataset(str(folder), *config, split="train", cache_dir=str(folder / ".cache"))
    return sorted(loaded, key=lambda row: row["id"])


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Return the rows in ``data``, sorted by id."""
    tables = [pq.read_table(path) for path in (output / "data").glob("*.parquet")]
    return pa.concat_tables(tables).sort_by("id").to_pylist()


def test_a_pushed_output_loads_with_all_rows_card_and_report(
    hub: Hub, out: Path, tmp_path: Path, command: Command
) -> None:
    status, stdout, stderr = command("push", out, "ann/answers")
    assert status == 0, stderr
    assert f"{hub.url}/datasets/ann/answers" in stdout
    assert "4 of 4 rows" in stderr, "the rows have paths of this machine"
    assert load(hub, tmp_path / "loaded") == rows_of(out)
    assert [row["id"] for row in load(hub, tmp_path / "errors", "errors")] == ["f0", "f1"]
    assert pushed(hub)["report.html"] == b"<p>report</p>"
    card = DatasetCard(pushed(hub)["README.md"].decode())
    assert card.data.language == ["en"]
    assert card.data.task_categories == ["image-to-text", "visual-question-answering"]
    assert card.data.size_categories == ["n<1K"]
    assert 'load_dataset("ann/answers", split="train")' in card.text
    assert str(tmp_path) not in card.content
    assert "<b>" not in card.text, "a prompt must not change the page"
    for text in ("3 pictures with 4 answers", "2 requests failed", "| short | 3 |"):
        assert text in card.text
    for column in rows_of(out)[0]:
        assert column in card.text.replace("\\", "")


def test_pictures_become_a_column_that_datasets_decodes(hub: Hub, out: Path, tmp_path: Path, command: Command) -> None:
    status, _, stderr = command("push", out, "ann/answers", "--with-images")
    assert status == 0, stderr
    loaded = load(hub, tmp_path / "loaded")
    for row, source in zip(loaded, rows_of(out), strict=True):
        with Image.open(source["uri"]) as picture:
            assert list(row.pop("image").get_flattened_data()) == list(picture.get_flattened_data())
        assert row == source


def test_a_picture_that_changed_is_null_and_told(hub: Hub, out: Path, tmp_path: Path, command: Command) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "pictures" / "p0.png")
    (tmp_path / "pictures" / "p1.png").unlink()
    status, _, stderr = command("push", out, "ann/answers", "--with-images")
    assert status == 1
    assert "1 of the rows have no picture; each has changed" in stderr
    assert "1 of the rows have no picture; each can't be fetched" in stderr
    assert [row["image"] is None for row in load(hub, tmp_path / "loaded")] == [True, True, False, False]


def test_a_manifest_column_named_image_stays(hub: Hub, out: Path, tmp_path: Path, command: Command) -> None:
    row = annotation(id="b", uri=str(tmp_path / "pictures/p0.png"), run=RUN, columns=("mine",))
    publish(tmp_path / "kept", [row], [pa.field("image", pa.string())])
    command("push", tmp_path / "kept", "ann/answers", "--with-images")
    (name,) = [name for name in pushed(hub) if name.startswith("data/")]
    assert pq.read_table(io.BytesIO(pushed(hub)[name])).column_names[-2:] == ["image", "image_2"]


def test_an_upload_that_stopped_is_continued(
    hub: Hub, out: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is a batch here, and the second commit is refused."""
    monkeypatch.setattr(files, "MAX_STAGED_BYTES", 1)
    hub.kept_commits, hub.lost = 1, 1
    status, _, stderr = command("push", out, "ann/answers", "--with-images")
    assert status == 1
    assert "run the same command again" in stderr and TOKEN not in stderr
    assert len([name for name in pushed(hub) if name.startswith("data/")]) == 1
    before = pushed(hub)
    hub.kept_commits = 100
    assert command("push", out, "ann/answers", "--with-images")[0] == 0
    assert before.items() <= pushed(hub).items()
    assert [row["id"] for row in load(hub, tmp_path / "loaded")] == ["a0", "a1", "a2", "a3"]


def test_a_push_that_was_killed_is_made_whole_by_the_next(
    hub: Hub, out: Path, tmp_path: Path, command: Command
) -> None:
    """The kill comes when the files are there, and the card is not."""
    hub.kept_commits, hub.held = 1, threading.Event()
    words = [sys.executable, "-m", "moondream_beam.pipelines.cli", "push", out, "ann/answers"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert hub.held.wait(120)
        process.kill()
        printed, _ = process.communicate()
    assert TOKEN.encode() not in printed
    assert "README.md" not in pushed(hub) and len(pushed(hub)) > 1
    hub.kept_commits = 100
    assert command("push", out, "ann/answers")[0] == 0
    assert load(hub, tmp_path / "loaded") == rows_of(out)


def test_a_second_push_uploads_nothing_new_and_deletes_what_is_gone(hub: Hub, out: Path, command: Command) -> None:
    assert command("push", out, "ann/answers")[0] == 0
    before, posts = pushed(hub), [path for method, path, _ in hub.seen if "/commit/" in path]
    assert command("push", out, "ann/answers")[0] == 0
    commits = [path for method, path, _ in hub.seen if "/commit/" in path]
    assert pushed(hub) == before
    assert len(commits) - len(posts) <= 1, "at most the report is committed again"
    (gone,) = (out / "data").glob("*-00001.parquet")
    gone.unlink()
    assert command("push", out, "ann/answers")[0] == 0
    assert before.keys() - pushed(hub).keys() == {f"data/{gone.name}"}


def test_text_and_licence_of_an_edited_card_are_pushed(hub: Hub, out: Path, command: Command) -> None:
    card = (out / "README.md").read_text().replace("tags:", "license: cc-by-4.0\ntags:\n- pets")
    (out / "README.md").write_text(card.replace("# Annotated images", "# My pets"))
    update_card(str(out), RUN)
    assert command("push", out, "ann/answers")[0] == 0
    card = DatasetCard(pushed(hub)["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert {"pets", "moondream-beam"} <= set(card.data.tags)
    assert card.text.lstrip().startswith("# My pets")


def test_a_card_that_was_edited_on_the_hub_stays(hub: Hub, out: Path, command: Command) -> None:
    command("push", out, "ann/answers")
    edited = pushed(hub)["README.md"].replace(b"# answers", b"# Ours")
    hub.add(NAME, pushed(hub) | {"README.md": edited})
    status, _, stderr = command("push", out, "ann/answers")
    assert status == 0
    assert "card" in stderr and hub.url in stderr
    assert pushed(hub)["README.md"] == edited


def test_what_cannot_be_pushed_is_refused_before_the_upload(
    hub: Hub, out: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("datasets/ann/other", {"data/train-0.parquet": b""})
    for words, said in (
        ((out, "answers"), "OWNER/NAME"),
        ((out, "ann/other"), "data/train-0.parquet"),
        ((out, "ann/other", "--private"), "public"),
        ((out / "none", "ann/answers"), "no rows"),
    ):
        status, _, stderr = command("push", *words)
        assert (status, said in stderr, len(stderr.splitlines())) == (2, True, 1), stderr
    for token, said in ((None, "HF_TOKEN"), ("hf_other", "write access")):
        monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
        status, _, stderr = command("push", out, "ann/answers")
        assert (status, said in stderr, "hf_other" in stderr) == (2, True, False)
    assert NAME not in hub.repositories


def test_a_private_dataset_stays_private(hub: Hub, out: Path, command: Command) -> None:
    assert command("push", out, "ann/answers", "--private")[0] == 0
    assert hub.repositories[NAME].gate == "hidden"
    assert command("push", out, "ann/answers", "--private")[0] == 0
    assert not [name for name, content in pushed(hub).items() if TOKEN.encode() in content]


@pytest.mark.parametrize(
    ("rows", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")]
)
def test_sizes_have_the_names_of_the_hub(rows: int, name: str) -> None:
    assert size_category(rows) == name
    assert re.fullmatch(r"n<1K|n>1T|\d+[KMBT]<n<\d+[KMBT]", name)
