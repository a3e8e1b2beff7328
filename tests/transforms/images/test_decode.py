"""Images of every format and mode become upright RGB, with the colours that a viewer shows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from support.data.hostile import encoded

from moondream_beam.transforms.images import decode as module
from moondream_beam.transforms.images.decode import UndecodableError, decode, decode_pixels
from moondream_beam.transforms.images.formats import formats

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters() -> Image.Image:
    """Four quarters, red and green above blue and white, so that every orientation differs."""
    image = Image.new("RGB", (64, 32), RED)
    image.paste(GREEN, (32, 0, 64, 16))
    image.paste(BLUE, (0, 16, 32, 32))
    image.paste(WHITE, (32, 16, 64, 32))
    return image


def close(image: Image.Image, wanted: Image.Image, tolerance: int) -> bool:
    assert image.mode == "RGB"
    assert image.size == wanted.size
    return bool(np.abs(np.asarray(image, int) - np.asarray(wanted, int)).mean() <= tolerance)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert close(decode(encoded(quarters(), kind)), quarters(), 0)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP", "AVIF", "JPEG2000", "GIF"])
def test_lossy_formats_keep_the_colours(kind: str) -> None:
    assert close(decode(encoded(quarters(), kind)), quarters(), 8)


def test_an_icon_is_decoded() -> None:
    assert decode(encoded(Image.new("RGB", (32, 32), RED), "ICO")).getpixel((5, 5)) == RED


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grayscale_stays_gray(kind: str) -> None:
    assert close(decode(encoded(quarters().convert("L"), kind)), quarters().convert("L").convert("RGB"), 2)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    assert close(decode(encoded(quarters().convert("CMYK"), kind)), quarters(), 8)


def test_a_palette_becomes_its_colours() -> None:
    assert close(decode(encoded(quarters().quantize(4))), quarters(), 1)


@pytest.mark.parametrize("transparency", [0, b"\x00"])
def test_a_transparent_entry_of_a_palette_is_white(transparency: int | bytes) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((3, 1), 1)
    picture = decode(encoded(image, transparency=transparency))
    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((3, 1)) == BLUE


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    image.paste((0, 0, 255, 0), (0, 0, 4, 8))
    picture = decode(encoded(image, kind, **options))
    assert picture.getpixel((1, 1)) == WHITE
    assert picture.getpixel((6, 6)) == pytest.approx((255, 127, 127), abs=1)


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_in_a_jpeg_is_inverted_with_or_without_the_adobe_marker(adobe: bool) -> None:
    """Other programs write inverted CMYK like Adobe, but without its marker."""
    content = encoded(quarters().convert("CMYK"), "JPEG")
    marker = content.index(b"\xff\xee\x00\x0eAdobe")
    without = content[:marker] + content[marker + 16 :]
    assert close(decode(content if adobe else without), quarters(), 8)


def test_lab_becomes_rgb() -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(quarters(), *profiles, outputMode="LAB")
    assert close(decode(encoded(lab, "TIFF")), quarters(), 8)


def test_a_palette_with_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (4, 2), (*RED, 0))
    image.paste((*BLUE, 255), (2, 0, 4, 2))
    picture = decode(encoded(image.quantize(), "PNG"))
    assert (picture.getpixel((0, 0)), picture.getpixel((3, 0))) == (WHITE, BLUE)


@pytest.mark.parametrize(("mode", "colour"), [("PA", (0, 0)), ("La", (0, 0)), ("LA", (9, 0)), ("RGBa", (0, 0, 0, 0))])
def test_fully_transparent_pixels_are_white_in_every_mode_with_alpha(mode: str, colour: tuple[int, ...]) -> None:
    assert decode_pixels(Image.new(mode, (2, 2), colour)).getpixel((1, 1)) == WHITE


def test_a_heif_is_decoded() -> None:
    assert close(decode(encoded(quarters(), "HEIF")), quarters(), 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heif_is_turned_upright_once(orientation: int) -> None:
    image = quarters()
    # Telephones write the orientation twice: as a property of the image and in its EXIF data.
    image.getexif()[ExifTags.Base.Orientation] = orientation
    assert close(decode(encoded(image, "HEIF")), UPRIGHT[orientation](quarters()), 8)


def test_a_heif_without_the_extra_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(quarters(), "HEIF")
    monkeypatch.setattr(module, "formats", lambda: tuple(set(formats()) - {"HEIF"}))
    with pytest.raises(UndecodableError, match=r"moondream-beam\[heif\]"):
        decode(content)


def test_gray_with_alpha_is_laid_over_white() -> None:
    assert decode(encoded(Image.new("LA", (3, 3), (0, 64)))).getpixel((1, 1)) == pytest.approx((191,) * 3, abs=1)


def test_a_colour_declared_transparent_is_white() -> None:
    assert decode(encoded(quarters(), transparency=RED)).getpixel((0, 0)) == WHITE


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (9, 2), 0)
    image.putpixel((8, 1), 1)
    picture = decode(encoded(image))
    assert (picture.getpixel((0, 0)), picture.getpixel((8, 1))) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_gray_are_scaled_to_eight(kind: str) -> None:
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    picture = decode(encoded(Image.fromarray(levels), kind))
    assert [picture.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (1,) * 3, (128,) * 3, WHITE]


def test_sixteen_bits_of_rgb_are_scaled_to_eight() -> None:
    # Pillow can't write 16 bits of RGB: three pixels of a binary PPM, which states its maximum value.
    content = b"P6 3 1 65535\n" + np.array([[0, 257, 32768], [65535, 0, 0], [65535] * 3], ">u2").tobytes()
    picture = decode(content)
    assert [picture.getpixel((x, 0)) for x in range(3)] == [(0, 1, 128), RED, WHITE]


def test_an_image_of_one_pixel_is_decoded() -> None:
    assert close(decode(encoded(Image.new("RGB", (1, 1), BLUE))), Image.new("RGB", (1, 1), BLUE), 0)


def test_an_image_of_twelve_megapixels_keeps_its_size() -> None:
    assert decode(encoded(Image.new("RGB", (4000, 3000), RED), "JPEG")).size == (4000, 3000)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_decoded(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    picture = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert close(picture, frames[0], 2)


UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.rotate(180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(90, expand=True),
    6: lambda image: image.rotate(-90, expand=True),
    7: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(-90, expand=True),
    8: lambda image: image.rotate(90, expand=True),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(quarters(), kind, exif=exif, **options)
    assert close(decode(content), UPRIGHT[orientation](quarters()), 8)


def test_transparency_survives_turning() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("RGBA", (4, 2), (*RED, 0))
    image.putpixel((0, 0), (*BLUE, 255))
    picture = decode(encoded(image, exif=exif))
    assert picture.size == (2, 4)
    assert (picture.getpixel((1, 0)), picture.getpixel((0, 0))) == (BLUE, WHITE)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert close(decode(encoded(quarters(), exif=exif)), quarters(), 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow looks for the resolution there, too.
@pytest.mark.parametrize(
    "exif", [b"garbage that is no EXIF", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x05\x01\x12"]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_broken_exif_data_are_ignored(exif: bytes, kind: str) -> None:
    assert close(decode(encoded(quarters(), kind, exif=b"Exif\0\0" + exif)), quarters(), 8)
