"""Requests of many kinds for one batch: pictures of several sizes, prompts of several lengths, and samplings."""

import numpy as np
from PIL import Image

from moondream_beam.models.tasks import Caption, Query, Request, Sampling

SIZES = ((40, 30), (300, 200), (64, 64), (100, 420), (640, 480), (33, 90), (200, 201), (57, 29))
TASKS = (
    Caption("short"),
    Query("What colour?"),
    Caption("long"),
    Query("How many dogs are in this picture, and what are they doing?"),
    Caption("normal"),
    Query("Why?"),
    Query("Who is that?"),
    Caption("short"),
)


def noise(width: int, height: int, seed: int) -> Image.Image:
    """Return a picture of coloured patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height))


def mixed_requests() -> list[Request]:
    """Return eight requests. Half of them sample, some with a nucleus, some with a repetition penalty."""
    return [
        Request(
            f"row {number}",
            noise(*size, number),
            task,
            Sampling(5 + number % 4 * 3, number % 2 * 1.0, 0.8 if number > 3 else 1.0, 1.3 if number % 3 == 0 else 1.0),
        )
        for number, (size, task) in enumerate(zip(SIZES, TASKS, strict=True))
    ]
