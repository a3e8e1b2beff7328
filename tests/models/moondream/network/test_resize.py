"""Pictures resized by two matrix products equal those that Pillow resizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from moondream_beam.models.moondream.network import resize as module
from moondream_beam.models.moondream.network.config import VisionConfig
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.moondream.network.resize import (
    COEFFICIENT_BITS,
    coefficients,
    resize,
    resize_on,
    resize_tensor,
)

CPU = torch.device("cpu")


def picture(width, height, seed=0):
    """Noise, a gradient and hard edges, at which a filter that rings shows errors first."""
    dice = np.random.default_rng(seed)
    pixels = dice.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 3] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    pixels[height // 2 :, width // 2 :] = 255
    pixels[2 * height // 3 :, : width // 4] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "given, wanted",
    [
        ((640, 480), (378, 378)),
        ((640, 480), (1176, 644)),
        ((1600, 1200), (910, 1176)),
        ((37, 1001), (378, 378)),
        ((378, 378), (378, 378)),
        ((1, 1), (378, 378)),
        ((3000, 11), (20, 7)),
        ((65_000, 3), (378, 7)),
        ((300, 200), (90, 60)),
    ],
)
def test_each_pixel_equals_pillows(given, wanted):
    image = picture(*given)
    (expected,) = resize(image, [wanted])
    found = resize_tensor(torch.from_numpy(np.array(image)), wanted).numpy()
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_coefficients_of_a_pixel_sum_to_one():
    sums = coefficients(1001, 378, CPU).double().sum(-1) / 2**COEFFICIENT_BITS
    assert (sums - 1).abs().max() < 1e-5


def test_a_large_picture_is_resized_in_parts(monkeypatch):
    pixels = torch.from_numpy(np.array(picture(300, 200)))
    whole = resize_tensor(pixels, (90, 60))
    monkeypatch.setattr(module, "MAX_FLOAT_PIXELS", 300 * 7 + 1)
    difference = (resize_tensor(pixels, (90, 60)).int() - whole.int()).abs()
    # A processor may sum products in another order for another number of rows.
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.001


def test_crops_made_on_a_device_equal_pillows():
    image = picture(640, 480)
    here, there = (prepare_crops(image, VisionConfig(), how) for how in (resize, resize_on(CPU)))
    assert there.tiling == here.tiling
    assert np.array_equal(there.pixels_NHWC, here.pixels_NHWC)


def test_pillow_resizes_when_the_device_has_no_memory_and_logs_it(monkeypatch, caplog):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "resize_tensor", fail)
    image = picture(64, 48)
    (found,) = resize_on(CPU)(image, [(30, 20)])
    assert np.array_equal(found, resize(image, [(30, 20)])[0])
    assert "no memory on cpu to resize 64 x 48 pixels" in caplog.text
