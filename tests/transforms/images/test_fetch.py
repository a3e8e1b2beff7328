"""Fetching files and data: URIs, and the errors of what can't be fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moondream_beam.transforms.core.errors import RunStopped
from moondream_beam.transforms.images import fetch as module
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.object_stores.base import CLIENTS

fetch = Fetcher()


def test_the_bytes_of_a_file_are_returned(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"na\xefve [1]*.jpg")
    path.write_bytes(b"\0\1\2")
    assert fetch(str(path)) == b"\0\1\2"


def test_a_missing_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        fetch(str(tmp_path / "gone.jpg"))


def test_a_broken_link_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    with pytest.raises(FileNotFoundError, match="link.jpg"):
        fetch(str(tmp_path / "link.jpg"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        fetch(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(PermissionError, match="secret.jpg"):
        fetch(str(path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match="empty"):
        fetch(str(tmp_path / "empty.jpg"))


def test_a_named_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="named pipe"):
        fetch(str(tmp_path / "pipe.jpg"))


def test_a_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="null"):
        fetch("a\0b.jpg")


def test_a_file_one_byte_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "large.jpg"
    path.write_bytes(b"x" * (1 << 20))
    assert len(fetch(str(path))) == 1 << 20
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        fetch(str(path))


def test_an_endless_file_is_read_up_to_the_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 16)
    with pytest.raises(ValueError, match="larger"):
        fetch("/dev/zero")


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("data:image/png;base64,aGVsbG8=", b"hello"),
        ("data:;base64,aGVsbG8=", b"hello"),
        ("DATA:text/plain;charset=utf-8;base64,aGVsbG8%3D", b"hello"),
        ("data:,a%20b", b"a b"),
    ],
)
def test_the_content_of_a_data_uri_is_returned(uri: str, content: bytes) -> None:
    assert Fetcher()(uri) == content


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("data:image/png;base64,aGVsbG8", "broken"),
        ("data:image/png;base64,aGV sbG8=", "broken"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png", "no valid head"),
    ],
)
def test_a_malformed_data_uri_is_refused(uri: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Fetcher()(uri)


def test_a_data_uri_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DATA_URI", 1 << 20)
    with pytest.raises(ValueError, match="more than 1 Mi characters"):
        Fetcher()("data:," + "x" * (1 << 20))


def test_a_client_that_is_not_installed_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLIENTS, "az", ("azure", "no_such_module", "moondream-beam[azure]"))
    with pytest.raises(RunStopped, match=r"pip install 'moondream-beam\[azure\]'; then run the same command again"):
        fetch("az://container/a.jpg")


@pytest.mark.parametrize(
    ("uri", "setting", "why"),
    [
        ("s3://b/a.jpg", {"AWS_PROFILE": "nobody"}, "nobody"),
        ("s3://b/a.jpg", {"AWS_ENDPOINT_URL": "nowhere"}, "nowhere"),
        ("s3://b/a.jpg", {}, "locate credentials"),
        ("az://c/a.jpg", {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=x;hunter2"}, "malformed"),
        ("az://c/a.jpg", {"AZURE_STORAGE_ACCOUNT_NAME": "x", "AZURE_STORAGE_ACCOUNT_KEY": "hunter2"}, "Signing"),
    ],
)
def test_a_store_without_valid_credentials_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, setting: dict[str, str], why: str
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", **setting}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunStopped, match=f"can't sign in.*{why}.*; then run the same command again") as caught:
        Fetcher()(uri)
    assert "hunter2" not in str(caught.value)
