"""Files that stand where a picture should be are named, with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.hostile import KINDS, encoded
from support.data.pixels import chunk

from moondream_beam.transforms.images.decode import UndecodableError, decode
from moondream_beam.transforms.images.formats import EXTENSIONS, SIGNATURES


def zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", content)
    return file.getvalue()


def tar_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), file)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((4, 4)))
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SVG = b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">\n<svg width="9"/>'
OTHERS = {
    "pointer": (POINTER, "Git LFS pointer", "git lfs pull"),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Sign in</body></html>", "page of HTML", "correct the URI"),
    "xml": (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "page of XML", "correct the URI"),
    "json": (b'{"error": "not found"}', "JSON", "correct the URI"),
    "svg": (b"<svg xmlns='a'/>", "SVG drawing", "render"),
    "svg in xml": (SVG, "SVG drawing", "render"),
    "zip": (zip_of(b"a"), "zip archive", "unpack"),
    "tar": (tar_of(b"a"), "tar archive", r"\.tar"),
    "gzip": (gzip.compress(b"a"), "gzip file", "unpack"),
    "bzip2": (bz2.compress(b"a"), "bzip2 file", "unpack"),
    "xz": (lzma.compress(b"a"), "xz file", "unpack"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "PDF document", "render its pages"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS", "render"),
    # A preview in TIFF or WMF stands behind this head.
    "eps with a preview": (b"\xc5\xd0\xd3\xc6" + bytes(28) + b"%!PS", "EPS", "render"),
    "photoshop": (b"8BPS\0\x01" + bytes(20), "Photoshop document", "save it as JPEG, PNG or WebP"),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "video", "save the frames"),
    "quicktime": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video", "save the frames"),
    "matroska": (b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska", "video", "save the frames"),
    "avi": (b"RIFF\x10\0\0\0AVI LIST", "video", "save the frames"),
    "cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw file", "develop"),
    "raf": (b"FUJIFILMCCD-RAW 0201", "camera raw file", "develop"),
    "exr": (b"\x76\x2f\x31\x01\x02\0\0\0", "floating point", "save it"),
    "dicom": (bytes(128) + b"DICM", "DICOM file", "save it"),
    "numpy": (array(), "NumPy array", "save it"),
    "parquet": (parquet(), "Parquet file", "--image-column"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_named_with_the_cure(name: str) -> None:
    content, what, cure = OTHERS[name]
    with pytest.raises(UndecodableError, match=f"this is an? .*{what}.*, not a picture that can be read: .*{cure}"):
        decode(content)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ICO", "BMP", "PPM")])
def test_a_broken_file_of_a_known_format_is_called_broken(kind: str) -> None:
    content = encoded(Image.new("RGB", (32, 32)), kind)
    with pytest.raises(UndecodableError, match="broken: replace it|cut off: replace the file|; replace the file"):
        decode(content[:16])


@pytest.mark.parametrize("length", [8, 20, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_no_message_has_a_bytes_literal(kind: str, length: int) -> None:
    content = encoded(Image.new("RGB", (32, 32)), kind)
    with pytest.raises(UndecodableError) as caught:
        decode(content[:length] + bytes(range(200, 250)))
    assert "b'" not in str(caught.value) and 'b"' not in str(caught.value)


def test_a_broken_chunk_among_the_pixels_is_named_without_a_bytes_literal() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    content = encoded(Image.fromarray(noise), "PNG")
    (size,) = struct.unpack_from(">I", content, content.index(b"IDAT") - 4)
    start = content.index(b"IDAT") + 4
    half = content[start : start + size // 2]
    broken = content[: start - 8] + chunk(b"IDAT", half) + chunk(bytes([0, 1, 2, 3]), content[start + size // 2 :])
    # Pillow's message is: broken PNG file (chunk b'\x00\x01\x02\x03')
    with pytest.raises(UndecodableError, match=r"decoded: broken PNG file \(chunk 00 01 02 03\); replace the file"):
        decode(broken)


def test_files_of_formats_that_need_an_extra_are_listed() -> None:
    assert {".jxl", ".heic", ".hif", ".j2k", ".apng"} <= EXTENSIONS


def test_a_format_of_pillow_without_its_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("RGB", (32, 32)), "AVIF")
    monkeypatch.setattr("moondream_beam.transforms.images.decode.formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(UndecodableError, match="the installed Pillow has no decoder for AVIF: pip install"):
        decode(content)


def test_each_signature_belongs_to_a_format() -> None:
    assert {name for _, name in SIGNATURES} <= {*KINDS, "JPEGXL"}
