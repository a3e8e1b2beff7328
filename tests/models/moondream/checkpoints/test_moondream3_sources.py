"""Moondream 3 on the hub and in a bucket: only the shards of the index are fetched, and the licence is logged once."""

import json
import logging

import fsspec
import pytest
from safetensors.torch import load_file, save
from support.data.golden import Golden
from support.servers.hub import Hub

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints import hub as ours
from moondream_beam.models.tasks import Caption, Detect, Point, Query

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def files():
    """A repository as that of the preview: shards of both generations, an index that names the newer, and a pickle."""
    newer, older = Golden("moondream3"), Golden("moondream3/noregionln")
    tensors = load_file(newer.folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"modelv2-00001-of-00002.safetensors": names[:50], "modelv2-00002-of-00002.safetensors": names[50:]}
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    return {
        "config.json": (newer.folder / "config.json").read_bytes(),
        "tokenizer.json": newer.tokenizer_path.read_bytes(),
        INDEX: json.dumps(index).encode(),
        "model-00001-of-00001.safetensors": (older.folder / "model.safetensors").read_bytes(),
        "model_fp8.pt": b"a pickle",
        **{file: save({name: tensors[name] for name in part}) for file, part in parts.items()},
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub().serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def on_cpu(*names, **options):
    return Moondream(*names, device="cpu", dtype="float32", **options)


def assert_is_newer(engine):
    assert engine.config.region.norm
    expected = Golden("moondream3").engine.model.state_dict()
    assert all((expected[name] == tensor).all() for name, tensor in engine.model.state_dict().items())


def test_only_the_shards_of_the_index_are_downloaded_from_the_hub(hub, files):
    commit = hub.add("some/preview", files)
    model = on_cpu("some/preview")
    assert (model.revision, model.supports_reasoning) == (commit, True)
    assert model.tasks == {Caption, Query, Detect, Point}
    assert_is_newer(model.load())
    assert not hub.fetched("model_fp8.pt") and not hub.fetched("model-00001-of-00001.safetensors")


def test_a_repository_without_a_tokenizer_gets_that_of_starmie(hub, files, monkeypatch):
    starmie = {"tokenizer.json": files["tokenizer.json"]}
    monkeypatch.setattr(ours, "STARMIE_COMMIT", hub.add(ours.STARMIE, starmie))
    hub.add("some/preview", {name: content for name, content in files.items() if name != "tokenizer.json"})
    assert_is_newer(on_cpu("some/preview").load())


def test_the_first_download_logs_the_licence_once(hub, files, caplog):
    hub.add("some/preview", files)
    with caplog.at_level(logging.WARNING):
        on_cpu("some/preview").fetch()
        (record,) = caplog.records
        on_cpu("some/preview").load()
    assert caplog.records == [record]
    assert "some/preview: " in record.getMessage() and "Business Source License 1.1" in record.getMessage()


def test_weights_of_moondream_2_log_no_licence(hub, toy_folder, caplog):
    hub.add("some/model", {path.name: path.read_bytes() for path in toy_folder.iterdir()})
    with caplog.at_level(logging.WARNING):
        on_cpu("some/model").fetch()
    assert caplog.records == []


def test_the_preview_is_pinned_without_network(monkeypatch, tmp_path):
    with Hub().serving(monkeypatch, tmp_path) as hub:
        model = Moondream("moondream/moondream3-preview", device="cpu")
        assert hub.seen == []
    assert model.revision == "5112966d1a723413b1c9a1e8bea272b72e647b35"
    assert model.supports_reasoning and model.tasks == {Caption, Query, Detect, Point}


def test_only_the_shards_of_the_index_are_copied_from_a_bucket(files, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    filesystem = fsspec.filesystem("memory")
    for name, content in files.items():
        filesystem.pipe(f"/preview/{name}", content)
    with caplog.at_level(logging.WARNING):
        assert_is_newer(on_cpu("memory://preview").load())
        on_cpu("memory://preview").load()
    assert ["Business Source License 1.1" in record.getMessage() for record in caplog.records] == [True]
    copied = {path.name for path in tmp_path.rglob("*.safetensors")} | {path.name for path in tmp_path.rglob("*.pt")}
    assert copied == {"modelv2-00001-of-00002.safetensors", "modelv2-00002-of-00002.safetensors"}
