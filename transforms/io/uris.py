"""Parse URIs and paths, check them, and hide their secrets where rows and messages display them."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from ...models.web.urls import hide_secrets

LOCAL, HTTP_SCHEMES, DATA = "file", ("http", "https"), "data"
# Datasets of the Hugging Face hub.
HUB = "hf"
OBJECT_STORE_SCHEMES = ("s3", "gs", "az", "azfs", "hdfs", HUB)
SCHEMES = (LOCAL, *HTTP_SCHEMES, DATA, *OBJECT_STORE_SCHEMES)
# A scheme has at least two letters: "C://" is a drive, and so a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# S3 and GCS sign a URL with these parameters. They change with each signature, so they don't identify a picture.
_SIGNATURE_PARAMETER = re.compile(
    r"(?:(?<=[?&])x-(?:amz|goog)-[a-z0-9-]+=[^&#]*&?|[?&]x-(?:amz|goog)-[a-z0-9-]+=[^&#]*(?=#|$))", re.I
)
# Python decodes a byte of a file name that is not UTF-8 to U+DC80..U+DCFF. All other surrogates are errors.
_LONE_SURROGATE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
# Empty parts, "." and ".." in an absolute path.
_NOT_PLAIN = re.compile(r"/(?=/|\.{0,2}(?:/|$))")
_INVALID_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")
_ESCAPED_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI in lower case, or ``file`` for a path."""
    if uri[:1] == "/":
        # Most of the time. A row needs the scheme ten times.
        return LOCAL
    if uri[:5].lower() == "data:":
        return DATA
    match = _SCHEME.match(uri)
    return match[1].lower() if match else LOCAL


def is_path(uri: str) -> bool:
    """Return whether ``uri`` is a plain path, without a scheme. ``file://`` URIs are not."""
    return uri[:1] == "/" or (scheme_of(uri) == LOCAL and not uri.lower().startswith("file://"))


def path_of(uri: str) -> str:
    """Return the local path that a path or a ``file:///PATH`` URI names. Only the URI is percent-decoded.

    Raises:
        ValueError: if a ``file://`` URI names a host other than localhost.
    """
    if is_path(uri):
        return uri
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{uri} names the host {parts.netloc}, but only local files can be read: write file:///PATH")
    return unquote(parts.path, errors="surrogateescape")


def absolute_path(uri: str) -> str:
    """Return the absolute local path of a path or a ``file:///PATH`` URI.

    ``~`` at the beginning of a path is the home folder, unless there is a file of that very name.

    Raises:
        ValueError: if a ``file://`` URI names a host other than localhost.
    """
    path = path_of(uri)
    # A shell leaves ~ as it is in quotes and behind an equals sign.
    if is_path(uri) and not os.path.lexists(path):
        path = os.path.expanduser(path)
    # In braces, "{a/../b,c}", two dots must wait until the braces are expanded.
    return os.path.join(os.getcwd(), path) if "{" in path else plain_path(path)


def plain_path(path: str, is_link: Callable[[str], bool] = os.path.islink) -> str:
    """Return a local path with one spelling for each file: absolute, without empty parts, ``.`` and ``..``.

    A relative path is relative to the working directory. A ``..`` after a symbolic link stays, because it leads to the
    parent of the folder that the link points to. No link is followed.

    Args:
        is_link: returns whether a path is a symbolic link.
    """
    if not os.path.isabs(path):
        path = os.path.join(os.getcwd(), path)
    if os.sep != "/":
        return os.path.normpath(path)
    if not _NOT_PLAIN.search(path):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != ".." and not is_link(f"/{'/'.join(parts)}"):
            parts.pop()
        elif part not in ("", ".") and (part != ".." or parts):
            parts.append(part)
    return f"/{'/'.join(parts)}"


def join_uri(folder: str, uri: str, is_link: Callable[[str], bool] = os.path.islink) -> str:
    """Return the URI or the absolute path of a picture that is named in a list in ``folder``.

    A local file has one spelling, that of ``plain_path``, also if it is given as ``file:///PATH``. A relative path in a
    list in a bucket is resolved against the folder; double slashes are kept, because names of objects may have them.
    All other URIs stay as they are.

    Args:
        folder: an absolute path, or a folder in a bucket, without a slash at its end.
        uri: a URI that ``check_uri`` accepts.

    Raises:
        ValueError: if a relative path leads out of the bucket.
    """
    if scheme_of(uri) != LOCAL:
        return uri
    path = path_of(uri)
    if os.path.isabs(path) or scheme_of(folder) == LOCAL:
        return plain_path(os.path.join(folder, path), is_link)
    scheme, bucket, *parts = _bucket_parts(folder)
    for part in path.split("/"):
        if part == ".." and not parts:
            raise ValueError(f"{uri} leads out of the bucket of {folder}: correct the path")
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return f"{scheme}://{'/'.join([bucket, *parts])}"


def name_below(path: str) -> str:
    """Return the name of a picture from a relative path, without ``.``, empty parts, and ``..`` at its beginning."""
    if not _NOT_PLAIN.search(f"/{path}"):
        return path
    parts = posixpath.normpath(path).split("/")
    return "/".join(part for part in parts if part not in ("..", ".", ""))


def _bucket_parts(folder: str) -> list[str]:
    """Return scheme and bucket of a folder in a bucket, and the parts of its path, empty ones too."""
    bucket, name = split_bucket(folder)
    return [folder.split("://", 1)[0], bucket, *(name.split("/") if name else [])]


def split_bucket(uri: str) -> tuple[str, str]:
    """Return bucket and object name of a URI; either may be "". Nothing is decoded: ``%``, ``?`` and ``#`` are kept."""
    bucket, _, name = uri.split("://", 1)[1].partition("/")
    return bucket, name


def check_uri(uri: str) -> str:
    """Return the URI of a picture unchanged.

    Raises:
        ValueError: if the URI is empty, has a scheme not in ``SCHEMES``, lacks its host, bucket, path or data, contains
            a password or characters that no such URI can have, or is a file on another host.
    """
    if not uri.strip():
        raise ValueError("the URI is empty: give a path or a URI")
    if surrogate := _LONE_SURROGATE.search(uri):
        raise ValueError(f"the URI contains the lone surrogate \\u{ord(surrogate[0]):04x}: write the name in UTF-8")
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        supported = ", ".join(f"{name}://" for name in SCHEMES if name != DATA)
        raise ValueError(f"{scheme}:// is not supported: give a path, or a URI with {supported}")
    if scheme in HTTP_SCHEMES:
        _check_url(uri)
    elif scheme in OBJECT_STORE_SCHEMES and not all(split_bucket(uri)):
        raise ValueError(f"{uri} has no bucket or no object name: write {scheme}://BUCKET/NAME")
    elif scheme == DATA and "," not in uri:
        raise ValueError("the data: URI has no comma: write data:[TYPE][;base64],CONTENT")
    elif scheme == LOCAL and not path_of(uri):
        raise ValueError(f"{uri} has no path: write file:///PATH")
    elif "\0" in uri:
        raise ValueError(f"{display_uri(uri)!r} contains a null byte: remove it")
    return uri


def display_uri(uri: str) -> str:
    """Return the URI to write into rows and messages: free of secrets, and the same in every run.

    http(s) loses user name, password and the signature parameters of S3 and GCS, and the value of each other secret
    parameter becomes ``sha256:`` and 16 hex digits. The content of ``data:`` becomes its sha256. All other URIs are
    returned unchanged.
    """
    scheme = scheme_of(uri)
    if scheme == DATA:
        head, _, content = uri.partition(",")
        return f"{head[:100]},sha256:{_digest(content)}"
    if scheme not in (LOCAL, *OBJECT_STORE_SCHEMES):
        # Most URLs have no parameter. A search for a single character costs a tenth of the search for the pattern.
        has_parameter = "?" in uri or "&" in uri
        unsigned, signed = _SIGNATURE_PARAMETER.subn("", uri) if has_parameter else (uri, 0)
        unsigned = unsigned.rstrip("?&") if signed else unsigned
        # Two values may stand for two pictures: a digest keeps them apart.
        return hide_secrets(unsigned, lambda value: f"sha256:{_digest(value)[:16]}")
    return uri


def display_address(address: str) -> str:
    """Return an address that may be no valid URI, such as a URL without a scheme, without its secrets."""
    return hide_secrets(display_uri(address), lambda value: f"sha256:{_digest(value)[:16]}")


def escape_non_utf8(text: str) -> str:
    r"""Return ``text`` with each surrogate, a byte of a file name that is not UTF-8, written as ``\udcXX``."""
    return text.encode(errors="backslashreplace").decode()


def is_utf8(text: str) -> bool:
    """Return whether ``text`` can be encoded as UTF-8, which surrogates can't."""
    return text.isascii() or escape_non_utf8(text) == text


def unescape_non_utf8(text: str) -> str:
    r"""Return ``text`` with each ``\udcXX`` as that surrogate: the inverse of ``escape_non_utf8``.

    A file name that contains the six characters ``\udcXX`` itself is changed too.
    """
    return _ESCAPED_BYTE.sub(lambda escape: chr(int(escape[1], 16)), text)


def unescape_path(path: str) -> str:
    """Return the path of the file that a row displays as ``path``.

    Returns:
        ``path`` itself, unless no file of that name exists and one with the unescaped name does.
    """
    unescaped = unescape_non_utf8(path)
    other = unescaped != path and is_path(path) and not os.path.lexists(path) and os.path.lexists(unescaped)
    return unescaped if other else path


def basename(uri: str) -> str:
    """Return the last part of a URI's path: percent-decoded for http(s) and ``file://``, empty for ``data:``."""
    scheme = scheme_of(uri)
    if scheme == DATA:
        return ""
    if scheme in HTTP_SCHEMES:
        return posixpath.basename(unquote(urlsplit(uri).path))
    return posixpath.basename(split_bucket(uri)[1] if scheme in OBJECT_STORE_SCHEMES else path_of(uri))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _check_url(url: str) -> None:
    """Raise ValueError if an http(s) URL can't be parsed or sent, lacks a host, or contains a password."""
    shown = display_uri(url)
    if _INVALID_IN_URL.search(url):
        raise ValueError(f"{shown!r} contains a space, a backslash or a control character: percent-encode it")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        # The error of urlsplit may quote the password.
        reason = "" if "@" in url else f": {error}"
        raise ValueError(f"{shown} is not a valid URL, correct it{reason}") from error
    if not host:
        raise ValueError(f"{shown} has no host: write http://HOST/PATH")
    if "@" in parts.netloc:
        raise ValueError(f"{shown} was given with a user name or a password, which are never sent: remove them")


def check_utf8(text: str, column: str) -> str:
    """Return the ``text`` of a manifest's column unchanged.

    Raises:
        ValueError: if ``text`` can't be encoded as UTF-8.
    """
    if not is_utf8(text):
        raise ValueError(f"column {column} is not UTF-8: save the manifest as UTF-8")
    return text
