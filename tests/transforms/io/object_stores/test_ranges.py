"""A range of an object has the bytes of that range, or is an error."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from io import BytesIO

import pytest
from support.servers.object_stores import Bucket

from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.containers.location import Member
from moondream_beam.transforms.io.object_stores.base import Stores
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy

pytestmark = pytest.mark.slow

CONTENT = bytes(range(256))
ONCE = RetryPolicy(max_attempts=1)


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
@pytest.mark.parametrize(("start", "size"), [(100, 50), (100, 4096), (0, 50)])
def test_a_server_that_ignores_the_range_gives_an_error(
    kind: str, start: int, size: int, bucket_of: Callable[[str], Bucket]
) -> None:
    bucket = bucket_of(kind)
    bucket.put("object", CONTENT)
    uri = f"{bucket.root}/object"
    assert Stores().read_range(uri, start, size, ONCE) == CONTENT[start : start + size]
    bucket.proxy.rule = lambda method, path, before: CONTENT if "object" in path else None
    with pytest.raises(FetchError, match=f"{uri}: the server ignores the byte range"):
        Stores().read_range(uri, start, size, ONCE)


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_a_member_of_an_archive_is_never_other_bytes_of_the_archive(
    kind: str, bucket_of: Callable[[str], Bucket]
) -> None:
    bucket, packed = bucket_of(kind), BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = 600
            tar.addfile(member, BytesIO(name.encode() * 120))
    bucket.put("set.tar", packed.getvalue())
    second = Member(f"{bucket.root}/set.tar", 2048, 600, "b.png")
    assert Fetcher(retry_policy=ONCE)(second) == b"b.png" * 120
    bucket.proxy.rule = lambda method, path, before: packed.getvalue() if "set.tar" in path else None
    with pytest.raises(FetchError, match="the server ignores the byte range"):
        Fetcher(retry_policy=ONCE)(second)
