"""The image formats that are read, with their file extensions, and the other files that stand in their place.

Listing a folder, a bucket or an archive takes files with the extensions in ``FORMATS``, decoding accepts these formats,
and an export names its files by them. To add a format that Pillow reads, add a line to ``FORMATS``. A format that
Pillow reads through a plug-in also needs its plug-in registered in ``formats``. To name another kind of file
in ``errors/``, add a line to ``OTHER_FILES``.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from itertools import chain

from PIL import Image

# Pillow's name of a format -> its extensions in lower case, the one that exported files get first. Every format here
# is recognized by its first bytes. PostScript is left out: it is a program that an interpreter would run.
# JPEGXL is not Pillow's: codecs/deep.py reads it.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heif", ".heic", ".hif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    "JPEGXL": (".jxl",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "ICO": (".ico",),
}
EXTENSIONS = frozenset(chain.from_iterable(FORMATS.values()))

_CONVERT = "save it as JPEG, PNG or WebP"
_UNPACK = "unpack it, and name the folder with the pictures"
_RENDER = "render it to PNG"
_DEVELOP = "develop it to JPEG, PNG or TIFF"
_CORRECT = "replace the file, or correct the URI, which must open without a login"
_FRAMES = "save the frames to annotate as pictures"

# First bytes of a file -> the format in ``FORMATS`` that it claims to be. If it can't be decoded, it is broken.
SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(?:hei[cxms]|hevc|mif1|msf1)", "HEIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEGXL"),
)
# First bytes of a file -> what it is, and what to do. The first line that matches counts.
OTHER_FILES = (
    (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer", "run 'git lfs pull' in its repository"),
    (rb"(?is)\s*<(?:!doctype html|html|head|body|title|script)", "a page of HTML", _CORRECT),
    (rb"(?is)\s*(?:<\?xml.{,1024}?)?(?:<!doctype svg.{,256}?>\s*)?<svg", "an SVG drawing", _RENDER),
    (rb"(?is)\s*<\?xml", "a page of XML", _CORRECT),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "a text of JSON", _CORRECT),
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a zip archive", _UNPACK),
    (rb"\x1f\x8b", "a gzip file", _UNPACK),
    (rb"BZh\d1AY&SY", "a bzip2 file", _UNPACK),
    (rb"\xfd7zXZ\0", "an xz file", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb"(?s).{257}ustar", "a tar archive", "give its name the ending .tar, and name it as input"),
    (rb"(?s).{,1024}?%PDF-", "a PDF document", "render its pages to PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript program (EPS)", _RENDER),
    (rb"8BPS", "a Photoshop document", _CONVERT),
    (rb"gimp xcf", "a GIMP document", _CONVERT),
    (rb"(?s)....ftypcrx |FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR|FOVb", "a camera raw file", _DEVELOP),
    (rb"(?s)....(?:ftyp|moov|mdat|wide|free)", "a video (MP4 or QuickTime)", _FRAMES),
    (rb"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", _FRAMES),
    (rb"(?s)RIFF....AVI |FLV\x01|OggS|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\0\0\x01[\xb3\xba]", "a video", _FRAMES),
    (rb"II\xbc\x01", "a JPEG XR file", _CONVERT),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE|#\?RGBE", "a file of floating point (EXR or Radiance)", _CONVERT),
    (rb"SIMPLE  =", "a FITS file", _CONVERT),
    (rb"(?s).{128}DICM", "a DICOM file", _CONVERT),
    (rb"\x93NUMPY", "a NumPy array", _CONVERT),
    (rb"DDS |qoif|icns|\xd7\xcd\xc6\x9a", "a DDS, QOI, ICNS or WMF file", _CONVERT),
    (rb"PAR1", "a Parquet file", "name it with --manifest and --image-column"),
)


@cache
def formats() -> tuple[str, ...]:
    """Return the names in ``FORMATS`` that Pillow can decode here.

    A format is missing if Pillow was built without its codec; HEIF is missing without the extra ``heif``.
    """
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def extension_of(name: str) -> str:
    """Return the extension, without its dot, for files of the format that Pillow calls ``name``."""
    # Pillow's JPEG decoder calls a file of several frames MPO.
    return FORMATS["JPEG" if name == "MPO" else name][0][1:]


def describe(content: bytes, readable: tuple[str, ...]) -> str:
    """Return the message for bytes that are no image of a format in ``readable``: what they are, and what to do."""
    head = content.removeprefix(b"\xef\xbb\xbf")[:2048]
    for pattern, name in SIGNATURES:
        if re.match(b"(?s)" + pattern, head):
            return _describe_format(name, readable)
    for pattern, what, cure in OTHER_FILES:
        if re.match(pattern, head):
            return f"this is {what}, not a picture that can be read: {cure}"
    beginning = head[:16].split(b"\n")[0].strip()
    if not head:
        start = "; it is empty"
    elif beginning.isascii() and beginning.decode().isprintable() and beginning:
        start = f"; it begins with the text {beginning.decode()!r}"
    else:
        start = f"; it starts with the bytes {head[:8].hex(' ')}"
    return f"no known image format{start}: convert or replace the file"


def _describe_format(name: str, readable: tuple[str, ...]) -> str:
    if name == "HEIF" and name not in readable:
        return "HEIF needs the extra heif: pip install 'moondream-beam[heif]'"
    spelt = {"JPEG2000": "JPEG 2000", "JPEGXL": "JPEG XL"}.get(name, name)
    if name == "JPEGXL" or name in readable:
        return f"the {spelt} file is broken: replace it"
    return f"the installed Pillow has no decoder for {spelt}: pip install --force-reinstall --only-binary :all: pillow"
