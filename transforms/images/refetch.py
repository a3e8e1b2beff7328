"""References to the images of an output's rows, so that they can be fetched again."""

from __future__ import annotations

from ..core.records import ImageRef
from ..io.containers.location import Member, container_of, locate
from ..io.uris import DATA, scheme_of, unescape_non_utf8, unescape_path


class NotKeptError(ValueError):
    """The URI and byte range in a row of the output are not enough to fetch its image again."""


def relocate(uri: str, byte_offset: int | None, byte_size: int | None) -> ImageRef:
    """Return a reference to the image of a row, from its columns of these names. No file is opened.

    Rows hold file names that are not UTF-8 with escapes; the reference has the name of the file that exists.

    Raises:
        NotKeptError: if the image came as a data: URI, of which rows keep a digest; or if it is a member of an archive
            and its row has no byte range.
    """
    if scheme_of(uri) == DATA:
        raise NotKeptError(
            "the image came as a data: URI, which rows do not keep: save it as a file, and annotate that"
        )
    try:
        inside = locate(uri, byte_offset, byte_size)
    except ValueError as error:
        raise NotKeptError(
            "the row has no byte_offset and byte_size of the image in its archive: annotate the archive again"
        ) from error
    if inside is None:
        return ImageRef(unescape_path(uri), uri)
    file = unescape_path(container_of(uri))
    if isinstance(inside, Member):
        return ImageRef(uri, uri, inside=inside._replace(archive=file, name=unescape_non_utf8(inside.name)))
    return ImageRef(uri, uri, inside=inside._replace(file=file))
