"""Folders of ``datasets.save_to_disk``: which Arrow files are read."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from moondream_beam.transforms.inputs.lists.saved_datasets import find_saved_split, is_saved_dataset
from moondream_beam.transforms.inputs.lists.table_files import find_manifests


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the folder of a saved dataset of four rows in two files."""
    datasets.Dataset.from_dict({"text": list("abcd")}).save_to_disk(tmp_path / "saved", num_shards=2)
    return tmp_path / "saved"


def names(pattern: object) -> list[str]:
    """Return the names of the tables that a pattern matches; anything that is left out is named with its kind."""
    return [found.rsplit("/", 1)[1] if isinstance(found, str) else f"left out: {found.skipped}" for found in
            find_manifests(str(pattern))]  # fmt: skip


def test_results_of_map_beside_the_files_are_passed_over(saved: Path) -> None:
    """They have the rows of the dataset again: each picture would have a row of each."""
    files = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    datasets.load_from_disk(saved).map(lambda row: {"text": row["text"] * 2})
    (cache,) = saved.glob("cache-*.arrow")
    assert names(saved) == names(saved / "*.arrow") == files
    assert names(cache) == [cache.name]


def test_a_missing_file_is_refused(saved: Path) -> None:
    (saved / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match="data-00001-of-00002.arrow"):
        names(saved)


def test_a_split_is_a_folder(tmp_path: Path, saved: Path) -> None:
    part = datasets.Dataset.from_dict({"text": ["a"]})
    splits = tmp_path / "splits"
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(splits)
    assert names(splits) == ["data-00000-of-00001.arrow"] * 2
    assert find_saved_split(f"{splits}/", "test") == f"{splits}/test"
    with pytest.raises(ValueError, match="choose of train, test"):
        find_saved_split(str(splits), "val")
    with pytest.raises(ValueError, match="leave out --split"):
        find_saved_split(str(tmp_path), "train")
    assert [is_saved_dataset(str(each)) for each in (splits, splits / "test", saved, tmp_path)] == [True] * 3 + [False]


@pytest.mark.parametrize(
    "state", ["[]", "{", "{}", '{"_data_files": 3}', '{"_data_files": ["a"]}', '{"_data_files": [{}]}']
)
def test_a_state_of_another_program_is_passed_over(saved: Path, state: str) -> None:
    (saved / "state.json").write_text(state)
    assert len(names(saved)) == 2


def test_splits_that_are_no_list_of_names_are_none(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": "train"}')
    with pytest.raises(ValueError, match="no such split"):
        find_saved_split(str(tmp_path), "rain")
