"""A model on the hub is pinned to a commit and downloaded once, and each error is one line with a cure."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load, save
from support.servers.hub import TOKEN, Hub, point_client_at

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints import hub as ours
from moondream_beam.models.moondream.checkpoints.files import tokenizer_digest
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Request, Sampling

FILES = ("config.json", "model.safetensors", "tokenizer.json")
BRIEF = Sampling(max_tokens=4, temperature=0)


@pytest.fixture(scope="session")
def files(toy_folder):
    return {name: (toy_folder / name).read_bytes() for name in FILES}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch, cache):
    with Hub().serving(monkeypatch, cache) as hub:
        yield hub


def answers(model, pictures):
    requests = [Request(task.name, pictures[0], task, BRIEF) for task in (Caption(), Query("dog"), Detect("dog", 1))]
    return {outcome.id: outcome.result for outcome in model.answer(requests)}


def on_cpu(*names):
    return Moondream(*names, device="cpu")


def test_a_model_of_the_hub_gives_the_answers_of_a_folder(hub, files, toy_folder, toy_pictures):
    commit = hub.add("some/model", files)
    model = on_cpu("some/model")
    assert (model.name, model.revision) == ("some/model", commit)
    assert answers(model, toy_pictures) == answers(on_cpu(str(toy_folder)), toy_pictures)


def test_planning_reads_only_the_header_of_the_weights(hub, files):
    hub.add("some/model", files)
    on_cpu("some/model")
    assert hub.fetched("model.safetensors") == ["bytes=0-100000"]


def test_only_the_files_of_the_checkpoint_are_downloaded(hub, files):
    more = dict.fromkeys(("README.md", "pytorch_model.bin", "hf_moondream.py", "onnx/model.onnx"), b"more")
    hub.add("some/model", {**files, **more})
    on_cpu("some/model").load()
    assert not any(hub.fetched(name) for name in more)
    assert all(hub.fetched(name) for name in FILES)


def test_a_planned_job_keeps_its_commit_when_the_branch_moves(hub, files):
    commit = hub.add("some/model", files)
    planned = pickle.loads(pickle.dumps(on_cpu("some/model")))
    later = load(files["model.safetensors"])
    later["model.text.wte"] += 1
    newer = hub.add("some/model", {**files, "model.safetensors": save(later)})
    assert planned.revision == commit != newer == on_cpu("some/model").revision
    assert torch.equal(planned.load().model.text.wte, load(files["model.safetensors"])["model.text.wte"])


@pytest.mark.parametrize("revision", ["v1", "commit"])
def test_a_revision_may_be_a_tag_or_a_commit(hub, files, revision):
    first = hub.add("some/model", files, "v1")
    hub.add("some/model", {**files, "config.json": b"{}"}, "main")
    assert on_cpu("some/model", first if revision == "commit" else revision).revision == first


def test_files_are_downloaded_once(hub, files):
    hub.add("some/model", files)
    on_cpu("some/model").load()
    hub.seen.clear()
    on_cpu("some/model").load()
    assert not any(hub.fetched(name) for name in FILES)


def test_files_in_the_cache_need_no_network(hub, files, monkeypatch, cache):
    commit = hub.add("some/model", files)
    on_cpu("some/model").load()
    point_client_at(monkeypatch, "http://127.0.0.1:9", cache)
    model = on_cpu("some/model")
    assert model.revision == commit
    model.load()


def test_an_interrupted_download_resumes_at_its_last_byte(hub, files):
    hub.add("some/model", files)
    model, whole = on_cpu("some/model"), len(files["model.safetensors"])
    hub.seen.clear()
    hub.cut["model.safetensors"] = [100_000, 50_000]
    model.load()
    assert whole > 150_000
    assert hub.fetched("model.safetensors") == [None, "bytes=100000-", "bytes=150000-"]


def test_shards_are_read_by_their_index(hub, files, toy_folder, toy_pictures):
    tensors = load(files["model.safetensors"])
    names = [sorted(tensors)[::2], sorted(tensors)[1::2]]
    shards = {f"model-0000{number}-of-00002.safetensors": part for number, part in enumerate(names, 1)}
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    hub.add(
        "some/model",
        {"config.json": files["config.json"], "tokenizer.json": files["tokenizer.json"]}
        | {shard: save({name: tensors[name] for name in part}) for shard, part in shards.items()}
        | {"model.safetensors.index.json": json.dumps(index).encode()},
    )
    assert answers(on_cpu("some/model"), toy_pictures) == answers(on_cpu(str(toy_folder)), toy_pictures)


def test_the_official_model_is_pinned_and_planned_without_a_network(hub):
    model = Moondream()
    assert model.revision == "9a7d4024050840e001defacec2b00727e89149e6"
    assert model.tasks == {Caption, Query, Detect, Point}
    assert hub.seen == []


def test_the_official_model_gets_its_tokenizer_from_another_repository(hub, files, toy_pictures, monkeypatch):
    stale = files["tokenizer.json"].replace(b'"<|endoftext|>"', b'"<|other|>"')
    commit = hub.add(ours.OFFICIAL, {**files, "tokenizer.json": stale})
    words = hub.add(ours.STARMIE, {"tokenizer.json": files["tokenizer.json"]})
    monkeypatch.setitem(ours.PINNED, ours.OFFICIAL, (commit, "2025-06-21"))
    monkeypatch.setattr(ours, "STARMIE_COMMIT", words)
    model = pickle.loads(pickle.dumps(on_cpu(ours.OFFICIAL)))
    assert isinstance(answers(model, toy_pictures)["caption"].text, str)
    assert model.load().tokenizer.token(0) == "<|endoftext|>"


def test_a_tag_of_the_official_repository_is_its_release(hub, files):
    commit = hub.add(ours.OFFICIAL, {**files, "tokenizer.json": b"{}"}, "2025-03-27")
    with pytest.raises(ValueError, match="tokenizer"):
        on_cpu(ours.OFFICIAL, "2025-03-27").load()
    hub.add(ours.OFFICIAL, files, "2025-01-09")
    model = on_cpu(ours.OFFICIAL, "2025-01-09")
    assert model.load().model.region.config.size_scale == "linear"
    assert model.revision != commit


def test_a_tag_of_another_repository_is_not_a_release(hub, files):
    hub.add("some/model", files, "2025-01-09")
    assert on_cpu("some/model", "2025-01-09").load().model.region.config.size_scale == "log"


def test_a_given_tokenizer_is_part_of_the_revision(hub, files, toy_folder, tmp_path):
    commit = hub.add("some/model", {name: files[name] for name in ("config.json", "model.safetensors")})
    words = shutil.copy(toy_folder / "tokenizer.json", tmp_path)
    model = on_cpu("some/model", None, str(words))
    assert model.revision == f"{commit}+{tokenizer_digest(tmp_path / 'tokenizer.json')}"
    model.load()
    (tmp_path / "tokenizer.json").write_bytes(files["tokenizer.json"] + b"\n")
    with pytest.raises(RuntimeError, match="tokenizer.json: it changed after planning; run the same command again"):
        pickle.loads(pickle.dumps(model)).load()
    with pytest.raises(ValueError, match="tokenizer .*/nowhere.json: no such file"):
        on_cpu("some/model", None, str(tmp_path / "nowhere.json"))


def test_an_old_release_without_a_tokenizer_is_refused(hub, files):
    hub.add(ours.OFFICIAL, {name: files[name] for name in ("config.json", "model.safetensors")}, "2025-01-09")
    with pytest.raises(ValueError, match="no tokenizer.json in [^ ]+/[^ ]+; name one with --tokenizer PATH"):
        on_cpu(ours.OFFICIAL, "2025-01-09")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_token_comes_from_the_environment_and_is_not_pickled(hub, files, monkeypatch, token):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.add("some/model", files)
    model = on_cpu("some/model")
    model.load()
    assert hub.tokens == {f"Bearer {token}" if token else None}
    assert TOKEN.encode() not in pickle.dumps(model)


def test_a_token_gives_access_to_gated_and_private_repositories(hub, files, monkeypatch):
    hub.add("some/closed", files, gate="closed")
    hub.add("some/hidden", files, gate="hidden")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("some/closed", "some/hidden"):
        on_cpu(name).load()


def fault(hub, files, kind):
    """Set up a fault; return the arguments of the model that has it."""
    if kind == "hidden":
        hub.add("some/model", files, gate="hidden")
    if kind == "closed":
        hub.add("some/model", files, gate="closed")
    if kind == "revision":
        hub.add("some/model", files)
        return ("some/model", "v9")
    if kind == "pickles":
        hub.add("some/model", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    if kind == "no config":
        hub.add("some/model", {name: files[name] for name in ("model.safetensors", "tokenizer.json")})
    if kind == "another model":
        tensors = {"model.layers.0.q.weight": torch.zeros(1)}
        hub.add("some/model", {**files, "model.safetensors": save(tensors)})
    if kind == "cut":
        hub.add("some/model", {**files, "model.safetensors": files["model.safetensors"][:50]})
    if kind == "name":
        return ("some/mo--del",)
    if kind == "down":
        hub.failing = 503
    return ("some/model",)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("no repository", "no such folder here, and no {url}/some/model; check the name, or set HF_TOKEN"),
        ("hidden", "no such folder here, and no {url}/some/model; check the name, or set HF_TOKEN"),
        ("closed", "access is restricted; ask for access on {url}/some/model, then set HF_TOKEN"),
        ("revision", "there is no revision v9 on {url}/some/model; choose another --revision"),
        ("pickles", "there is no model.safetensors on {url}/some/model (pickles are not read); choose another"),
        ("no config", "there is no config.json in some/model; choose another"),
        ("another model", "choose a Moondream 2"),
        ("cut", "model.safetensors is truncated on {url}/some/model"),
        ("name", "not a name of a repository; give OWNER/NAME"),
        ("down", "{url} can't be reached"),
    ],
)
def test_a_bad_model_is_refused_in_one_line_when_planned(hub, files, kind, message):
    name = fault(hub, files, kind)
    with pytest.raises(RuntimeError if kind == "down" else ValueError) as caught:
        on_cpu(*name)
    text = str(caught.value)
    assert message.format(url=hub.url) in text and text.startswith(f"model {name[0]}") and "\n" not in text


def test_an_unreachable_hub_is_named(monkeypatch, cache):
    point_client_at(monkeypatch, "http://127.0.0.1:9", cache)
    message = r"model some/model: http://127.0.0.1:9 can't be reached \(.*refused.*\), and the cache of the hub does"
    with pytest.raises(RuntimeError, match=message):
        on_cpu("some/model")
    with pytest.raises(RuntimeError, match="can't be reached"):
        Moondream().fetch()


def test_an_offline_client_names_the_hub_and_sends_nothing(hub, files, monkeypatch):
    hub.add("some/model", files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RuntimeError, match="can't be reached .*offline.* and the cache of the hub does not hold"):
        on_cpu("some/model")
    assert hub.seen == []


def test_a_disk_that_fills_up_during_the_download_is_named(hub, files, monkeypatch, cache):
    hub.add("some/model", files)
    model = on_cpu("some/model")

    def fill(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fill)
    with pytest.raises(
        RuntimeError, match=f"model some/model: the disk of {cache} is full; free disk space, or set HF_HOME"
    ):
        model.load()


def test_a_full_disk_is_refused_before_the_download(hub, files, monkeypatch):
    hub.add("some/model", files)
    model = on_cpu("some/model")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    hub.seen.clear()
    with pytest.raises(
        RuntimeError, match=r"the weights need 0.0 GB and the disk of .* has 0.0 GB left; free disk space"
    ):
        model.load()
    assert not hub.fetched("model.safetensors")


@pytest.mark.slow
def test_the_command_reads_endpoint_and_cache_from_the_environment(hub, files, tmp_path):
    """Run the command in a process of its own, with a hub that answers and with one that does not."""
    hub.add("some/model", files)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (60, 60), "red").save(tmp_path / "photos" / "red.png")
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}
    arguments = ["photos", "--output", "out", "--model", "some/model", "--max-tokens", "4"]
    command = [sys.executable, "-m", "moondream_beam.pipelines.cli", "annotate", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    environment["HF_HOME"] = str(tmp_path / "other")
    failed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 2
    assert "moondream-beam annotate: model some/model: http://127.0.0.1:9 can't be reached" in failed.stderr
