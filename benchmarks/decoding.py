"""JPEGs made ready for the model, decoded whole and in no more pixels than are enough: time, and how far they differ.

python benchmarks/decoding.py [PHOTOGRAPH …]

Photographs are brought to each size, with the noise of a sensor; without one, drawn shapes are.
"""

from __future__ import annotations

import io
import sys
import time

import numpy as np
from PIL import Image

from moondream_beam.models.moondream.network.config import VisionConfig
from moondream_beam.models.moondream.network.crops import Crops, keeps_crops, prepare_crops
from moondream_beam.models.tasks import Size
from moondream_beam.models.tiny.scenes import draw
from moondream_beam.transforms.images.decode import Enough, decode_pixels, open_image, reduce_jpeg

CONFIG = VisionConfig()
SIZES = ((2000, 1500), (4000, 3000), (6000, 4000), (8064, 6048))
NOISE, QUALITY, ROUNDS = 3.0, 90, 3


def jpeg(image: Image.Image, size: Size) -> bytes:
    """A picture in this size, as a camera would write it."""
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float32)
    noisy = pixels + np.random.default_rng(0).standard_normal(pixels.shape, np.float32) * NOISE
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def made_ready(content: bytes, is_enough: Enough) -> tuple[Crops, Size, float]:
    """The crops of a picture, the size that it was decoded in, and the seconds of the process; the best of a few."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        image = open_image(content)
        size = reduce_jpeg(image, is_enough)
        picture = decode_pixels(image)
        crops = prepare_crops(picture, CONFIG, size=size)
        best = min(best, time.process_time() - started)
    return crops, picture.size, best


def run(images: list[Image.Image]) -> None:
    """A line for each picture in each size."""
    print("| pixels | decoded in | whole, ms | so, ms | ratio | grey levels apart: mean, most |")
    print("|---|---|---|---|---|---|")
    for image in images:
        for size in SIZES:
            content = jpeg(image, size)
            whole, _, slow = made_ready(content, lambda size, reduced: False)
            seen, decoded, quick = made_ready(content, lambda size, reduced: keeps_crops(size, reduced, CONFIG))
            apart = np.abs(whole.pixels_NHWC.astype(int) - seen.pixels_NHWC.astype(int))
            sides = "{} x {} | {} x {}".format(*size, *decoded)
            ratio = f"{slow / quick:.2f} | {apart.mean():.2f}, {apart.max()}"
            print(f"| {sides} | {1000 * slow:.0f} | {1000 * quick:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    run([Image.open(path) for path in sys.argv[1:]] or [draw(3).image])
