"""The parts of a URI of the Hugging Face hub, ``hf://datasets/OWNER/NAME[@REVISION][/PATH]``."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..uris import HUB

PREFIX = f"{HUB}://datasets/"
FORM = "write hf://datasets/OWNER/NAME[@REVISION][/PATH]"
DEFAULT_REVISION = "main"
# Revisions of the hub itself that have slashes in their names: pull requests and converted branches.
_HUB_REVISION = re.compile(r"refs/(?:convert|pr)/[^/]+")


class HubPath(NamedTuple):
    """A file or a folder of a dataset. ``repository`` is ``OWNER/NAME``; ``path`` is "" for the whole dataset."""

    repository: str
    revision: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> HubPath:
        """Return the parts of a URI. Only the revision is percent-decoded; without one it is the branch ``main``.

        Raises:
            ValueError: if the URI has another form.
        """
        owner, _, rest = uri[len(PREFIX) :].partition("/")
        name, _, path = rest.partition("/")
        name, at, revision = name.partition("@")
        if at and (match := _HUB_REVISION.match(f"{revision}/{path}")):
            revision, path = match[0], f"{revision}/{path}"[match.end() + 1 :]
        wildcard = set(f"{owner}{name}{revision}") & set("*?[{")
        if not uri.startswith(PREFIX) or not owner or not name or bool(at) != bool(revision) or wildcard:
            raise ValueError(f"{uri} names no dataset of the Hugging Face hub: {FORM}")
        return cls(f"{owner}/{name}", unquote(revision) or DEFAULT_REVISION, path)

    @property
    def uri(self) -> str:
        """The URI with its revision."""
        end = self.path and f"/{self.path}"
        return f"{PREFIX}{self.repository}@{quote(self.revision, safe='')}{end}"
