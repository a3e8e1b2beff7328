"""Colours with an ICC profile are converted to sRGB on request, or the image is refused; by default they stay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageCms
from support.data.hostile import encoded
from support.data.pixels import chunk, png
from support.data.profiles import (
    DISPLAY_P3,
    P3_COLUMNS,
    SRGB,
    SRGB_COLUMNS,
    Lab,
    cmyk_profile,
    gamma_curve,
    gray_profile,
    icc,
    rgb_profile,
    srgb_curve,
    srgb_level,
    srgb_of_lab,
    srgb_of_rgb,
)

from moondream_beam.transforms.images import colour
from moondream_beam.transforms.images.decode import UndecodableError, decode, decode_pixels, open_image, reduce_jpeg

# The values of the colour are those that colorimetry gives, see support.data.profiles.
STORED, IN_SRGB = (200, 60, 40), (217, 42, 23)
INKS: dict[tuple[int, ...], Lab] = {
    (0, 0, 0, 0): (100, 0, 0),
    (1, 0, 0, 0): (62, -30, -40),
    (0, 1, 0, 0): (50, 65, -3),
    (0, 0, 1, 0): (92, -5, 70),
    (0, 0, 0, 1): (10, 0, 0),
}
PRINT = cmyk_profile(lambda inks: INKS.get(inks, (30, 5, 5)))
GRAY = gray_profile(1.8)
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
LOSSY: dict[str, dict[str, Any]] = {"JPEG": {"quality": 98}, "AVIF": {"quality": 98}, "MPO": {"quality": 98}}


def plain(pixel: object = STORED, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new(mode, size, pixel)  # type: ignore[arg-type]


def middle(content: bytes, choice: Any = "srgb") -> tuple[int, ...]:
    picture = decode(content, choice)
    assert picture.mode == "RGB"
    return picture.getpixel((picture.width // 2, picture.height // 2))  # type: ignore[return-value]


def close(wanted: tuple[int, ...], within: int = 2) -> Any:
    return pytest.approx(wanted, abs=within)


def test_the_colour_of_the_report_is_that_of_the_published_formulas() -> None:
    assert srgb_of_rgb(STORED, P3_COLUMNS) == IN_SRGB


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_display_p3_becomes_srgb_in_each_format(kind: str) -> None:
    content = encoded(plain(), kind, icc_profile=DISPLAY_P3, **(LOSSLESS | LOSSY)[kind])
    assert middle(content) == close(IN_SRGB, 2 if kind in LOSSLESS else 4)


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_by_default_profiles_are_ignored(kind: str) -> None:
    options = (LOSSLESS | LOSSY)[kind]
    with_profile, without = (encoded(plain(), kind, icc_profile=profile, **options) for profile in (DISPLAY_P3, None))
    assert decode(with_profile).tobytes() == decode(with_profile, "ignore").tobytes() == decode(without).tobytes()


def test_heif_is_converted() -> None:
    pytest.importorskip("pillow_heif")
    assert middle(encoded(plain(), "HEIF", icc_profile=DISPLAY_P3, quality=100)) == close(IN_SRGB, 4)


@pytest.mark.parametrize("pixel", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (30, 200, 90), (20, 40, 220)])
def test_more_colours_of_display_p3(pixel: tuple[int, ...]) -> None:
    assert middle(encoded(plain(pixel), icc_profile=DISPLAY_P3)) == close(srgb_of_rgb(pixel, P3_COLUMNS))


def test_a_profile_whose_red_is_blue_swaps_the_channels() -> None:
    red, green, blue = SRGB_COLUMNS
    assert middle(encoded(plain(), icc_profile=rgb_profile((blue, green, red)))) == close(STORED[::-1])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("inks", INKS)
def test_cmyk_becomes_the_colours_of_its_profile(kind: str, inks: tuple[int, ...]) -> None:
    pixel = tuple(255 * ink for ink in inks)
    content = encoded(plain(pixel, "CMYK"), kind, icc_profile=PRINT)
    assert middle(content) == close(srgb_of_lab(INKS[inks]))
    assert middle(content, "ignore") == plain(pixel, "CMYK").convert("RGB").getpixel((0, 0))


@pytest.mark.parametrize("pixel", [0, 60, 100, 200, 255])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_gray_becomes_the_gray_of_its_profile(kind: str, pixel: int) -> None:
    assert middle(encoded(plain(pixel, "L"), kind, icc_profile=GRAY)) == close((srgb_level((pixel / 255) ** 1.8),) * 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_of_16_bits_becomes_the_gray_of_its_profile(kind: str) -> None:
    content = encoded(plain(100 * 257, "I;16"), kind, icc_profile=GRAY)
    assert middle(content) == close((srgb_level((100 / 255) ** 1.8),) * 3)


def test_gray_with_a_profile_of_rgb_stays_gray() -> None:
    gamma = rgb_profile(SRGB_COLUMNS, gamma_curve(1.8))
    assert middle(encoded(plain(100, "L"), icc_profile=gamma)) == close((srgb_level((100 / 255) ** 1.8),) * 3)
    assert middle(encoded(plain(1, "1"), icc_profile=gamma)) == (255, 255, 255)


def test_a_palette_is_converted() -> None:
    image = plain(0, "P")
    image.putpalette([*STORED, 0, 0, 0])
    assert middle(encoded(image, icc_profile=DISPLAY_P3)) == close(IN_SRGB)


def transparent_images() -> dict[str, bytes]:
    """Images of ``STORED`` in Display P3 or of gray, whose left half is transparent in different ways."""
    rgba, gray, rgb = plain((*STORED, 255), "RGBA"), plain((100, 255), "LA"), plain()
    palette, key = plain(0, "P"), plain(100, "L")
    palette.putpalette([*STORED, 7, 7, 7])
    for image, clear in ((rgba, (1, 2, 3, 0)), (gray, (9, 0)), (rgb, (1, 2, 3)), (palette, 1), (key, 9)):
        image.paste(clear, (0, 0, 16, 32))
    return {
        "RGBA": encoded(rgba, icc_profile=DISPLAY_P3),
        "LA": encoded(gray, icc_profile=GRAY),
        "RGB with a transparent colour": encoded(rgb, icc_profile=DISPLAY_P3, transparency=(1, 2, 3)),
        "palette": encoded(palette, icc_profile=DISPLAY_P3, transparency=1),
        "gray with a transparent level": encoded(key, icc_profile=GRAY, transparency=9),
    }


@pytest.mark.parametrize("kind", transparent_images())
def test_transparency_is_kept_and_laid_over_the_white_of_srgb(kind: str) -> None:
    picture = decode(transparent_images()[kind], "srgb")
    assert picture.getpixel((4, 16)) == (255, 255, 255)
    wanted = (srgb_level((100 / 255) ** 1.8),) * 3 if kind[0] in "Lg" else IN_SRGB
    assert picture.getpixel((24, 16)) == close(wanted)


def test_half_transparent_pixels_are_converted_before_they_are_laid_over_white() -> None:
    content = encoded(plain((*STORED, 128), "RGBA"), icc_profile=DISPLAY_P3)
    assert middle(content) == close(tuple((channel * 128 + 255 * 127) // 255 for channel in IN_SRGB))


def test_lab_needs_no_profile() -> None:
    lab = Image.new("LAB", (8, 8), (128, 160, 160))
    contents = [encoded(lab, "TIFF", icc_profile=profile) for profile in (DISPLAY_P3, None)]
    assert middle(contents[0]) == middle(contents[1]) == middle(contents[0], "ignore")


def test_the_picture_is_turned_upright() -> None:
    image = plain(size=(32, 16))
    image.paste((0, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = decode(encoded(image, "JPEG", icc_profile=DISPLAY_P3, exif=exif, quality=98), "srgb")
    assert picture.size == (16, 32)
    assert picture.getpixel((8, 4)) == close((0, 0, 0), 4) and picture.getpixel((8, 28)) == close(IN_SRGB, 4)


def test_a_reduced_jpeg_is_converted() -> None:
    image = open_image(encoded(plain(size=(256, 256)), "JPEG", icc_profile=DISPLAY_P3, quality=98))
    assert reduce_jpeg(image, lambda size, reduced: True) == (256, 256)
    picture = decode_pixels(image, "srgb")
    assert picture.size == (32, 32) and picture.getpixel((16, 16)) == close(IN_SRGB, 4)


def srgb_profiles() -> dict[str, bytes]:
    littlecms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "written here": SRGB,
        "that of littlecms": littlecms,
        "with a long table": rgb_profile(SRGB_COLUMNS, srgb_curve(4096)),
    }


@pytest.mark.parametrize("name", srgb_profiles())
def test_a_profile_of_srgb_changes_and_copies_no_pixel(name: str) -> None:
    image = Image.effect_noise((64, 64), 100).convert("RGB")
    assert colour.to_srgb(image, srgb_profiles()[name]) is image


def test_a_gray_profile_with_the_curve_of_srgb_changes_no_pixel() -> None:
    image = plain(100, "L")
    assert colour.to_srgb(image, icc(b"GRAY", {b"kTRC": srgb_curve()})) is image


def test_an_image_without_a_profile_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ImageCms, "ImageCmsProfile")
    assert middle(encoded(plain())) == STORED
    assert middle(encoded(plain(), icc_profile=DISPLAY_P3), "ignore") == STORED


def without_the_middle_part(content: bytes) -> bytes:
    """A JPEG of which one of the segments with its profile is gone."""
    start = content.index(b"\xff\xe2")
    return content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4], "big") :]


LARGE_JPEG = encoded(plain(), "JPEG", icc_profile=DISPLAY_P3 + bytes(100_000))
BAD = {
    "is broken: ": encoded(plain(), icc_profile=b"no profile"),
    "is broken:": encoded(plain(), icc_profile=DISPLAY_P3[:300]),
    "is broken": encoded(plain(), icc_profile=DISPLAY_P3[:-900].replace(b"rTRC", b"nTRC")),
    "in the file can't be read: ": without_the_middle_part(LARGE_JPEG),
    "in the file can't be read:": png([[*STORED] * 32] * 32, 8, 2, chunk(b"iCCP", b"name\0\0not deflated"), channels=3),
    "is for CMYK, and the pixels are RGB": encoded(plain(), icc_profile=PRINT),
    "is for GRAY, and the pixels are RGB": encoded(plain(), icc_profile=GRAY),
    "is for RGB, and the pixels are CMYK": encoded(plain(mode="CMYK", pixel=0), "JPEG", icc_profile=DISPLAY_P3),
    "has more than 16 MiB": encoded(plain(), "TIFF", icc_profile=DISPLAY_P3 + bytes(16 << 20)),
}


@pytest.mark.parametrize("message", BAD)
def test_a_profile_that_cannot_be_used_refuses_the_image_and_names_the_cure(message: str) -> None:
    with pytest.raises(UndecodableError) as error:
        decode(BAD[message], "srgb")
    assert f"the colour profile {message}" in str(error.value)
    assert "save the image in sRGB without a profile, or annotate it with --colour-profiles ignore" in str(error.value)
    assert decode(BAD[message]).size == (32, 32)


def test_a_large_profile_that_jpeg_splits_is_joined() -> None:
    assert middle(LARGE_JPEG) == close(IN_SRGB, 4)


def test_threads_share_the_transform_of_a_profile() -> None:
    content = encoded(plain(size=(400, 300)), icc_profile=DISPLAY_P3)
    wanted = decode(content, "srgb").tobytes()
    with ThreadPoolExecutor(8) as pool:
        assert {picture.tobytes() for picture in pool.map(lambda _: decode(content, "srgb"), range(40))} == {wanted}


def test_more_profiles_than_are_kept_are_each_applied() -> None:
    for gamma in [*range(100, 100 + 2 * colour.MAX_TRANSFORMS, 2)] * 2:
        profile = gray_profile(gamma / 64)
        assert colour.to_srgb(plain(200, "L"), profile).getpixel((0, 0)) == close(
            (srgb_level((200 / 255) ** (gamma / 64)),) * 3
        )
    assert len(colour._transforms._entries) <= colour.MAX_TRANSFORMS
