"""A model in a bucket is copied to a machine once and completely, and each error is one line with a cure."""

import errno
import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file, save

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints.bucket_checkpoint import BucketModel
from moondream_beam.models.moondream.checkpoints.files import tokenizer_digest
from moondream_beam.models.tasks import Caption, Detect, Query, Request, Sampling

FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Bucket(MemoryFileSystem):
    """A file system in memory with etags, as in a bucket, that notes the objects copied and raises planned faults."""

    protocol = "bucket"
    store, pseudo_dirs = {}, [""]
    copied: list = []
    faults: dict = {}

    def ls(self, path, detail=True, **options):
        self.fail("ls")
        listed = super().ls(path, detail=True, **options)
        for entry in listed:
            if entry["type"] == "file":
                entry["ETag"] = hash(self.store[entry["name"]].getvalue())
        return listed

    def get_file(self, rpath, lpath, **options):
        self.copied.append(rpath.rsplit("/", 1)[-1])
        self.fail("get_file")
        time.sleep(0.05)
        super().get_file(rpath, lpath, **options)

    def fail(self, where):
        if where in self.faults:
            raise self.faults[where]


fsspec.register_implementation("bucket", Bucket)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    monkeypatch.setattr(Bucket, "copied", [])
    monkeypatch.setattr(Bucket, "faults", {})
    return tmp_path / "home" / "moondream-beam"


def put(url, files):
    for name, data in files.items():
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write(data)


@pytest.fixture
def files(toy_folder):
    return {name: (toy_folder / name).read_bytes() for name in FILES}


@pytest.fixture
def bucket(files):
    put("bucket://b/weights", {**files, "README.md": b"more", "pytorch_model.bin": b"more"})
    return "bucket://b/weights"


def on_cpu(*names):
    return Moondream(*names, device="cpu")


def answers(model, pictures):
    requests = [
        Request(task.name, pictures[0], task, Sampling(max_tokens=4, temperature=0))
        for task in (Caption(), Query("dog"), Detect("dog", 1))
    ]
    return {outcome.id: outcome.result for outcome in model.answer(requests)}


def test_a_model_in_a_bucket_gives_the_answers_of_a_folder(bucket, toy_folder, toy_pictures):
    model = pickle.loads(pickle.dumps(on_cpu(bucket)))
    assert model.name == bucket
    assert answers(model, toy_pictures) == answers(on_cpu(str(toy_folder)), toy_pictures)


def test_planning_copies_only_the_small_files(bucket):
    on_cpu(bucket)
    assert sorted(Bucket.copied) == ["config.json", "tokenizer.json"]


def test_only_the_checkpoint_is_copied_and_only_once(bucket, cache):
    model = on_cpu(bucket)
    Bucket.copied.clear()
    model.load()
    pickle.loads(pickle.dumps(model)).load()
    assert sorted(Bucket.copied) == sorted(FILES)
    (folder,) = (path for path in cache.iterdir() if path.is_dir() and path.suffix != ".plan")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_threads_that_fetch_at_once_share_one_copy(bucket):
    models = [on_cpu(bucket) for _ in range(4)]
    Bucket.copied.clear()
    threads = [threading.Thread(target=model.fetch) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Bucket.copied) == sorted(FILES)


@pytest.mark.slow
def test_processes_that_fetch_at_once_share_one_copy(toy_folder, cache, tmp_path):
    """The inode of the weights identifies the copy of each process."""
    (tmp_path / "model").write_bytes(pickle.dumps(BucketModel.plan(f"file://{toy_folder}", None, None)))
    script = (
        "import pathlib, pickle, sys; model = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()); "
        "print((model.fetch() / 'model.safetensors').stat().st_ino)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    inodes = [worker.communicate(timeout=120)[0] for worker in workers]
    assert len(set(inodes)) == 1 and inodes[0].strip().isdigit()
    assert [path.name for path in cache.iterdir() if path.suffix == ".part"] == []


@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors"])
def test_the_url_may_name_one_file_of_weights(files, name, toy_folder, toy_pictures):
    put("bucket://b/weights", {**files, name: files["model.safetensors"], "third.safetensors": b"no weights"})
    model = on_cpu(f"bucket://b/weights/{name}")
    assert answers(model, toy_pictures) == answers(on_cpu(str(toy_folder)), toy_pictures)


def test_shards_are_read_by_their_index(files, toy_folder, toy_pictures):
    tensors = load_file(toy_folder / "model.safetensors")
    shards = {"a.safetensors": sorted(tensors)[::2], "b.safetensors": sorted(tensors)[1::2]}
    index = {"weight_map": {name: shard for shard, names in shards.items() for name in names}}
    put("bucket://b/weights", {name: files[name] for name in ("config.json", "tokenizer.json")})
    put("bucket://b/weights", {"model.safetensors.index.json": json.dumps(index).encode()})
    put("bucket://b/weights", {shard: save({each: tensors[each] for each in names}) for shard, names in shards.items()})
    assert answers(on_cpu("bucket://b/weights"), toy_pictures) == answers(on_cpu(str(toy_folder)), toy_pictures)


@pytest.mark.parametrize("name", FILES)
def test_the_revision_changes_with_every_object(bucket, files, name):
    before = on_cpu(bucket).revision
    assert before == on_cpu(bucket).revision
    if name == "model.safetensors":
        put(bucket, {name: files[name][:-1] + bytes([files[name][-1] ^ 1])})
    else:
        put(bucket, {name: files[name] + b"\n"})
    assert on_cpu(bucket).revision != before


def test_a_release_may_be_given(bucket):
    assert on_cpu(bucket, "2025-01-09").load().model.region.config.size_scale == "linear"


def test_a_given_tokenizer_is_part_of_the_revision(bucket, toy_folder, tmp_path):
    words = shutil.copy(toy_folder / "tokenizer.json", tmp_path)
    model, plain = on_cpu(bucket, None, str(words)), on_cpu(bucket)
    assert model.revision == f"{plain.revision}+{tokenizer_digest(tmp_path / 'tokenizer.json')}"
    model.load()
    (tmp_path / "tokenizer.json").write_text("changed")
    with pytest.raises(RuntimeError, match="tokenizer.json: it changed after planning; run the same command again"):
        pickle.loads(pickle.dumps(model)).load()


def test_content_that_changed_after_planning_is_refused(bucket, files):
    model = on_cpu(bucket)
    put(bucket, {"config.json": files["config.json"] + b"\n"})
    with pytest.raises(
        RuntimeError,
        match=f"model {bucket}: the weights changed after planning; run the same command again$",
    ):
        model.load()


def test_content_that_changes_during_a_copy_is_refused(bucket, files, cache, monkeypatch):
    model, get_file = on_cpu(bucket), Bucket.get_file

    def get_and_change(self, rpath, lpath, **options):
        get_file(self, rpath, lpath, **options)
        put(bucket, {"config.json": files["config.json"] + b"\n"})

    monkeypatch.setattr(Bucket, "get_file", get_and_change)
    with pytest.raises(RuntimeError, match="the weights changed during the copy; run the same command again$"):
        model.load()
    assert not (cache / model.revision).exists()


def test_a_failed_copy_leaves_nothing_and_the_next_one_succeeds(bucket, cache, monkeypatch):
    model = on_cpu(bucket)
    Bucket.faults["get_file"] = ConnectionResetError(errno.ECONNRESET, "connection reset")
    with pytest.raises(RuntimeError, match=f"model {bucket}: .*connection reset"):
        model.load()
    assert [path.suffix for path in sorted(cache.iterdir()) if path.is_dir()] == [".plan"]
    Bucket.faults.clear()
    model.load()


def test_a_partial_copy_of_a_killed_process_is_replaced(bucket, cache):
    model = on_cpu(bucket)
    unfinished = cache / f"{model.revision}.part"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    model.load()
    assert not unfinished.exists()


def test_a_truncated_object_is_refused(bucket, monkeypatch):
    model = on_cpu(bucket)
    monkeypatch.setattr(Bucket, "get_file", lambda self, rpath, lpath, **_: open(lpath, "wb").close())
    with pytest.raises(RuntimeError, match="is truncated: 0 of "):
        model.load()


def test_a_full_disk_is_refused_before_the_copy(bucket, monkeypatch):
    model = on_cpu(bucket)
    Bucket.copied.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(
        RuntimeError, match=r"the weights need 0.0 GB and the disk of .* has 0.0 GB left; free disk space"
    ):
        model.load()
    assert Bucket.copied == []


def test_a_disk_that_fills_up_during_the_copy_is_named(bucket):
    model = on_cpu(bucket)
    Bucket.faults["get_file"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(
        RuntimeError, match="the disk of .*moondream-beam is full; free disk space, or set XDG_CACHE_HOME"
    ):
        model.load()


@pytest.mark.parametrize(
    "url, files, message",
    [
        ("bucket://b/nowhere", {}, "there is nothing there"),
        (
            "bucket://b/empty",
            {"README.md": b""},
            "there is no model.safetensors at bucket://b/empty; copy it there (pickles are not read)",
        ),
        ("bucket://b/pickles", {"config.json": b"{}", "pytorch_model.bin": b""}, "no model.safetensors at bucket://b"),
        ("bucket://b/one/other.safetensors", {}, "there is no other.safetensors at bucket://b/one"),
        (
            "bucket://b/bare",
            {"model.safetensors": save({"text.x": torch.zeros(1)})},
            "no config.json in bucket://b/bare",
        ),
        (
            "bucket://b/cut",
            {"config.json": b"{}", "model.safetensors": b"\0" * 20},
            "is truncated or no .safetensors; copy the file there again",
        ),
        (
            "bucket://b/huge",
            {"config.json": b"{}", "model.safetensors": b"\xff" * 20},
            "is truncated or no .safetensors; copy the file there again",
        ),
        (
            "bucket://b/json",
            {"config.json": b"[]", "model.safetensors": save({"text.x": torch.zeros(1)})},
            "no JSON object",
        ),
        ("nosuch://b/weights", {}, "Protocol not known: nosuch"),
    ],
)
def test_a_bad_model_is_refused_in_one_line_when_planned(url, files, message):
    put("bucket://b/one", {"model.safetensors": b""})
    put(url, files)
    if "bare" in url or "json" in url:
        put(url, {"tokenizer.json": b"{}"})
    with pytest.raises(ValueError) as caught:
        on_cpu(url)
    assert str(caught.value).startswith(f"model {url}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme, package", [("gs", "gcp"), ("s3", "aws"), ("az", "azure")])
def test_a_missing_package_of_a_store_is_named(scheme, package):
    with pytest.raises(ValueError, match=rf"this URL needs moondream-beam\[{package}\]; install that package"):
        on_cpu(f"{scheme}://b/weights")


def test_a_denied_access_names_the_url(bucket):
    Bucket.faults["ls"] = PermissionError("403 of the store")
    with pytest.raises(ValueError, match=f"model {bucket}: there is no access to it .403 of the store.; log in"):
        on_cpu(bucket)


def test_a_store_that_does_not_answer_is_a_runtime_error_of_one_line(bucket):
    Bucket.faults["ls"] = TimeoutError("no answer\nfor a while")
    with pytest.raises(RuntimeError, match=f"model {bucket}: no answer; run the same command again$"):
        on_cpu(bucket)


def test_a_store_without_versions_of_objects_is_refused(files, monkeypatch):
    put("bucket://b/weights", files)
    strip = {"ETag", "created"}
    listed = Bucket.ls
    monkeypatch.setattr(
        Bucket,
        "ls",
        lambda self, *args, **options: [
            {key: value for key, value in entry.items() if key not in strip} for entry in listed(self, *args, **options)
        ],
    )
    with pytest.raises(ValueError, match="gives no etag and no time of config.json; copy the files to a local folder"):
        on_cpu("bucket://b/weights")


@pytest.mark.parametrize("url", ["https://h/weights?signature=secret", "s3://key:secret@b/weights"])
def test_a_url_that_may_hold_a_secret_is_refused_without_showing_it(url):
    with pytest.raises(ValueError, match="may hold secrets") as caught:
        on_cpu(url)
    assert "secret@" not in str(caught.value) and "=secret" not in str(caught.value)


def test_the_revision_follows_times_if_there_are_no_etags(files, monkeypatch):
    put("memory://b/weights", files)
    before = on_cpu("memory://b/weights").revision
    for file in MemoryFileSystem.store.values():
        file.created = datetime(2026, 1, 1)
    assert on_cpu("memory://b/weights").revision != before
    MemoryFileSystem.store.clear()
