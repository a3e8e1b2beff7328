"""Pictures on their way to an API: small enough to send, or public enough to be named."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ...urls import is_public_url

# Moondream looks at no more than 1,512 pixels a side: what is larger would be sent for nothing.
LONGEST_SIDE = 1536
# Pixels, a side, of a reduced picture for each that is sent.
DETAIL = 2
JPEG_QUALITY = 90
MAX_URL_CHARS = 2048


def encode(picture: Image.Image) -> bytes:
    """An upright RGB picture as JPEG, at most ``LONGEST_SIDE`` a side.

    Raises:
        ValueError: the picture has no pixels, or is not RGB.
    """
    if picture.mode != "RGB":
        raise ValueError(f"the picture is {picture.mode}; decode it to RGB first")
    if 0 in picture.size:
        raise ValueError("the picture has no pixels")
    buffer = io.BytesIO()
    shrink(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def shrink(picture: Image.Image) -> Image.Image:
    """A picture of at most ``LONGEST_SIDE`` a side; the very same one where it is."""
    scale = LONGEST_SIDE / max(1, *picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


class Encoder:
    """``encode`` that remembers the last picture: requests about one picture follow each other."""

    def __init__(self) -> None:
        self._last: tuple[Image.Image, bytes] | None = None

    def __call__(self, picture: Image.Image) -> bytes:
        """The picture as JPEG.

        Raises:
            ValueError: the picture has no pixels, or is not RGB.
        """
        if self._last is None or self._last[0] is not picture:
            self._last = (picture, encode(picture))
        return self._last[1]


def data_uri(jpeg: bytes) -> str:
    """JPEG bytes as text that stands in the place of a URL."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def public_url(uri: str | None) -> str | None:
    """Return ``uri`` if the API may fetch it by itself, else None: see ``is_public_url``. At most 2,048 characters."""
    return uri if uri and len(uri) <= MAX_URL_CHARS and is_public_url(uri) else None
