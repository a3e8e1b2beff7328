"""Datasets of the Hugging Face hub as input: one commit for a whole run, in its record and in its rows."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.servers.hub import TOKEN, Hub

SET = "hf://datasets/ann/pets"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Return an empty hub."""
    hub = Hub()
    with hub.serving(monkeypatch, tmp_path / "cache"):
        yield hub


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of the files below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table_of(pictures: Path, column: str = "image") -> bytes:
    """Return a Parquet file with the features of ``datasets``: four pictures, and their names."""
    names = sorted(name for name in files_of(pictures) if name != "broken.jpg")
    features = datasets.Features({"name": datasets.Value("string"), column: datasets.Image()})
    rows = {"name": names, column: [{"bytes": (pictures / name).read_bytes(), "path": name} for name in names]}
    file = io.BytesIO()
    datasets.Dataset.from_dict(rows, features).to_parquet(file)
    return file.getvalue()


def rows(output: Path, kind: str = "data") -> list[dict[str, Any]]:
    """Return all rows in ``data`` or ``errors``, sorted by URI."""
    tables = [pq.read_table(path) for path in sorted((output / kind).glob("*.parquet"))]
    return pa.concat_tables(tables).sort_by("uri").to_pylist()


def records(output: Path) -> list[dict[str, Any]]:
    """Return the records of all runs, sorted by name."""
    return [json.loads(path.read_text()) for path in sorted((output / "runs").glob("*.json"))]


def words(source: object, output: Path, *more: object) -> tuple[object, ...]:
    """Return the arguments that annotate a source."""
    return "annotate", source, *more, "--model", "tiny", "--output", output, "--caption", "--no-report"


def test_a_run_keeps_to_one_commit_and_the_same_command_asks_nothing(
    hub: Hub, pictures: Path, tmp_path: Path, command: Command
) -> None:
    commit = hub.add("datasets/ann/pets", {f"train/{name}": data for name, data in files_of(pictures).items()})
    out = tmp_path / "out"
    status, stdout, _ = command(*words(f"{SET}/train", out))
    assert status == 1, "one picture is broken, and no failure is allowed"
    assert "5 requests = 4 in data/ + 1 in errors/: balances" in stdout
    names = ("a.png", "b.jpg", "c.webp", "more/d.bmp")
    assert [row["uri"] for row in rows(out)] == [f"{SET}@{commit}/train/{name}" for name in names]
    assert [record["options"]["inputs"] for record in records(out)] == [[f"{SET}@{commit}/train"]]
    _, stdout, _ = command(*words(f"{SET}/train", out))
    assert "0 requests = 0 in data/ + 0 in errors/: balances" in stdout
    assert len(rows(out)) == 4


def test_another_commit_is_refused_until_it_is_named(
    hub: Hub, pictures: Path, tmp_path: Path, command: Command
) -> None:
    """Otherwise a new README of the dataset would ask about all its pictures again."""
    files = {name: data for name, data in files_of(pictures).items() if name != "broken.jpg"}
    old, out = hub.add("datasets/ann/pets", files), tmp_path / "out"
    assert command(*words(SET, out))[0] == 0
    new = hub.add("datasets/ann/pets", files | {"README.md": b"new"})
    for path in (None, *(out / "runs").glob("*.json")):
        if path:
            path.unlink()  # A run that was killed has no record.
        status, _, stderr = command(*words(SET, out))
        assert status == 2
        assert f"{SET}@{old}" in stderr and f"{SET}@{new}" in stderr
    assert command(*words(f"{SET}@{old}", out))[0] == 0
    assert len(rows(out)) == 4
    assert command(*words(f"{SET}@{new}", out))[0] == 0
    assert len(rows(out)) == 8
    assert command(*words(SET, out))[0] == 0
    assert len(rows(out)) == 8


def test_pictures_in_parquet_are_read_by_a_column(hub: Hub, pictures: Path, tmp_path: Path, command: Command) -> None:
    commit = hub.add("datasets/ann/pets", {"data/train-0.parquet": table_of(pictures), "README.md": b""})
    out = tmp_path / "out"
    options = ("--image-column", "image", "--keep-columns", "name")
    status, _, stderr = command("annotate", "--manifest", f"{SET}/data/*.parquet", *options, *words("", out)[2:])
    assert status == 0, stderr
    assert {row["name"]: row["uri"] for row in rows(out)} == {
        name: f"{SET}@{commit}/data/train-0.parquet#image/{number}/{name}"
        for number, name in enumerate(("a.png", "b.jpg", "c.webp", "more/d.bmp"), 1)
    }


def test_a_token_is_in_no_file_and_no_line(
    hub: Hub, pictures: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("datasets/ann/pets", files_of(pictures), gate="hidden")
    status, _, stderr = command(*words(SET, tmp_path / "out"))
    assert (status, "HF_TOKEN" in stderr) == (2, True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    status, stdout, stderr = command(*words(SET, tmp_path / "out"))
    assert status == 1
    assert TOKEN not in stdout + stderr
    assert not [name for name, data in files_of(tmp_path / "out").items() if TOKEN.encode() in data]
    assert f"Bearer {TOKEN}" in hub.tokens


def asked(hub: Hub, output: Path, command: Command, *more: str) -> tuple[int, str]:
    """Annotate the dataset with more options; return exit status and standard error."""
    status, _, stderr = command("annotate", "--manifest", SET, *more, *words("", output)[2:])
    return status, stderr


@pytest.mark.parametrize(
    ("names", "card", "options", "read"),
    [
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), "", ("--split", "train"), 0),
        (("en/train-00000-of-00001.parquet", "de/train-00000-of-00001.parquet"), "", ("--config", "de"), 1),
        (
            ("a.parquet", "b.parquet"),
            "configs:\n- config_name: x\n  data_files:\n  - split: test\n    path: b.parquet\n  - split: train\n"
            "    path: [a.*]\n",
            ("--config", "x", "--split", "test"),
            1,
        ),
        (("a.parquet", "b.parquet"), "configs:\n- config_name: default\n  data_files: b.*\n", ("--split", "train"), 1),
    ],
)
def test_a_split_is_found_by_the_card_or_by_names(
    hub: Hub,
    pictures: Path,
    tmp_path: Path,
    command: Command,
    names: tuple[str, ...],
    card: str,
    options: tuple[str, ...],
    read: int,
) -> None:
    """The column of pictures is found by its feature."""
    files = {name: table_of(pictures, "photo") for name in names}
    commit = hub.add("datasets/ann/pets", files | {"README.md": f"---\n{card}---\n# Pets\n".encode()})
    status, stderr = asked(hub, tmp_path / "out", command, *options)
    assert status == 0, stderr
    assert "column photo" in stderr
    assert {row["uri"].partition("#photo/")[0] for row in rows(tmp_path / "out")} == {f"{SET}@{commit}/{names[read]}"}
    assert len(rows(tmp_path / "out")) == 4


def test_pictures_in_other_files_are_read_from_the_converted_branch(
    hub: Hub, pictures: Path, tmp_path: Path, command: Command
) -> None:
    """Its commit is in the record, and a second run asks nothing."""
    hub.add("datasets/ann/pets", files_of(pictures))
    converted = {"default/train/0000.parquet": table_of(pictures), "default/partial-test/0000.parquet": b""}
    commit, out = hub.add("datasets/ann/pets", converted, "refs/convert/parquet"), tmp_path / "out"
    for _ in range(2):
        status, stderr = asked(hub, out, command, "--split", "train")
        assert status == 0, stderr
    assert {row["uri"].partition("#")[0] for row in rows(out)} == {f"{SET}@{commit}/default/train/0000.parquet"}
    assert len(rows(out)) == 4
    assert [record["options"]["tables"] for record in records(out)] == [[f"{SET}@{commit}/default/train/*.parquet"]] * 2
    status, stderr = asked(hub, tmp_path / "other", command, "--split", "test")
    assert (status, "only the first part" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "val"), "--config en --split train"),
        (("--config", "fr", "--split", "train"), "--config de --split train"),
        (("--split", "train"), "--config en --split train"),
    ],
)
def test_a_split_that_is_not_there_is_refused_with_those_that_are(
    hub: Hub, pictures: Path, tmp_path: Path, command: Command, options: tuple[str, ...], said: str
) -> None:
    hub.add("datasets/ann/pets", {f"{name}/train-00000-of-00001.parquet": b"" for name in ("de", "en")})
    status, stderr = asked(hub, tmp_path / "out", command, *options)
    assert (status, said in stderr, len(stderr.splitlines())) == (2, True, 1), stderr


def test_a_local_manifest_has_no_splits_and_two_columns_of_pictures_need_a_choice(
    hub: Hub, pictures: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "list.parquet").write_bytes(table_of(pictures))
    status, _, stderr = command(
        "annotate", "--manifest", tmp_path / "list.parquet", "--split", "x", *words("", "o")[2:]
    )
    assert (status, "--split" in stderr) == (2, True)
    features = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    both = datasets.Dataset.from_dict({"left": [None], "right": [None]}, features)
    both.to_parquet(tmp_path / "both.parquet")
    status, _, stderr = command("annotate", "--manifest", tmp_path / "both.parquet", *words("", tmp_path / "o")[2:])
    assert (status, "--image-column left or right" in stderr) == (2, True)


def test_the_commands_of_the_readme_lead_from_the_hub_to_a_file_for_llava(
    hub: Hub, pictures: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (block,) = re.findall(
        r"^```sh\n(moondream-beam annotate --manifest hf://.*?)^```", readme, re.MULTILINE | re.DOTALL
    )
    hub.add("datasets/ann/pets", {"data/train-00000-of-00001.parquet": table_of(pictures)})
    monkeypatch.chdir(tmp_path)
    first, *others = [line.split()[1:] for line in block.replace("OWNER/NAME", "ann/pets").splitlines()]
    for given in ([*first, "--model", "tiny", "--no-report"], *others):
        status, _, stderr = command(*given)
        assert status == 0, stderr
    samples = json.loads((tmp_path / "train-set" / "train.json").read_text())
    assert len(samples) == 4 and {len(sample["conversations"]) for sample in samples} == {2}
    for sample in samples:
        with Image.open(tmp_path / "train-set" / sample["image"]) as image:
            assert image.size > (1, 1)
