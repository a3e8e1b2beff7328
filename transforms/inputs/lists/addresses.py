"""Addresses of pictures as lists hold them: with spaces or quotes around, or in a form that names no file here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...core.ref_columns import RefColumns, content_of
from ...io.uris import LOCAL, OBJECT_STORE_SCHEMES, display_address, is_path, is_utf8, plain_path, scheme_of

# A byte order mark and a zero-width space are as invisible as white space, but ``str.strip`` leaves them.
INVISIBLE = " \t\r\n\f\v\xa0\ufeff\u200b"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# The first part of a path that reads like a host: www.ANYTHING, or a name that ends like a domain.
_HOST = re.compile(r"(?:www\.[^/\\]+|[a-z0-9.-]+\.(?:com|org|net|edu|gov|info|[a-z]{2}))(?::\d+)?/", re.IGNORECASE)
# URLs, objects of a bucket, and paths that no check of an address would refuse, and no function would change.
_PLAIN_NAME = "[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_PLAIN_ADDRESS = (
    rf"\A(?:https?://[a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/[A-Za-z0-9_.~-]+)+"
    rf"|(?:s3|gs)://[a-z0-9][a-z0-9.-]*(?:/[A-Za-z0-9_.~-]+)+|(?:/{_PLAIN_NAME})+)\z"
)
# The first of several parts has no dot, which a host has.
_PLAIN_RELATIVE_PATH = rf"\A(?:[A-Za-z0-9_-]+(?:/{_PLAIN_NAME})+|{_PLAIN_NAME})\z"
# A JSON Web Token, which is hidden, has these letters.
_TOKEN = "eyJ"


def plain_refs(addresses: pa.Array, folder: str) -> tuple[list[RefColumns], Any]:
    """Return references to the pictures whose address needs no check, and the places of all other addresses.

    Args:
        addresses: texts and nulls of a list.
        folder: the folder, local or in a bucket, that relative paths are relative to.
    """
    is_whole = _matches(addresses, _PLAIN_ADDRESS) & ~_matches(addresses, _TOKEN)
    found = list(_whole(addresses.filter(pa.array(is_whole))))
    rest = np.flatnonzero(~is_whole)
    if len(rest) and (prefix := _plain_prefix(folder)):
        others = addresses.take(pa.array(rest))
        is_relative = _matches(others, _PLAIN_RELATIVE_PATH)
        paths = others.filter(pa.array(is_relative))
        if len(paths):
            names = pc.binary_length(paths).to_numpy().astype(np.int32)
            found.append(RefColumns(pc.binary_join_element_wise(prefix, paths, ""), names))
        rest = rest[~is_relative]
    return found, rest


def _whole(addresses: pa.Array) -> Iterator[RefColumns]:
    """Yield references to plain addresses with a slash. The file name of each is what follows the last slash."""
    if not len(addresses):
        return
    content, ends = content_of(addresses)
    slashes = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("/"))
    last = slashes[np.searchsorted(slashes, ends[1:]) - 1]
    yield RefColumns(addresses, (ends[1:] - last - 1).astype(np.int32))


def _plain_prefix(folder: str) -> str:
    """Return what stands before a relative path in the URI of its picture; "" if the path must be looked at."""
    if not is_utf8(folder):
        return ""
    if folder.startswith("/"):
        return os.path.join(plain_path(folder), "")
    return f"{folder}/" if scheme_of(folder) in OBJECT_STORE_SCHEMES else ""


def _matches(texts: pa.Array, pattern: str) -> Any:
    found = pc.match_substring_regex(texts, pattern=pattern)
    return pc.fill_null(found, False).to_numpy(zero_copy_only=False)


def clean_address(given: str, folder: str) -> str:
    """Return the address of a picture without the spaces, byte order marks and double quotes around it.

    ``folder`` is the folder, local or in a bucket, that relative paths are relative to. If a local file is named like
    ``given``, ``given`` is returned unchanged. ``~`` becomes the home folder, and backslashes become slashes, if only
    the file with that name exists.

    Raises:
        ValueError: if the address is a path of Windows or an address without its scheme, and names no local file. A
            relative path with backslashes raises this too if ``folder`` is in a bucket.
    """
    address = given.strip(INVISIBLE)
    if len(address) > 1 and address[0] == address[-1] == '"':
        address = address[1:-1].strip(INVISIBLE)
    hint = path_hint(address)
    if address == given and not hint and not address.startswith("~"):
        return address

    def exists(path: str) -> bool:
        is_local = os.path.isabs(path) or scheme_of(folder) == LOCAL
        return is_path(path) and is_local and os.path.lexists(os.path.join(folder, path))

    slashed = address.replace("\\", "/")
    names = [given, address] if _DRIVE.match(address) else [given, address, slashed]
    names += [os.path.expanduser(address)] if address.startswith("~") else []
    if (found := next(filter(exists, names), None)) is not None:
        return found
    in_bucket = scheme_of(folder) != LOCAL
    first = address.partition("/")[0]
    # A bucket may mirror hosts, and a disk a host of which this file is missing.
    if not hint or (_HOST.match(address) and (in_bucket or exists(first))):
        return address
    raise ValueError(f"{display_address(address)}: no such file; {hint}")


def path_hint(path: str) -> str:
    """Return why a path may name no file, and what to write in its place; "" if the path has no suspicious form."""
    if not is_path(path):
        return ""
    if _DRIVE.match(path):
        return "this is a path on a Windows machine: write the path that the file has on this machine"
    if "\\" in path:
        return "backslashes separate folders only on Windows: write slashes"
    if path.startswith("//"):
        return f"the address has no scheme: write https:{display_address(path)}"
    if _HOST.match(path):
        return f"an address on the web needs its scheme: write https://{display_address(path)}"
    return ""
