"""Large JPEGs are decoded at a reduced size, and the model gets nearly the same input."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from support.data.hostile import encoded

from moondream_beam.models.hosted.fal.annotator import Fal
from moondream_beam.models.hosted.fallback import Fallback
from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.network.config import VisionConfig
from moondream_beam.models.moondream.network.crops import accepts_reduced, prepare_crops, tiling_for
from moondream_beam.models.tasks import Caption, Request, Sampling, Size
from moondream_beam.models.tiny.scenes import draw
from moondream_beam.transforms.annotation.annotate import annotate
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images.decode import UndecodableError, decode_pixels, open_image, reduce_jpeg

# Half of it has, from top to bottom, just twice the pixels of its three tiles.
LARGE = (4704, 3640)
CONFIG = VisionConfig()


def photograph(size: Size, seed: int = 3) -> Image.Image:
    """Shapes with sharp edges on a textured ground, with the noise of a sensor."""
    dice = np.random.default_rng(seed)
    image = draw(seed).image.resize(size, Image.Resampling.LANCZOS)
    rough = np.zeros((size[1], size[0]), np.float32)
    for detail in (16, 128, 1024):
        ground = Image.fromarray(dice.normal(0, 12, (detail, detail)).astype(np.float32))
        rough += np.asarray(ground.resize(size, Image.Resampling.BICUBIC))
    rough += dice.standard_normal(rough.shape, np.float32) * 3
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + rough[..., None], 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def content() -> bytes:
    return encoded(photograph(LARGE), "JPEG", quality=90)


def reduced(content: bytes, parts: int = 2) -> tuple[Image.Image, Size | None]:
    """Decode an image that is enough at 1/parts of its width; return it and what ``reduce_jpeg`` returned."""
    image = open_image(content)
    size = reduce_jpeg(image, lambda size, reduced: reduced[0] * parts >= size[0])
    return decode_pixels(image), size


def test_the_input_of_the_model_hardly_differs_for_a_reduced_photograph(content: bytes) -> None:
    whole, half = open_image(content), open_image(content)
    assert reduce_jpeg(half, lambda size, reduced: accepts_reduced(size, reduced, CONFIG)) == LARGE
    assert half.size == (LARGE[0] // 2, LARGE[1] // 2)
    seen, wanted = (prepare_crops(decode_pixels(image), CONFIG, size=LARGE) for image in (half, whole))
    assert seen.tiling == wanted.tiling == (3, 3)
    apart = np.abs(seen.pixels_NHWC.astype(int) - wanted.pixels_NHWC.astype(int))
    assert apart.mean() < 0.5 and np.percentile(apart, 99.9) <= 3 and apart.max() <= 8


@pytest.mark.parametrize("tiling", ["overlapping", "four sizes", "none"])
def test_a_reduced_image_has_the_tiles_of_the_full_size(tiling: str) -> None:
    """The number of tiles depends on the size, and is often different for half the size."""
    config = replace(CONFIG, tiling=tiling)
    half, size = Image.new("RGB", (403, 302)), (806, 604)
    assert prepare_crops(half, config, size=size).tiling == tiling_for(604, 806, config)
    others = {prepare_crops(half, config).tiling, prepare_crops(half, config, size=half.size).tiling}
    assert others == {tiling_for(302, 403, config)}
    assert (tiling_for(302, 403, config) == tiling_for(604, 806, config)) == (tiling == "none")


def test_the_engine_cuts_a_reduced_image_into_the_crops_of_the_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Moondream("tiny", device="cpu").load()
    encode, seen = engine.encode, []
    monkeypatch.setattr(engine, "encode", lambda pictures: seen.extend(pictures) or encode(pictures))
    for size in (None, (200, 152)):
        list(engine.answer([Request("1", Image.new("RGB", (100, 76)), Caption("short"), Sampling(1), size=size)]))
    assert [crops.tiling for crops in seen] == [(1, 1), (1, 2)]


def test_the_smallest_size_that_is_enough_is_taken() -> None:
    content = encoded(Image.new("RGB", (640, 480), "red"), "JPEG")
    assert {parts: reduced(content, parts)[0].size for parts in (1, 2, 3, 4, 7, 8, 50)} == {
        1: (640, 480),
        2: (320, 240),
        3: (320, 240),
        4: (160, 120),
        7: (160, 120),
        8: (80, 60),
        50: (80, 60),
    }


@pytest.mark.parametrize("size", [(641, 480), (640, 479)])
def test_sides_that_no_divisor_divides_are_decoded_at_full_size(size: Size) -> None:
    picture, would = reduced(encoded(Image.new("RGB", size), "JPEG"))
    assert picture.size == size and would is None


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_at_full_size(kind: str) -> None:
    picture, would = reduced(encoded(Image.new("RGB", (640, 480)), kind))
    assert picture.size == (640, 480) and would is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_image_is_upright_and_its_full_size_too(orientation: int) -> None:
    image = Image.new("RGB", (640, 320), "red")
    image.paste("blue", (0, 0, 320, 160))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(image, "JPEG", exif=exif)
    picture, size = reduced(content)
    whole = decode_pixels(open_image(content))
    assert size == whole.size and picture.size == (size[0] // 2, size[1] // 2)
    apart = np.abs(np.asarray(picture, int) - np.asarray(whole.resize(picture.size, Image.Resampling.BOX), int))
    assert apart.mean() < 4


def test_a_reduced_cmyk_image_keeps_its_colours() -> None:
    picture, _ = reduced(encoded(Image.new("RGB", (640, 480), (200, 30, 90)).convert("CMYK"), "JPEG"))
    assert picture.size == (320, 240) and picture.getpixel((9, 9)) == pytest.approx((200, 30, 90), abs=6)


def test_a_cut_off_file_fails_at_a_reduced_size_too() -> None:
    content = encoded(photograph((640, 480)), "JPEG", progressive=False)
    for tenth in range(1, 10):
        with pytest.raises(UndecodableError):
            reduced(content[: len(content) * tenth // 10])


def test_rows_hold_the_full_size_of_a_reduced_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(content)
    moondream = Moondream("tiny", device="cpu")
    (row,) = annotate([ImageRef(str(path), path.name)], [Caption("short")], moondream)
    assert (row.width, row.height) == LARGE
    assert moondream.accepts_reduced(LARGE, (LARGE[0] // 4, LARGE[1] // 4))


@pytest.mark.parametrize("size, enough", [((6144, 4096), True), ((6142, 4096), False), ((3072, 2048), False)])
def test_a_hosted_api_accepts_half_the_size_only_if_it_sends_the_same(size: Size, enough: bool) -> None:
    half = (size[0] // 2, size[1] // 2)
    assert Fal().accepts_reduced(size, half) == enough
    # Either may answer: a size that is enough for the engine may be too small for the API.
    assert Fallback(Moondream("tiny", device="cpu"), Fal()).accepts_reduced(size, half) == enough


def test_an_mpo_of_several_frames_is_reduced_too() -> None:
    buffer = io.BytesIO()
    image = photograph((640, 480))
    image.save(buffer, "MPO", save_all=True, append_images=[image.resize((64, 48))])
    picture, size = reduced(buffer.getvalue())
    assert picture.size == (320, 240) and size == (640, 480)
