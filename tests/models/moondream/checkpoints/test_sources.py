"""The source of a model is found by its name, and every worker gets the same weights."""

import os
import pickle
import shutil

import pytest

from moondream_beam.models.moondream.checkpoints.sources import EMBEDDED, LocalModel, find_source
from moondream_beam.models.tasks import Caption, Detect, Point, Query


@pytest.fixture
def folder(toy_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(toy_folder, tmp_path / "owner" / "name")


def test_a_folder_takes_precedence_over_the_hub(folder):
    source = find_source("owner/name")
    assert isinstance(source, LocalModel)
    assert source.traits.tasks == {Caption, Query, Detect, Point}


def test_a_worker_finds_a_relative_folder_from_another_working_folder(folder, tmp_path):
    pickled = pickle.dumps(find_source("owner/name"))
    os.chdir("/")
    assert pickle.loads(pickled).checkpoint().weights == (folder / "model.safetensors",)


def test_a_worker_without_the_folder_is_an_error(folder):
    source = find_source("owner/name")
    shutil.rmtree(folder)
    with pytest.raises(RuntimeError, match=f"model owner/name: {folder} is not on this worker; copy it there, or name"):
        source.checkpoint()


def test_weights_that_changed_after_planning_are_refused(folder):
    source = find_source("owner/name")
    with (folder / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(RuntimeError, match="owner/name: the weights changed after planning; run the same"):
        source.checkpoint()


def test_a_pickle_of_the_embedded_source_holds_no_path():
    source = find_source("tiny")
    assert str(EMBEDDED["tiny"]).encode() not in pickle.dumps(source)


@pytest.mark.parametrize("options", [("2025-01-09", None), (None, "words")])
def test_the_embedded_model_refuses_revision_and_tokenizer(options):
    with pytest.raises(ValueError, match="tiny: it has one revision and one tokenizer; omit --revision"):
        find_source("tiny", *options)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/a/b", "../a", "weights/mine.safetensors", ".hidden/name"])
def test_a_name_that_is_neither_a_path_nor_a_repository_is_refused(name):
    with pytest.raises(
        ValueError, match="no such folder; give a folder with config.json.*vikhyatk/moondream2, or 'tiny'"
    ):
        find_source(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tniy", "tiny"),
        ("Tiny", "tiny"),
        ("moondream", "vikhyatk/moondream2"),
        ("mondream2", "vikhyatk/moondream2"),
        ("moondream3", "moondream/moondream3-preview"),
        ("moondream3.1", "moondream/moondream3.1-9B-A2B"),
    ],
)
def test_an_unknown_name_gets_the_model_that_is_most_like_it(name, meant):
    with pytest.raises(ValueError, match=f"did you mean {meant}\\?$"):
        find_source(name)


def test_a_name_that_is_like_no_model_gets_none():
    with pytest.raises(ValueError) as error:
        find_source("photographs")
    assert "did you mean" not in str(error.value)
