"""Convert pixels from the ICC profile in an image file to sRGB. The conversion is that of littlecms, through Pillow."""

from __future__ import annotations

import io
from hashlib import sha256
from itertools import chain, product

from PIL import Image, ImageChops, ImageCms

from ..io.block_cache import LruCache
from .undecodable import UndecodableError

# A JPEG can't hold a larger profile.
MAX_PROFILE_BYTES = 16 << 20
# Profiles whose transforms a process keeps. The transform of a profile with tables takes up to 2 MiB.
MAX_TRANSFORMS = 32
# Profiles of sRGB differ from each other by rounding. A profile within this many levels of sRGB changes no pixel.
MAX_ROUNDING = 1
# Pillow's mode of pixels -> the colour space that their profile must have, as ICC writes it.
SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}
CURE = "save the image in sRGB without a profile, or annotate it with --colour-profiles ignore"

# Digest of a profile and mode of the pixels -> the transforms to apply: one, or none if no pixel changes.
_transforms = LruCache(MAX_TRANSFORMS)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image with its pixels converted from ``profile`` to sRGB, by relative colorimetric intent.

    The result is the same object if ``profile`` is one of sRGB, or if the mode of the image is LAB, whose values do not
    depend on a profile. Otherwise the result has mode RGB, or RGBA if the image has transparency.

    Args:
        image: pixels of 8 bits for each channel, or of 1 bit.
        profile: the content of an ICC profile; None if the file has a profile that can't be read.

    Raises:
        UndecodableError: if the profile can't be read, is broken, is larger than ``MAX_PROFILE_BYTES``, or is one for
            another kind of pixels.
    """
    if image.mode == "LAB":
        return image
    if not isinstance(profile, bytes):
        raise UndecodableError(f"the colour profile in the file can't be read: {CURE}")
    if len(profile) > MAX_PROFILE_BYTES:
        raise UndecodableError(f"the colour profile has more than {MAX_PROFILE_BYTES >> 20} MiB: {CURE}")
    mode = _base_mode(image)
    key = (sha256(profile).digest(), mode)
    for transform in _transforms.get_or_load(key, lambda: _build(profile, mode), lambda _: 1):
        image = _apply(transform, image)
    return image


def _base_mode(image: Image.Image) -> str:
    if image.mode == "CMYK":
        return "CMYK"
    return "L" if image.mode in ("1", "L", "LA") else "RGB"


def _build(profile: bytes, mode: str) -> list[ImageCms.ImageCmsTransform]:
    """Return the transform from a profile to sRGB, which threads may share; an empty list if it changes no pixel.

    Raises:
        UndecodableError: if the profile is broken, or is one for another kind of pixels than ``mode``.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space: str = source.profile.xcolor_space
        if mode == "L" and space == "RGB ":
            # Gray pixels are RGB pixels with equal channels.
            mode = "RGB"
        if SPACES[mode] != space:
            raise UndecodableError(f"the colour profile is for {space.strip()}, and the pixels are {mode}: {CURE}")
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(source, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except UndecodableError:
        raise
    except (OSError, ValueError) as error:
        raise UndecodableError(f"the colour profile is broken: {CURE}") from error
    return [] if mode != "CMYK" and _is_srgb(transform, mode) else [transform]


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether the transform changes no colour of a chart: all grays, or 16 levels of each of three channels."""
    if mode == "L":
        chart = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        levels = product(range(0, 256, 17), repeat=3)
        chart = Image.frombytes("RGB", (64, 64), bytes(chain.from_iterable(levels)))
    difference = ImageChops.difference(transform.apply(chart), chart.convert("RGB"))
    return max(difference.tobytes()) <= MAX_ROUNDING


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    mode = transform.input_mode
    converted = transform.apply(image if image.mode == mode else image.convert(mode))
    if alpha is not None:
        converted.putalpha(alpha)
    return converted
