"""GIF images whose first frame is smaller than the image."""

from __future__ import annotations

from PIL import Image
from PIL.ImageFile import ImageFile


def load(image: ImageFile) -> Image.Image:
    """Return an opened GIF with its pixels decoded, transparent outside of its first frame.

    Pillow fills the rest of the image with the first colour of the palette if the frame is opaque. Browsers show
    nothing there.
    """
    frame = image.tile[0].extents if image.tile else None
    image.load()
    if frame in (None, (0, 0, *image.size)):
        return image
    whole = Image.new("RGBA", image.size, (255, 255, 255, 0))
    whole.paste(image.crop(frame).convert("RGBA"), frame)
    return whole
