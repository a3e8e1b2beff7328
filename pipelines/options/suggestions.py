"""Suggestions for mistakes on the command line: misspelt options and values, and values with spaces without quotes."""

from __future__ import annotations

import difflib
import glob
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# How alike two names must be, from 0 to 1, as difflib measures it.
MIN_RATIO = 0.7
_CHOICES = re.compile(r"invalid choice: '?(?P<given>[^']*?)'? \(choose from (?P<choices>.*)\)")


class Given(NamedTuple):
    """The words of a command line after the name of the command, and the options that the command has."""

    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def closest(word: str, names: Iterable[str]) -> str:
    """Return the name that is most like ``word``, whose case does not count; "" if none is alike."""
    by_lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word.lower(), by_lower, 1, MIN_RATIO)
    return by_lower[found[0]] if found else ""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return text to append to a message about a misspelt ``word``: "; did you mean NAME?", or "" if none is alike."""
    return f"; did you mean {name}?" if (name := closest(word, names)) else ""


def choice_hint(message: str) -> str:
    """Return ``did_you_mean`` for the message of argparse about an invalid choice, and "" for any other message."""
    match = _CHOICES.search(message)
    return did_you_mean(match["given"], re.findall(r"[\w-]+", match["choices"])) if match else ""


def misspelt_hint(message: str, given: Given) -> str:
    """Return text that names the misspelling of an option that ``message`` says is missing, or ""."""
    for word in given.words:
        name = word.partition("=")[0]
        if name.startswith("-") and name not in given.options:
            meant = closest(name, given.options)
            if meant and re.search(rf"{re.escape(meant)}(?![\w-])", message):
                return f"; did you mean {meant} in place of {name}?"
    return ""


def quote_hint(words: Sequence[str], unexpected: str) -> str:
    """Return the option before an ``unexpected`` word, with the words up to the next option as its quoted value.

    Returns:
        Text such as "--query 'Is it red?'"; "" if no option with a value stands before the word, or the word is a path
        that exists.
    """
    if unexpected not in words or os.path.lexists(unexpected):
        return ""
    # The same word may be the value of an option before.
    at = max(index for index, word in enumerate(words) if word == unexpected)
    start = next((index for index in range(at - 1, -1, -1) if words[index].startswith("-")), -1)
    end = next((index for index in range(at, len(words)) if words[index].startswith("-")), len(words))
    option, equals, value = words[start].partition("=") if start >= 0 else ("", "", "")
    values = [*([value] if equals else []), *words[start + 1 : end]]
    if start < 0 or values[0] == unexpected:
        return ""
    return f"{option}{equals or ' '}{shlex.quote(' '.join(values))}"


def space_hint(inputs: Sequence[str], missing: str) -> str:
    """Return the cure for an INPUT that does not exist because a path with spaces was not quoted.

    Returns:
        Text that names the path; "" if no words that follow ``missing`` complete the name of a file or folder.
    """
    start = inputs.index(missing)
    for end in range(start + 2, len(inputs) + 1):
        path = " ".join(inputs[start:end])
        expanded = os.path.expanduser(path)
        if os.path.lexists(expanded) or next(glob.iglob(expanded, recursive=True), None) is not None:
            return f"no such file or folder; did you mean {shlex.quote(path)}? Quote a path that contains spaces"
    return ""
