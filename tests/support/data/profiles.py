"""Write ICC profiles, and compute by the published formulas what their colours are in sRGB."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import product

# The white of the profile connection space, and the matrix from its XYZ to linear sRGB (Bradford, as ICC prescribes).
D50 = (0.9642, 1.0, 0.8249)
TO_SRGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)
SRGB_COLUMNS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3_COLUMNS = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
Lab = tuple[float, float, float]


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """A profile of version 2.4 with these tags."""
    name = b"made here\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0" + name, b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), **tags}
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = 128 + len(table) + len(data)
    head = struct.pack(">I4sI", size, b"lcms", 0x02400000) + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + table + data


def srgb_curve(entries: int = 1024) -> bytes:
    levels = [round(65535 * linear(index / (entries - 1))) for index in range(entries)]
    return b"curv\0\0\0\0" + struct.pack(f">I{entries}H", entries, *levels)


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(columns: Sequence[Sequence[float]], curve: bytes | None = None) -> bytes:
    """A profile of RGB with these XYZ values of red, green and blue; by default with the curve of sRGB."""
    curve = curve or srgb_curve()
    points = {
        tag: b"XYZ \0\0\0\0" + fixed(*point) for tag, point in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    }
    return icc(b"RGB ", {**points, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def gray_profile(gamma: float) -> bytes:
    return icc(b"GRAY", {b"kTRC": gamma_curve(gamma)})


def cmyk_profile(lab_of: Callable[[tuple[int, ...]], Lab]) -> bytes:
    """A profile of CMYK. ``lab_of`` gives the colour of each of the 16 prints of no ink (0) and full ink (1)."""
    corners = b"".join(
        bytes([round(light * 2.55), round(a) + 128, round(b) + 128])
        for light, a, b in map(lab_of, product((0, 1), repeat=4))
    )
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * ramp + corners + 3 * ramp
    return icc(b"CMYK", {b"A2B0": table, b"A2B1": table}, b"prtr", b"Lab ")


def linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def srgb_level(light: float) -> int:
    """An 8-bit level of sRGB for linear light from 0 to 1; more and less are cut."""
    light = min(1.0, max(0.0, light))
    return round(255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055))


def srgb_of_xyz(xyz: Sequence[float]) -> tuple[int, ...]:
    return tuple(srgb_level(sum(row[index] * xyz[index] for index in range(3))) for row in TO_SRGB)


def srgb_of_rgb(pixel: Sequence[int], columns: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """The sRGB of a pixel of an RGB profile with these columns and the curve of sRGB."""
    light = [linear(level / 255) for level in pixel]
    return srgb_of_xyz([sum(light[channel] * columns[channel][index] for channel in range(3)) for index in range(3)])


def srgb_of_lab(lab: Lab) -> tuple[int, ...]:
    light, a, b = lab
    middle = (light + 16) / 116
    parts = [middle + a / 500, middle, middle - b / 200]
    return srgb_of_xyz(
        [
            white * (part**3 if part > 6 / 29 else (part - 4 / 29) * 108 / 841)
            for white, part in zip(D50, parts, strict=True)
        ]
    )


DISPLAY_P3 = rgb_profile(P3_COLUMNS)
SRGB = rgb_profile(SRGB_COLUMNS)
