"""A folder of real photographs in many formats and modes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pillow_heif
import skimage
import sklearn
from PIL import ExifTags, Image

# For writing HEIF; the package registers the reader itself.
pillow_heif.register_heif_opener()

SOURCES = {
    "astronaut": Path(skimage.__file__).parent / "data" / "astronaut.png",
    "chelsea": Path(skimage.__file__).parent / "data" / "chelsea.png",
    "coffee": Path(skimage.__file__).parent / "data" / "coffee.png",
    "rocket": Path(skimage.__file__).parent / "data" / "rocket.jpg",
    "china": Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg",
    "flower": Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg",
    "hopper": Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
}


def take_photographs(folder: Path) -> dict[str, tuple[int, int]]:
    """Fill a folder with photographs; return the upright size of each by its name."""
    photos = {name: opened(path).convert("RGB") for name, path in SOURCES.items()}
    folder.mkdir()
    for name, photo in photos.items():
        photo.save(folder / f"{name}.jpg", quality=90)
    chelsea, hopper = photos["chelsea"], photos["hopper"]
    hopper.save(folder / "rgb.png")
    hopper.save(folder / "rgb.webp")
    hopper.save(folder / "rgb.avif")
    hopper.save(folder / "rgb.heic")
    hopper.convert("L").save(folder / "gray.jpg")
    hopper.convert("L").save(folder / "gray.png")
    hopper.convert("1").save(folder / "one bit.png")
    hopper.convert("CMYK").save(folder / "cmyk.jpg")
    hopper.quantize(64).save(folder / "palette.png")
    hopper.quantize(64).save(folder / "palette with a hole.png", transparency=0)
    hopper.quantize(64).save(folder / "palette.gif")
    faded = hopper.copy()
    faded.putalpha(hopper.convert("L"))
    for name in ("alpha.png", "alpha.webp"):
        faded.save(folder / name)
    faded.convert("LA").save(folder / "gray with alpha.png")
    Image.fromarray(np.asarray(hopper.convert("L")).astype(np.uint16) * 257).save(folder / "sixteen bit.png")
    chelsea.resize((1, 1)).save(folder / "smallest.png")
    chelsea.resize((4000, 3000)).save(folder / "largest.jpg", quality=80)
    sizes = {path.name: opened(path).size for path in folder.iterdir()}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        name = f"orientation {orientation}.jpg"
        chelsea.save(folder / name, exif=exif)
        sizes[name] = chelsea.size if orientation < 5 else chelsea.size[::-1]
    return sizes


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image
