#!/usr/bin/env bash
# imagecodecs 2026.3.6 and the colours of JPEG 2000 and JPEG XL above 8 bits, seen on 2026-11-29 with Python 3.11.
#
# jpeg2k_decode applies the ICC profile of a JP2 file to the pixels, without an option to turn this off. It treats all
# samples of more than 8 bits as if they had 16. So 12 bits come out wrong: Display P3 is neither kept nor converted.
# 8 bits and 16 bits are converted to sRGB, within a level. A box "colr" that is renamed to "free" leaves the pixels as they are.
# jpegxl_encode marks samples of 16 bits as linear light. The decoder returns the same numbers, so a round trip shows no
# difference, but viewers that manage colours show the file brighter than the same picture in 8 bits.
#
# Pixels as parts of 255; the colour (200, 60, 40) of Display P3 is (217, 42, 23) in sRGB. Output seen:
#   JP2, 8 bits: 217 42 23
#   JP2, 12 bits: 228 57 39
#   JP2, 16 bits: 217 41 23
#   JP2, 12 bits, profile hidden: 200 60 40
#   JPEG XL, 8 bits: transfer function sRGB
#   JPEG XL, 16 bits: transfer function linear
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q imagecodecs==2026.3.6 numpy==2.4.6 pillow==12.3.0
cat > "$work/show.py" <<'PY'
import struct

import imagecodecs
import numpy as np


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile():
    curve = [round(65535 * (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4)) for x in np.linspace(0, 1, 1024)]
    text = b"desc\0\0\0\0\0\0\0\5name\0" + bytes(79)
    points = {b"wtpt": (0.9642, 1, 0.8249), b"rXYZ": (0.51512, 0.2412, -0.00105)}
    points |= {b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.1571, 0.06657, 0.78407)}
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0name\0\0\0\0"}
    tags |= {tag: b"XYZ \0\0\0\0" + fixed(*point) for tag, point in points.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *curve))
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI", 128 + len(table) + len(data), b"lcms", 0x02400000) + b"mntrRGB XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + data


def box(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


def pixels(bits):
    top = (1 << bits) - 1
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.full((16, 16, 3), [round(level * top / 255) for level in (200, 60, 40)], dtype)


def jp2(bits):
    content = imagecodecs.jpeg2k_encode(pixels(bits), bitspersample=bits, reversible=True, level=0, codecformat="jp2")
    start = content.index(b"jp2h") - 4
    end = start + int.from_bytes(content[start : start + 4], "big")
    header = content[start + 8 : end]
    colours = header.index(b"colr") - 4
    size = int.from_bytes(header[colours : colours + 4], "big")
    header = header[:colours] + box(b"colr", b"\2\0\0" + profile()) + header[colours + size :]
    return content[:start] + box(b"jp2h", header) + content[end:]


def shown(content, bits):
    return " ".join(str(round(255 * int(level) / ((1 << bits) - 1))) for level in imagecodecs.jpeg2k_decode(content)[3, 3])


def transfer(bits):
    """The transfer function in the header of a bare JPEG XL codestream of three channels."""
    content = imagecodecs.jpegxl_encode(pixels(bits), lossless=False)
    # The encodings of sRGB and of linear light, found in a file of each: all defaults, or a list with the number 8.
    value = int.from_bytes(content[2:40], "little")
    at = 0

    def take(count):
        nonlocal at
        part = value >> at & ((1 << count) - 1)
        at += count
        return part

    def number(*ways):
        count, base = ways[take(2)]
        return take(count) + base

    kind = ((0, 0), (0, 1), (4, 2), (6, 18))
    assert take(1), "a size in eighths"
    take(5)
    assert take(3) == 1, "a square"
    if take(1):
        return "sRGB"
    if take(1):
        take(3)
        assert not (take(1) or take(1) or take(1)), "no size, preview or animation"
    assert not take(1), "whole numbers"
    number((0, 8), (0, 10), (0, 12), (6, 1))
    take(1)
    assert number((0, 0), (0, 1), (4, 2), (12, 1)) == 0, "no extra channels"
    take(1)
    if take(1):
        return "sRGB"
    assert not take(1), "no ICC profile"
    assert (number(*kind), number(*kind), number(*kind)) == (0, 1, 1), "RGB, D65, primaries of sRGB"
    assert not take(1), "no gamma"
    return {8: "linear", 13: "sRGB"}[number(*kind)]


for bits in (8, 12, 16):
    print(f"JP2, {bits} bits: {shown(jp2(bits), bits)}")
print(f"JP2, 12 bits, profile hidden: {shown(jp2(12).replace(b'colr', b'free'), 12)}")
for bits in (8, 16):
    print(f"JPEG XL, {bits} bits: transfer function {transfer(bits)}")
PY
"$work/venv/bin/python" "$work/show.py" > "$work/seen"
cat "$work/seen"
diff "$work/seen" - <<'SEEN'
JP2, 8 bits: 217 42 23
JP2, 12 bits: 228 57 39
JP2, 16 bits: 217 41 23
JP2, 12 bits, profile hidden: 200 60 40
JPEG XL, 8 bits: transfer function sRGB
JPEG XL, 16 bits: transfer function linear
SEEN
