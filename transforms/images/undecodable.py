"""The error for an image that can't be decoded, and its message."""

from __future__ import annotations

import ast
import re

_BYTES_LITERAL = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""")


class UndecodableError(ValueError):
    """The bytes are not an image that can be decoded with the right colours, or the image is too large."""


def plain(message: str) -> str:
    """Return a library's message with each bytes literal of Python, such as ``b'IDAT'``, replaced by text or hex."""
    return _BYTES_LITERAL.sub(_readable, message)


def _readable(literal: re.Match[str]) -> str:
    try:
        value: bytes = ast.literal_eval(literal[0])
    except (SyntaxError, ValueError):
        return literal[0][2:-1]
    return value.decode() if value.isascii() and value.decode().isprintable() else value.hex(" ")
