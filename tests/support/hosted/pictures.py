"""Pictures that encode a number. It survives JPEG and resizing, so a server can put it into its answer."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

SIDE, BLOCK = 4, 16


def numbered(number: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Return an RGB picture of 4 x 4 black and white blocks: the 16 bits of the number, the lowest first."""
    small = Image.new("L", (SIDE, SIDE))
    small.putdata([255 * (number >> bit & 1) for bit in range(SIDE * SIDE)])
    return small.resize(size or (SIDE * BLOCK, SIDE * BLOCK), Image.Resampling.NEAREST).convert("RGB")


def save_numbered(folder: Path, count: int) -> Path:
    """Save ``count`` pictures as NUMBER.png in a folder, which is made if need be, and return the folder."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        numbered(number).save(folder / f"{number}.png")
    return folder


def number_of(content: bytes) -> int:
    """Return the number that an image file encodes."""
    image = Image.open(io.BytesIO(content)).convert("L")
    width, height = image.size
    number = 0
    for bit in range(SIDE * SIDE):
        row, column = divmod(bit, SIDE)
        x, y = (2 * column + 1) * width // (2 * SIDE), (2 * row + 1) * height // (2 * SIDE)
        number |= int(image.getpixel((x, y)) > 127) << bit
    return number


def number_of_data_uri(uri: str) -> int:
    """Return the number that the JPEG in a data URI encodes."""
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64", head
    return number_of(base64.b64decode(body, validate=True))
