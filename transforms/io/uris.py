"""What a URI says: its scheme, its bucket, the name in it, and how much of it may be shown."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from urllib.parse import unquote, urlsplit

LOCAL, WEB, DATA = "file", ("http", "https"), "data"
BUCKETS = ("s3", "gs", "az", "azfs", "hdfs")
SCHEMES = (LOCAL, *WEB, DATA, *BUCKETS)
# What follows a drive letter is a path: one letter is no scheme.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# The parameters with which S3 and GCS sign a URL for some hours: another signature is the same picture.
_SIGNED = re.compile(
    r"(?:(?<=[?&])x-(?:amz|goog)-[a-z0-9-]+=[^&#]*&?|[?&]x-(?:amz|goog)-[a-z0-9-]+=[^&#]*(?=#|$))", re.I
)
# Parameters that let whoever reads them in. Their values may also tell pictures apart, so a digest stands for them.
_SECRET = re.compile(
    r"(?<=[?&])((?:[\w-]*[_-])?"
    r"(?:sig|sign|signature|hmac|jwt|awsaccesskeyid|(?:access)?token|api_?-?key|auth|auth_key|password|passwd|pwd|secret))"
    r"=([^&#]*)",
    re.I,
)
# Surrogates but for those that stand for odd bytes in names of files.
_HALF = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
_UNSENDABLE = re.compile(r"[\x00-\x20\x7f\\]")
_USER = re.compile(r"(?<=://)[^/?#]*@")
_WRITTEN = re.compile(r"\\u(dc[89a-f][0-9a-f])")


def scheme_of(uri: str) -> str:
    """The scheme of a URI, in lower case; that of a path is ``file``."""
    if uri[:5].lower() == "data:":
        return DATA
    match = _SCHEME.match(uri)
    return match[1].lower() if match else LOCAL


def is_path(uri: str) -> bool:
    """Whether this is a path of this machine, not a URI with a scheme."""
    return scheme_of(uri) == LOCAL and not uri.lower().startswith("file://")


def path_of(uri: str) -> str:
    """The path of a local file that is given as a path or as ``file:///path``.

    Raises:
        ValueError: it is that of a file of another machine.
    """
    if is_path(uri):
        return uri
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{uri} names the host {parts.netloc}: a path of this machine begins behind file://")
    return unquote(parts.path, errors="surrogateescape")


def split_bucket(uri: str) -> tuple[str, str]:
    """The bucket and the name in it, which is taken as it is: ``%``, ``?`` and ``#`` mean themselves."""
    bucket, _, name = uri.split("://", 1)[1].partition("/")
    return bucket, name


def check_uri(uri: str) -> str:
    """The URI of one picture, as it was given.

    Raises:
        ValueError: there is none, or it can't be one.
    """
    if not uri.strip():
        raise ValueError("there is no URI")
    if _HALF.search(uri):
        raise ValueError("the URI holds half a character, as JSON may spell one and no name can")
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        raise ValueError(f"{scheme}:// is none of {', '.join(f'{name}://' for name in SCHEMES if name != DATA)}")
    if scheme in WEB:
        _check_url(uri)
    elif scheme in BUCKETS and not all(split_bucket(uri)):
        raise ValueError(f"{uri} names no bucket, or nothing in it")
    elif scheme == DATA and "," not in uri:
        raise ValueError("this data: URI has no comma, and so no data")
    elif scheme == LOCAL and not path_of(uri):
        raise ValueError(f"{uri} has no path")
    elif "\0" in uri:
        raise ValueError("a path can't hold a null byte")
    return uri


def shown(uri: str) -> str:
    """The URI as it stands in rows and messages, by which a picture is known from run to run.

    Of a signed URL the signature is left out, of a token a digest is shown, of a data: URI the sha256 of its content.
    All others are shown as they are.
    """
    scheme = scheme_of(uri)
    if scheme == DATA:
        head, _, content = uri.partition(",")
        return f"{head[:100]},sha256:{_digest(content)}"
    # Most have neither, and this is asked some times for each.
    if scheme not in (LOCAL, *BUCKETS) and ("?" in uri or "@" in uri):
        unsigned, signed = _SIGNED.subn("", _USER.sub("", uri))
        unsigned = unsigned.rstrip("?&") if signed else unsigned
        return _SECRET.sub(lambda match: f"{match[1]}=sha256:{_digest(match[2])[:16]}", unsigned)
    return uri


def as_written(text: str) -> str:
    """A text as it stands in rows: file names on Linux are bytes, and of one that is no UTF-8 they show the odd bytes
    as escapes."""
    return text.encode(errors="backslashreplace").decode()


def is_utf8(text: str) -> bool:
    """Whether a text holds no odd bytes, as names of files on Linux may."""
    return as_written(text) == text


def as_named(written: str) -> str:
    """A name as it was before it was written with escapes; one that holds such by itself can't be told from others."""
    return _WRITTEN.sub(lambda escape: chr(int(escape[1], 16)), written)


def local_path(written: str) -> str:
    """A path that stands in a row, as it is: as it was written, unless only a file with its odd bytes is there."""
    named = as_named(written)
    other = named != written and is_path(written) and not os.path.lexists(written) and os.path.lexists(named)
    return named if other else written


def basename(uri: str) -> str:
    """The last part of a URI's path; empty for data:."""
    scheme = scheme_of(uri)
    if scheme == DATA:
        return ""
    if scheme in WEB:
        return posixpath.basename(unquote(urlsplit(uri).path))
    return posixpath.basename(split_bucket(uri)[1] if scheme in BUCKETS else path_of(uri))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _check_url(url: str) -> None:
    if _UNSENDABLE.search(url):
        raise ValueError(f"{shown(url)!r} has a space or a control character in it: write it with %")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        # Which may show the password.
        why = "" if "@" in url else f": {error}"
        raise ValueError(f"{shown(url)} is no URL{why}") from error
    if not host:
        raise ValueError(f"{shown(url)} names no host")
    if "@" in parts.netloc:
        raise ValueError(f"{shown(url)} was given with a user name or a password, which are not sent: leave them out")


def checked_text(text: str, column: str) -> str:
    """The text of a column. Names of files may be no UTF-8; words that are none are no words.

    Raises:
        ValueError: it is none.
    """
    if not is_utf8(text):
        raise ValueError(f"column {column} is no UTF-8 there: save the manifest as UTF-8")
    return text
