#!/usr/bin/env bash
# Pillow 12.3.0 and pixels of 16 bits in colour, seen on 2026-11-29 with Python 3.11.
#
# Pillow decodes each of these whole and valid files without an error or a warning, with wrong colours.
# JPEG 2000: samples of more than 8 bits are cut to their low byte after a shift that rounds up, so that white is black.
#   Opaque alpha becomes transparent. Gray of one channel is right, except 9 bits in a JP2 file.
# PNG, RGB of 16 bits with a transparent colour (tRNS): Pillow keeps the high byte of each pixel and compares it with the
#   low byte of the transparent colour. The transparent colour stays opaque, and another colour becomes transparent.
# TIFF, RGB of 16 bits in separate planes without compression: Pillow reads the planes with 8 bits a sample.
#
# Output seen:
#   JPEG 2000, 12 bits, white: (0, 0, 0)
#   JPEG 2000, 16 bits, opaque red: alpha 0
#   JP2, 9 bits, white: 0
#   PNG, transparent colour: alpha 255
#   PNG, another colour: alpha 0
#   TIFF, white on black: 16 of 64 pixels differ
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==12.3.0 imagecodecs==2026.3.6 numpy==2.4.6 tifffile==2026.3.3
cat > "$work/show.py" <<'PY'
import io
import struct
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image


def opened(content):
    return Image.open(io.BytesIO(content))


def jpeg2000(pixel, bits, **options):
    pixels = np.full((16, 16, len(pixel)), pixel, np.uint16)
    pixels = pixels if len(pixel) > 1 else pixels[..., 0]
    content = imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, reversible=True, level=0, **options)
    assert np.array_equal(imagecodecs.jpeg2k_decode(content), pixels)
    return opened(content).getpixel((5, 5))


white = jpeg2000([4095] * 3, 12)
print("JPEG 2000, 12 bits, white:", white)
assert white == (0, 0, 0), "changed: JPEG 2000 of 12 bits"
alpha = jpeg2000([65535, 0, 0, 65535], 16)[3]
print("JPEG 2000, 16 bits, opaque red: alpha", alpha)
assert alpha == 0, "changed: JPEG 2000 of 16 bits with alpha"
gray = jpeg2000([511], 9, codecformat="jp2")
print("JP2, 9 bits, white:", gray)
assert gray == 0, "changed: gray JP2 of 9 bits"


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


key, other = (0x0102, 0x0304, 0x0506), (0x0201, 0x0403, 0x0605)
content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
content += chunk(b"tRNS", struct.pack(">3H", *key))
content += chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">6H", *key, *other))) + chunk(b"IEND", b"")
image = opened(content).convert("RGBA")
shown = [image.getpixel((x, 0))[3] for x in range(2)]
print("PNG, transparent colour: alpha", shown[0])
print("PNG, another colour: alpha", shown[1])
assert shown == [255, 0], "changed: RGB of 16 bits with tRNS"

pixels = np.zeros((3, 8, 8), np.uint16)
pixels[:, :, :2] = 65535
file = io.BytesIO()
tifffile.imwrite(file, pixels, photometric="rgb", planarconfig="separate")
differ = (np.asarray(opened(file.getvalue())) != (pixels >> 8).transpose(1, 2, 0)).any(axis=2).sum()
print(f"TIFF, white on black: {differ} of 64 pixels differ")
assert differ, "changed: RGB of 16 bits in separate planes"
PY
"$work/venv/bin/python" "$work/show.py"
