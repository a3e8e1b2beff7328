"""Clients of boto3 that Beam's file system for S3 shares within a process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from apache_beam.io.aws.s3io import S3IO
from apache_beam.options.pipeline_options import PipelineOptions
from support.servers.object_stores import Bucket

from moondream_beam.transforms.io.object_stores import beam_s3
from moondream_beam.transforms.io.object_stores.file_systems import FileSystems, beam_file_systems


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    beam_file_systems()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def client(*options: str) -> object:
    """Return the client of boto3 of a new operation."""
    return S3IO(options=PipelineOptions(list(options))).client.client


def test_operations_with_the_same_settings_share_a_client() -> None:
    assert client() is client()


def test_other_options_have_another_client() -> None:
    assert client() is not client("--s3_endpoint_url=http://127.0.0.1:1")


def test_another_environment_has_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    before = client()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert client() is not before


def test_a_client_is_replaced_after_its_age_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = client()
    monkeypatch.setattr(beam_s3, "MAX_AGE_S", 0.0)
    assert client() is not before
    assert len(beam_s3._clients) == 1


@pytest.mark.slow
def test_files_that_are_read_at_the_same_time_have_their_own_content(bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of("s3")
    names = [bucket.put(f"{number}.bin", bytes([number]) * 100_000) for number in range(8)]

    def read(name: str) -> set[int]:
        with FileSystems.open(name) as file:
            return set(file.read(50_000)) | set(file.read())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, names)) == [{number} for number in range(8)]
