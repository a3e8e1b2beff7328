"""What is not an image, or is too large, raises UndecodableError with the reason, and no other error."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.hostile import KINDS, encoded, make_hostile, png_claiming

from moondream_beam.transforms.images import decode as module
from moondream_beam.transforms.images.decode import UndecodableError, decode

SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from moondream_beam.transforms.images.decode import UndecodableError, decode
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (300 << 20),) * 2)
for path in Path(sys.argv[1]).iterdir():
    try:
        decode(path.read_bytes())
        print(path.name, "decoded", sep=" = ")
    except (UndecodableError, MemoryError) as error:
        print(path.name, repr(error).replace(" = ", ""), sep=" = ")
"""


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


# Ways to write a picture that a reader goes other ways through.
WAYS = {
    **{kind: (kind, {}) for kind in KINDS},
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "several JPEG": ("MPO", {"save_all": True, "append_images": [noise(64, 48)]}),
    "interlaced GIF": ("GIF", {"interlace": 1}),
    "animated GIF": ("GIF", {"save_all": True, "append_images": [noise(64, 48)]}),
    "animated PNG": ("PNG", {"save_all": True, "append_images": [noise(64, 48)]}),
    "lossless WEBP": ("WEBP", {"lossless": True}),
    "animated WEBP": ("WEBP", {"save_all": True, "append_images": [noise(64, 48)], "minimize_size": False}),
    "LZW TIFF": ("TIFF", {"compression": "tiff_lzw"}),
    "JPEG in TIFF": ("TIFF", {"compression": "jpeg"}),
    "tiled TIFF": ("TIFF", {"compression": "tiff_adobe_deflate", "tiffinfo": {322: 16, 323: 16}}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_file_that_is_cut_off_is_undecodable_or_has_its_whole_first_frame(way: str, tenths: int) -> None:
    kind, options = WAYS[way]
    content = encoded(noise(), kind, **options)
    cut = content[: tenths * len(content) // 10]
    try:
        picture = decode(cut)
    except UndecodableError as error:
        assert str(error)
    else:
        # Later frames may be missing: only the first one is decoded.
        assert "append_images" in options
        assert picture.tobytes() == decode(content).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_its_last_bytes_gives_no_partial_image(kind: str) -> None:
    content = encoded(noise(), kind)
    whole = decode(content).tobytes()
    for missing in (1, 2, 3, 5, 9, 17):
        try:
            assert decode(content[:-missing]).tobytes() == whole
        except UndecodableError as error:
            assert str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_give_an_image_or_an_undecodable_error(kind: str) -> None:
    content, draw = encoded(noise(24, 16), kind), random.Random(kind)
    for _ in range(60):
        broken = bytearray(content)
        for _ in range(draw.choice([1, 3, 30])):
            broken[draw.randrange(min(len(broken), draw.choice([40, 10**6])))] = draw.randrange(256)
        try:
            assert decode(bytes(broken)).mode == "RGB"
        except UndecodableError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no known image format"),
        (b"\0", "no known image format"),
        (b"hello\nworld", "no known image format; it begins with the text 'hello': convert"),
        (random.Random(0).randbytes(4096), "no known image format; it starts with the bytes [0-9a-f ]{23}: convert"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"\n  <html><body>Not found</body></html>", "HTML"),
        (b'<?xml version="1.0"?><Error/>', "XML, not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript program .* render"),
        (b"%PDF-1.4\n", "PDF document, .* render its pages"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer, .* run 'git lfs pull'"),
    ],
)
def test_bytes_that_are_not_an_image_are_refused_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(UndecodableError, match=message):
        decode(content)


def test_a_header_that_claims_billions_of_pixels_is_refused_without_memory(memory_peak) -> None:
    with pytest.raises(UndecodableError, match=r"3600000000 pixels"):
        decode(png_claiming(60_000, 60_000))
    assert memory_peak() < 10 << 20


def test_a_side_above_the_limit_is_refused() -> None:
    with pytest.raises(UndecodableError, match=r"65535 x 1 pixels are more than .* or 65500 a side"):
        decode(png_claiming(65_535, 1))


def test_a_side_at_the_limit_is_decoded() -> None:
    assert decode(encoded(Image.new("RGB", (65_500, 1)), "JPEG")).size == (65_500, 1)


def test_a_size_one_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 64 * 48)
    monkeypatch.setattr(module, "MAX_SIDE", 64)
    assert decode(encoded(noise(64, 48))).size == (64, 48)
    with pytest.raises(UndecodableError, match="64 x 49 pixels are more than 3072 in all"):
        decode(encoded(noise(64, 49)))
    with pytest.raises(UndecodableError, match="65 x 1 pixels are more than 3072 in all or 64 a side"):
        decode(encoded(noise(65, 1)))


def test_the_pixels_of_an_image_that_is_too_large_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 10)
    # Decoding would fail with another error, since the file is cut off.
    with pytest.raises(UndecodableError, match="8 x 8 pixels are more"):
        decode(png_claiming(8, 8))


def test_an_image_of_width_zero_is_refused() -> None:
    with pytest.raises(UndecodableError):
        decode(png_claiming(0, 5))


def test_floating_point_is_refused_with_the_reason() -> None:
    content = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(UndecodableError, match="floating point"):
        decode(content)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_a_bomb_of_many_frames_takes_the_memory_of_one(kind: str, memory_peak: Callable[[], int]) -> None:
    frames = [Image.new("L", (256, 256), shade) for shade in range(200)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    memory_peak()
    started = time.process_time()
    assert decode(content).getpixel((0, 0)) == (0, 0, 0)
    assert time.process_time() - started < 0.5
    assert memory_peak() < 1 << 20


@pytest.mark.parametrize("chunk", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_bomb_in_the_metadata_is_refused_or_ignored(chunk: bytes, memory_peak: Callable[[], int]) -> None:
    squeezed = zlib.compress(bytes(300 << 20), 9)
    head = {b"zTXt": b"bomb\0\0", b"iTXt": b"bomb\0\1\0\0\0", b"iCCP": b"bomb\0\0"}[chunk]
    body = head + squeezed
    bomb = struct.pack(">I", len(body)) + chunk + body + struct.pack(">I", zlib.crc32(chunk + body))
    content = encoded(noise())
    end = content.index(b"IDAT") - 4
    memory_peak()
    with contextlib.suppress(UndecodableError):
        assert decode(content[:end] + bomb + content[end:]).size == (64, 48)
    assert memory_peak() < 80 << 20


@pytest.mark.slow
def test_an_image_that_does_not_fit_into_memory_fails_and_the_next_is_decoded(tmp_path: Path) -> None:
    make_hostile(tmp_path / "hostile", noise(320, 240))
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, tmp_path / "hostile"], capture_output=True, text=True, check=True
    )
    told = dict(line.split(" = ") for line in done.stdout.splitlines())
    assert len(told) == len(list((tmp_path / "hostile").iterdir()))
    assert told["zeros.png"].startswith("MemoryError")
    assert told["a jpeg.png"] == told["bomb by frames.gif"] == told["more behind it.png"] == "decoded"


def test_a_lower_limit_set_in_pillow_applies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UndecodableError, match="exceeds limit"):
        decode(encoded(noise()))
