"""The parts of a URI of the Hugging Face hub: ``hf://datasets/OWNER/NAME[@REVISION][/PATH]``, or that of a bucket."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..uris import HUB

PREFIX, BUCKETS = f"{HUB}://datasets/", f"{HUB}://buckets/"
FORM = "write hf://datasets/OWNER/NAME[@REVISION][/PATH] or hf://buckets/OWNER/NAME[/PATH]"
DEFAULT_REVISION = "main"
# Revisions of the hub itself that have slashes in their names: pull requests and converted branches.
_HUB_REVISION = re.compile(r"refs/(?:convert|pr)/[^/]+")


class HubPath(NamedTuple):
    """A file or a folder of a dataset or a bucket. A bucket has no revisions.

    ``repository`` is ``OWNER/NAME``; ``path`` is "" for all of it.
    """

    repository: str
    revision: str
    path: str
    is_bucket: bool = False

    @classmethod
    def parse(cls, uri: str) -> HubPath:
        """Return the parts of a URI. Only the revision is percent-decoded; without one it is the branch ``main``.

        Raises:
            ValueError: if the URI has another form.
        """
        is_bucket = uri.startswith(BUCKETS)
        owner, _, rest = uri[len(BUCKETS if is_bucket else PREFIX) :].partition("/")
        name, _, path = rest.partition("/")
        name, at, revision = name.partition("@")
        if at and (match := _HUB_REVISION.match(f"{revision}/{path}")):
            revision, path = match[0], f"{revision}/{path}"[match.end() + 1 :]
        wildcard = set(f"{owner}{name}{revision}") & set("*?[{")
        known = uri.startswith((PREFIX, BUCKETS)) and not (is_bucket and at)
        if not known or not owner or not name or bool(at) != bool(revision) or wildcard:
            raise ValueError(f"{uri} names no dataset of the Hugging Face hub: {FORM}")
        return cls(f"{owner}/{name}", "" if is_bucket else unquote(revision) or DEFAULT_REVISION, path, is_bucket)

    @property
    def uri(self) -> str:
        """The URI with its revision."""
        end = self.path and f"/{self.path}"
        if self.is_bucket:
            return f"{BUCKETS}{self.repository}{end}"
        return f"{PREFIX}{self.repository}@{quote(self.revision, safe='')}{end}"
