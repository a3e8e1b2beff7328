"""Time to make the crops of JPEGs, decoded in full and reduced, and the difference of the crops.

python benchmarks/decoding.py [PHOTOGRAPH ...]

Photographs, or drawn shapes if none is given, are resized to each size, and noise like a sensor's is added.
"""

from __future__ import annotations

import io
import sys
import time

import numpy as np
from PIL import Image

from moondream_beam.models.moondream.network.config import VisionConfig
from moondream_beam.models.moondream.network.crops import Crops, accepts_reduced, prepare_crops
from moondream_beam.models.tasks import Size
from moondream_beam.models.tiny.scenes import draw
from moondream_beam.transforms.images.decode import Enough, decode_pixels, open_image, reduce_jpeg

CONFIG = VisionConfig()
SIZES = ((2000, 1500), (4000, 3000), (6000, 4000), (8064, 6048))
NOISE_STD, QUALITY, NUM_ROUNDS = 3.0, 90, 3


def jpeg(image: Image.Image, size: Size) -> bytes:
    """Return a picture of this size as a JPEG with noise."""
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float32)
    noisy = pixels + np.random.default_rng(0).standard_normal(pixels.shape, np.float32) * NOISE_STD
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def time_crops(content: bytes, is_enough: Enough) -> tuple[Crops, Size, float]:
    """Return the crops of a picture, the size in which it was decoded, and the best CPU time in seconds."""
    best = float("inf")
    for _ in range(NUM_ROUNDS):
        started = time.process_time()
        image = open_image(content)
        size = reduce_jpeg(image, is_enough)
        picture = decode_pixels(image)
        crops = prepare_crops(picture, CONFIG, size=size)
        best = min(best, time.process_time() - started)
    return crops, picture.size, best


def run(images: list[Image.Image]) -> None:
    """Print a row of a Markdown table for each picture in each size."""
    print("| pixels | reduced to | full, ms | reduced, ms | ratio | difference in grey levels: mean, maximum |")
    print("|---|---|---|---|---|---|")
    for image in images:
        for size in SIZES:
            content = jpeg(image, size)
            whole, _, slow = time_crops(content, lambda size, reduced: False)
            seen, decoded, quick = time_crops(content, lambda size, reduced: accepts_reduced(size, reduced, CONFIG))
            difference = np.abs(whole.pixels_NHWC.astype(int) - seen.pixels_NHWC.astype(int))
            sides = "{} x {} | {} x {}".format(*size, *decoded)
            ratio = f"{slow / quick:.2f} | {difference.mean():.2f}, {difference.max()}"
            print(f"| {sides} | {1000 * slow:.0f} | {1000 * quick:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    run([Image.open(path) for path in sys.argv[1:]] or [draw(3).image])
