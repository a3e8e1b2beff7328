"""Compressed files are decompressed in blocks, within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
from collections.abc import Callable

import pyarrow as pa
import pytest

from moondream_beam.models.tasks import Fault
from moondream_beam.transforms.io.containers import compression as module
from moondream_beam.transforms.io.containers.compression import decompress_blocks
from moondream_beam.transforms.io.retry import FetchError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "a.tar.gz": gzip.compress,
    "a.tgz": gzip.compress,
    "a.TAR.BZ2": bz2.compress,
    "a.tbz2": bz2.compress,
    "a.tar.xz": lzma.compress,
    "a.txz": lzma.compress,
    "a.tar.zst": lambda content: pa.Codec("zstd").compress(content).to_pybytes(),
}
KINDS = ["a.tar.gz", "a.tbz2", "a.tar.xz", "a.tar.zst"]
# Each half of it can be shrunk to the other half.
HALF = random.Random(0).randbytes(60_000)
CONTENT = HALF + HALF


def unpack(name: str, packed: bytes) -> tuple[list[bytes], str]:
    """Return the blocks, and the message of the error after them."""
    blocks = []
    try:
        blocks.extend(iter(decompress_blocks(name, lambda: io.BytesIO(packed))))
    except ValueError as error:
        return blocks, str(error)
    return blocks, ""


@pytest.mark.parametrize("name", PACK)
def test_the_content_comes_back_in_blocks_of_one_size(name: str, small_blocks: int) -> None:
    blocks, problem = unpack(name, PACK[name](CONTENT))
    assert b"".join(blocks) == CONTENT and not problem
    assert {len(block) for block in blocks[:-1]} == {small_blocks} and 0 < len(blocks[-1]) <= small_blocks


@pytest.mark.parametrize("name", KINDS)
def test_concatenated_files_are_read_as_one(name: str) -> None:
    blocks, problem = unpack(name, PACK[name](HALF) + PACK[name](b"and") + PACK[name](HALF))
    assert b"".join(blocks) == HALF + b"and" + HALF and not problem


@pytest.mark.parametrize("name", KINDS)
def test_empty_content_gives_no_blocks_and_other_bytes_are_refused(name: str) -> None:
    assert unpack(name, PACK[name](b"")) == ([], "")
    assert unpack(name, b"this is none")[1].startswith("its compressed data")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tenth", (1, 3, 5, 7, 9))
def test_a_cut_off_file_gives_the_blocks_before_the_cut(name: str, tenth: int, small_blocks: int) -> None:
    packed = PACK[name](CONTENT)
    blocks, problem = unpack(name, packed[: len(packed) * tenth // 10])
    assert "compressed data" in problem and CONTENT.startswith(b"".join(blocks))
    again, _ = unpack(name, packed[: len(packed) * tenth // 10])
    assert again == blocks


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tenth", (1, 3, 5, 7, 9))
def test_a_broken_file_is_an_error(name: str, tenth: int) -> None:
    packed = bytearray(PACK[name](CONTENT))
    at = len(packed) * tenth // 10
    packed[at : at + 8] = bytes(byte ^ 0xFF for byte in packed[at : at + 8])
    blocks, problem = unpack(name, bytes(packed))
    # Zstandard writes no checksum by default, so changed literal bytes are not detected.
    assert "compressed data" in problem or (name.endswith("zst") and len(b"".join(blocks)) == len(CONTENT))


@pytest.mark.parametrize("name", KINDS)
def test_a_decompression_bomb_is_stopped_at_the_ratio(
    name: str, monkeypatch: pytest.MonkeyPatch, memory_peak: Callable[[], int]
) -> None:
    monkeypatch.setattr(module, "BYTES_BEFORE_RATIO", 8 << 20)
    packed = PACK[name](bytes(64 << 20))
    memory_peak()
    total, problem = 0, ""
    try:
        for block in decompress_blocks(name, lambda: io.BytesIO(packed)):
            total += len(block)
    except ValueError as error:
        problem = str(error)
    assert problem.startswith("it unpacks to more than 200 times its size; ")
    assert 8 << 20 <= total < 40 << 20 and memory_peak() < 32 << 20


def test_an_xz_file_that_needs_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_XZ_MEMORY", 1 << 20)
    assert unpack("a.tar.xz", lzma.compress(CONTENT))[1].startswith(
        "its compressed data are broken: Memory usage limit"
    )


@pytest.mark.parametrize("name", KINDS)
def test_an_error_of_the_network_is_passed_through(name: str) -> None:
    class Far(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1000:
                raise FetchError(Fault("ServerError", "no", retryable=True))
            return super().read(1000 if size is None or size < 0 else min(size, 1000))

    with pytest.raises(FetchError):
        list(decompress_blocks(name, lambda: Far(PACK[name](CONTENT))))
