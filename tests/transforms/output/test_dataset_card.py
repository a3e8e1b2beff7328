"""The card gives `datasets` the present rows from its default cache, and keeps what others have written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard
from support.data.rows import annotation, failure

from moondream_beam.transforms.core.records import Row
from moondream_beam.transforms.output.dataset_card import begin_card, update_card, write_card
from moondream_beam.transforms.output.writer import ShardWriter

# The card of versions that gave it no state.
STATELESS = """---
configs:
- config_name: default
  data_files: data/*.parquet
- config_name: errors
  data_files: errors/*.parquet
tags:
- moondream-beam
---
# Annotated images
"""
FOREIGN = "---\nlicense: cc-by-4.0\n---\n# My pictures\n\nWritten by hand.\n"


@pytest.fixture(autouse=True)
def default_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `datasets` one cache, which all loads of a test share as the loads of a user do."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def publish(out: Path, run: str, *rows: Row, shard: int = 0) -> None:
    writer = ShardWriter(str(out), run, shard)
    for row in rows:
        writer.add(row)
    writer.publish()


def load(out: Path, *config: str) -> list[str]:
    """Return the ids of the rows as `datasets` gives them, without a ``cache_dir``."""
    return sorted(datasets.load_dataset(str(out), *config)["train"]["id"])


def text(out: Path) -> str:
    return (out / "README.md").read_bytes().decode()


def without_states(card: str) -> str:
    return re.sub(r", state [0-9a-f]{8}", "", card)


def test_two_outputs_of_the_same_name_load_their_own_rows(tmp_path: Path) -> None:
    for project in ("a", "b"):
        publish(
            tmp_path / project / "out", "one", annotation(id=f"row of {project}"), failure(id=f"failure of {project}")
        )
        assert write_card(str(tmp_path / project / "out"), run="one") == "written"
    for project in ("a", "b", "a"):
        assert load(tmp_path / project / "out") == [f"row of {project}"]
        assert load(tmp_path / project / "out", "errors") == [f"failure of {project}"]


def test_rows_of_a_later_run_are_loaded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number, run in enumerate(("one", "two", "three")):
        publish(out, run, annotation(id=str(number)), failure(id=f"f{number}"))
        write_card(str(out), run=run)
        assert load(out) == ["0", "1", "2"][: number + 1]
        assert load(out, "errors") == ["f0", "f1", "f2"][: number + 1]


def test_rows_that_a_run_adds_after_a_load_are_loaded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin_card(str(out), "one")
    for shard in range(3):
        publish(out, "one", annotation(id=str(shard)), shard=shard)
        update_card(str(out), "one")
        assert load(out) == ["0", "1", "2"][: shard + 1]


def test_a_run_that_adds_no_row_leaves_the_card_as_it_is(tmp_path: Path) -> None:
    publish(tmp_path, "one", annotation())
    write_card(str(tmp_path), run="one")
    before = text(tmp_path)
    assert write_card(str(tmp_path), run="two", has_new_rows=False) == "updated"
    assert text(tmp_path) == before
    write_card(str(tmp_path), run="two")
    assert "moondream-beam run two, state" in text(tmp_path) and "run one" not in text(tmp_path)


def test_the_first_card_is_there_before_the_first_row(tmp_path: Path) -> None:
    begin_card(str(tmp_path), "one")
    first = text(tmp_path)
    assert first.count("description: ") == 2 and not (tmp_path / "data").exists()
    begin_card(str(tmp_path), "one")
    assert text(tmp_path) == first
    begin_card(str(tmp_path), "two")
    assert "moondream-beam run two, state" in text(tmp_path) and "run one" not in text(tmp_path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_of_an_edited_card_only_the_state_changes(tmp_path: Path, newline: str) -> None:
    publish(tmp_path, "one", annotation(id="1"))
    write_card(str(tmp_path), run="one")
    edited = text(tmp_path).replace("tags:\n", "license: cc-by-4.0 # ours\ntags:\n- döner\n") + "\n## Thanks\n\n---\n"
    (tmp_path / "README.md").write_bytes(edited.replace("\n", newline).encode())
    assert load(tmp_path) == ["1"]
    publish(tmp_path, "two", annotation(id="2"))
    assert write_card(str(tmp_path), run="two") == "edited"
    assert without_states(text(tmp_path)) == without_states(edited).replace("run one", "run two").replace("\n", newline)
    assert load(tmp_path) == ["1", "2"]


def test_a_card_that_the_hub_client_has_rewritten_gets_new_states(tmp_path: Path) -> None:
    run = "20260101T000000-abcd-3of16"
    publish(tmp_path, run, annotation(id="1"))
    write_card(str(tmp_path), run=run)
    card = DatasetCard.load(tmp_path / "README.md")
    card.data.license = "mit"
    card.save(tmp_path / "README.md")
    assert load(tmp_path) == ["1"]
    publish(tmp_path, "two", annotation(id="2"))
    assert write_card(str(tmp_path), run="two") == "edited"
    assert load(tmp_path) == ["1", "2"]
    assert DatasetCard.load(tmp_path / "README.md").data.license == "mit"


@pytest.mark.parametrize(
    "before",
    [
        STATELESS,
        STATELESS.replace("- config_name: default\n  data_files: ", "- data_files: ").replace(
            "data/*.parquet\n", "data/*.parquet\n  config_name: default\n", 1
        ),
        STATELESS.replace("  data_files: data/*.parquet", "    data_files: 'data/*.parquet'").replace(
            "- config_name: default", "-   config_name: default"
        ),
        # An entry that describes itself stays, and the other one gets the state.
        STATELESS.replace("  data_files: data/", "  description: our captions\n  data_files: data/"),
    ],
)
def test_a_card_without_a_state_gets_one_and_keeps_all_its_lines(tmp_path: Path, before: str) -> None:
    publish(tmp_path, "one", annotation(id="1"))
    (tmp_path / "README.md").write_text(before)
    assert load(tmp_path) == ["1"]
    publish(tmp_path, "two", annotation(id="2"))
    assert write_card(str(tmp_path), run="two") == "edited"
    added = [line for line in text(tmp_path).splitlines() if "moondream-beam run two" in line]
    assert len(added) == 1 and text(tmp_path).replace(f"{added[0]}\n", "") == before
    assert load(tmp_path) == ["1", "2"]


@pytest.mark.parametrize(
    "content",
    [
        FOREIGN.encode(),
        b"",
        b"# Pictures\n\n  data_files: data/*.parquet\n",
        b"---\nno end of the front matter\n",
        "---\nconfigs:\n- config_name: a\n  data_files: mine/*.csv\n---\nÄrger".encode("latin-1"),
    ],
)
def test_a_card_of_somebody_else_is_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "README.md").write_bytes(content)
    begin_card(str(tmp_path), "one")
    publish(tmp_path, "one", annotation())
    assert update_card(str(tmp_path), "one") == write_card(str(tmp_path), run="one") == "foreign"
    assert (tmp_path / "README.md").read_bytes() == content


def test_a_link_and_a_folder_in_place_of_the_card_are_kept(tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "elsewhere.md").write_text(STATELESS)
    os.symlink(tmp_path / "elsewhere.md", tmp_path / "linked" / "README.md")
    (tmp_path / "folder" / "README.md").mkdir(parents=True)
    for name in ("linked", "folder"):
        assert write_card(str(tmp_path / name), run="one") == "foreign"
    assert (tmp_path / "linked" / "README.md").is_symlink() and (tmp_path / "elsewhere.md").read_text() == STATELESS
    assert list((tmp_path / "folder" / "README.md").iterdir()) == []
