"""A model's name leads to its weights, the same ones for every worker."""

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


def test_a_folder_of_that_name_goes_before_the_hub(folder):
    source = find_source("owner/name")
    assert isinstance(source, LocalModel)
    assert source.tasks == {Caption, Query, Detect, Point}


def test_a_worker_finds_the_folder_from_wherever_it_runs(folder, tmp_path):
    pickled = pickle.dumps(find_source("owner/name"))
    os.chdir("/")
    assert pickle.loads(pickled).checkpoint().weights == (folder / "model.safetensors",)


def test_a_worker_without_the_folder_says_so(folder):
    source = find_source("owner/name")
    shutil.rmtree(folder)
    with pytest.raises(RuntimeError, match=f"model owner/name: {folder} is not on this worker; name a bucket or a hub"):
        source.checkpoint()


def test_weights_that_changed_since_the_job_was_planned_are_refused(folder):
    source = find_source("owner/name")
    with (folder / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(RuntimeError, match="owner/name: the weights are not those that the job was planned with"):
        source.checkpoint()


def test_the_embedded_one_is_found_in_the_package_of_each_worker():
    source = find_source("tiny")
    assert str(EMBEDDED["tiny"]).encode() not in pickle.dumps(source)


@pytest.mark.parametrize("options", [("2025-01-09", None), (None, "words")])
def test_the_embedded_one_is_as_it_is(options):
    with pytest.raises(ValueError, match="tiny: it is embedded and has one revision and one tokenizer"):
        find_source("tiny", *options)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/a/b", "../a", "weights/mine.safetensors", ".hidden/name"])
def test_what_is_neither_here_nor_a_name_of_the_hub_is_refused(name):
    with pytest.raises(ValueError, match="no such folder; give one with config.json.*vikhyatk/moondream2, or 'tiny'"):
        find_source(name)
