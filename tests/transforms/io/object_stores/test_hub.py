"""Datasets of the Hugging Face hub: listed, read and pinned to a commit, with a token from the environment only."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from support.servers.hub import TOKEN, Hub

from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.patterns.patterns import absolute_pattern, list_images
from moondream_beam.transforms.io.files import open_file
from moondream_beam.transforms.io.object_stores.base import Stores
from moondream_beam.transforms.io.object_stores.hub import pin_commit
from moondream_beam.transforms.io.object_stores.hub_path import HubPath
from moondream_beam.transforms.io.retry import RANGE_NOT_SATISFIABLE, FetchError, RetryPolicy
from moondream_beam.transforms.output.files import check_output_path

NAMES = ("README.md", "top.jpg", "train/a.jpg", "train/b b#%.jpg", "train/deep/c.png", "train/notes.txt", "val/d.jpg")
FILES = {name: name.encode() * 1000 for name in NAMES}
SET = "hf://datasets/ann/pets"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Return a hub with the dataset ann/pets."""
    hub = Hub()
    hub.add("datasets/ann/pets", FILES, "main", "refs/convert/parquet")
    with hub.serving(monkeypatch, tmp_path / "cache"):
        yield hub


def listed(pattern: str) -> list[str]:
    """Return the paths in the dataset of the pictures that a pattern matches, sorted."""
    return sorted(HubPath.parse(ref.uri).path for ref in list_images(absolute_pattern(pattern)))


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("", ["top.jpg", "train/a.jpg", "train/b b#%.jpg", "train/deep/c.png", "val/d.jpg"]),
        ("@main/train", ["train/a.jpg", "train/b b#%.jpg", "train/deep/c.png"]),
        ("@refs/convert/parquet/val", ["val/d.jpg"]),
        ("@refs%2Fconvert%2Fparquet/val/", ["val/d.jpg"]),
        ("/train/a.jpg", ["train/a.jpg"]),
        ("/t*/*.jpg", ["train/a.jpg", "train/b b#%.jpg"]),
        ("/**/*.png", ["train/deep/c.png"]),
        ("/tr", []),
    ],
)
def test_a_pattern_lists_pictures_of_a_dataset(hub: Hub, pattern: str, paths: list[str]) -> None:
    """Listings come in several pages."""
    assert listed(SET + pattern) == paths


def test_a_pinned_uri_reads_the_same_after_a_later_commit(hub: Hub) -> None:
    pinned = absolute_pattern(f"{SET}/train")
    later = hub.add("datasets/ann/pets", {"train/a.jpg": b"other"}, "main")
    assert later not in pinned and absolute_pattern(pinned) == pinned
    read = {HubPath.parse(ref.uri).path: Fetcher()(ref.location) for ref in list_images(pinned)}
    assert read == {name: FILES[name] for name in ("train/a.jpg", "train/b b#%.jpg", "train/deep/c.png")}
    assert Fetcher()(f"{SET}/train/a.jpg") == b"other", "a URI without a revision is that of main"


def test_a_file_is_read_in_ranges(hub: Hub) -> None:
    uri, content = pin_commit(f"{SET}/train/b b#%.jpg"), FILES["train/b b#%.jpg"]
    with open_file(uri) as file:
        file.seek(-5, 2)
        assert file.read() == content[-5:]
    store = Stores().get("hf")
    assert store.read(uri, 100, time.monotonic() + 10, (7, 20)) == content[7:27]
    with pytest.raises(FetchError) as caught:
        store.read(uri, 100, time.monotonic() + 10, (len(content), 5))
    assert caught.value.fault.error == RANGE_NOT_SATISFIABLE
    with pytest.raises(ValueError, match="larger than"):
        store.read(uri, 10, time.monotonic() + 10)


def test_a_download_that_breaks_off_is_retried(hub: Hub) -> None:
    hub.cut["train/a.jpg"] = [100, 100]
    assert Fetcher(retry_policy=RetryPolicy(initial_delay_s=0))(f"{SET}/train/a.jpg") == FILES["train/a.jpg"]


@pytest.mark.parametrize(
    ("uri", "error"),
    [(f"{SET}/none.jpg", "FileNotFoundError"), ("hf://datasets/ann/none/a.jpg", "PermissionError")],
)
def test_a_picture_that_is_not_there_fails_at_once(hub: Hub, uri: str, error: str) -> None:
    with pytest.raises(FetchError) as caught:
        Fetcher()(uri)
    assert (caught.value.fault.error, caught.value.fault.attempts) == (error, 1)
    assert uri in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_asked_again(hub: Hub, status: int) -> None:
    hub.failing = status
    with pytest.raises(FetchError) as caught:
        Fetcher(retry_policy=RetryPolicy(max_attempts=2, initial_delay_s=0))(f"{SET}/top.jpg")
    assert caught.value.fault.retryable
    # The client asks for more, once a process, that is not about the picture.
    about = [path for _, path, _ in hub.seen if "ann/pets" in path]
    assert caught.value.fault.attempts == len(about) == 2


def test_a_private_dataset_needs_the_token_which_nothing_shows(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The token is in no message, no log and no pickle. A saved token is not sent."""
    hub.add("datasets/ann/hidden", FILES, gate="hidden")
    hub.add("datasets/ann/closed", FILES, gate="closed")
    for name in ("hidden", "closed"):
        with pytest.raises(ValueError, match="HF_TOKEN"):
            pin_commit(f"hf://datasets/ann/{name}")
        with pytest.raises(FetchError, match="HF_TOKEN") as caught:
            Fetcher()(f"hf://datasets/ann/{name}/top.jpg")
        assert caught.value.fault.error == "PermissionError"
    assert hub.tokens == {None}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch = Fetcher()
    for name in ("hidden", "closed"):
        assert TOKEN not in pin_commit(f"hf://datasets/ann/{name}/top.jpg")
        assert fetch(f"hf://datasets/ann/{name}/top.jpg") == FILES["top.jpg"]
    hub.failing = 401
    with pytest.raises(FetchError) as caught:
        fetch(f"{SET}/top.jpg")
    assert TOKEN not in f"{caught.value!r} {caught.value.fault} {caplog.text}"
    assert TOKEN.encode() not in pickle.dumps((fetch, caught.value))


@pytest.mark.parametrize(
    "uri",
    [
        "hf://ann/pets/a.jpg",
        "hf://datasets/pets",
        "hf://datasets/ann/p*s/a.jpg",
        "hf://datasets/ann/pets@/a.jpg",
        "hf://buckets/ann/pets@main/a.jpg",
        "hf://buckets/ann/none/a.jpg",
        "hf://datasets/ann/p ts/a.jpg",
        f"{SET}@none/a.jpg",
        "hf://datasets/ann/none/a.jpg",
    ],
)
def test_a_uri_that_names_no_dataset_or_revision_is_refused(hub: Hub, uri: str) -> None:
    with pytest.raises(ValueError, match=r"hf://datasets/OWNER/NAME|revision none|HF_TOKEN") as caught:
        absolute_pattern(uri)
    assert uri in str(caught.value)


def test_a_hub_that_fails_is_named_with_its_status(hub: Hub) -> None:
    hub.failing = 500
    with pytest.raises(RuntimeError, match=f"{hub.url}.*500"):
        pin_commit(SET)


def test_a_dataset_is_no_output(hub: Hub) -> None:
    with pytest.raises(ValueError, match="moondream-beam push"):
        check_output_path(SET)


def test_a_bucket_is_listed_and_read_and_has_no_commit(hub: Hub) -> None:
    hub.add("buckets/ann/photos", FILES | {"trainer/x.jpg": b""})
    bucket = "hf://buckets/ann/photos"
    assert absolute_pattern(f"{bucket}/train") == f"{bucket}/train"
    assert listed(f"{bucket}/train") == ["train/a.jpg", "train/b b#%.jpg", "train/deep/c.png"]
    assert listed(f"{bucket}/*/*.jpg") == ["train/a.jpg", "train/b b#%.jpg", "trainer/x.jpg", "val/d.jpg"]
    assert listed(f"{bucket}/none/*.jpg") == []
    assert Fetcher()(f"{bucket}/train/b b#%.jpg") == FILES["train/b b#%.jpg"]
    with open_file(f"{bucket}/top.jpg") as file:
        file.seek(-5, 2)
        assert file.read() == FILES["top.jpg"][-5:]
    with pytest.raises(FetchError) as caught:
        Fetcher()(f"{bucket}/none.jpg")
    assert caught.value.fault.error == "FileNotFoundError"


def test_a_client_before_buckets_is_named_with_the_cure(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HfApi, "list_bucket_tree")
    with pytest.raises(ValueError, match="pip install -U huggingface_hub"):
        pin_commit("hf://buckets/ann/photos")
