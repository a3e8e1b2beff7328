"""What is different about exported pictures, and why pictures are missing in an export."""

from __future__ import annotations

from collections import Counter

from .convert import PictureFile


class Note(str):
    """What is different about an exported picture, where the user need not do anything."""


# Numbers of pictures by the reason why they, or their names, are missing in the export, and by ``Note``.
Problems = Counter[str]

NO_TEXT = "has no text"
CONVERTED = Note("is written in another format; sha256 is of the original file")
RESIZED = Note("is written smaller; boxes and points are fractions of the written picture too")
MADE_UPRIGHT = Note("is encoded again, because its EXIF orientation says to turn it and trainers ignore that")


def count_changes(problems: Problems, file: PictureFile) -> None:
    """Count what is different about the file of one picture."""
    problems[CONVERTED] += file.converted
    problems[RESIZED] += file.size is not None
    problems[MADE_UPRIGHT] += file.made_upright and not file.converted and file.size is None
