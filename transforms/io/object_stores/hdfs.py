"""Files of HDFS, through libhdfs, which comes with Hadoop: ``hdfs://HOST:PORT/PATH``."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from pyarrow import fs

from ....models.tasks import Fault
from ..retry import FetchError, not_found, permission_denied, timed_out, too_large
from ..uris import split_bucket
from .base import CHUNK_BYTES, ByteRange, Entry, NoClientError, Page


class Hdfs:
    """A client for each name node."""

    def __init__(self) -> None:
        self._nodes: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, uri: str, limit: int, end: float, part: ByteRange = None) -> bytes:
        """The content of a file."""
        node, path = split_bucket(uri)
        content = bytearray()
        with _translate_errors(uri), self._node(node).open_input_file(f"/{path}") as file:
            file.seek(part[0] if part else 0)
            while piece := file.read(min(CHUNK_BYTES, part[1] - len(content)) if part else CHUNK_BYTES):
                content += piece
                if len(content) > limit:
                    raise too_large(limit)
                if time.monotonic() > end:
                    raise timed_out(f"{uri} comes too slowly")
        return bytes(content)

    def size(self, uri: str) -> int:
        """The length that the name node tells."""
        node, path = split_bucket(uri)
        with _translate_errors(uri):
            info = self._node(node).get_file_info(f"/{path}")
        if info.type != fs.FileType.File:
            raise not_found(uri)
        return int(info.size)

    def page(self, prefix: str, deep: bool, token: Any) -> Page:
        """All files of the folder that the prefix lies in: HDFS has no pages."""
        node, path = split_bucket(prefix)
        folder = path.rpartition("/")[0]
        with _translate_errors(prefix):
            found = self._node(node).get_file_info(fs.FileSelector(f"/{folder}", allow_not_found=True, recursive=deep))
        entries = []
        for info in sorted(found, key=lambda info: info.path):
            name, is_folder = info.path.lstrip("/"), info.type == fs.FileType.Directory
            if name.startswith(path) and not (deep and is_folder):
                entries.append(Entry(f"hdfs://{node}/{name}{'/' if is_folder else ''}", is_folder))
        return Page(entries)

    def _node(self, node: str) -> Any:
        with self._lock:
            if node not in self._nodes:
                try:
                    self._nodes[node] = fs.HadoopFileSystem.from_uri(f"hdfs://{node}")
                except OSError as error:
                    # Without libhdfs, or its name node, no file can be had, and all would fail alike.
                    raise NoClientError(f"hdfs://{node} can't be reached: {error}") from error
            return self._nodes[node]


open_store = Hdfs


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except FetchError:
        raise
    except FileNotFoundError as error:
        raise not_found(uri) from error
    except PermissionError as error:
        raise permission_denied(uri) from error
    except OSError as error:
        raise FetchError(Fault(type(error).__name__, f"{uri}: {error}", retryable=True)) from error
