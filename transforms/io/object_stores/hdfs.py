"""Read and list HDFS files, ``hdfs://HOST:PORT/PATH``, through Hadoop's libhdfs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from pyarrow import fs

from ....models.tasks import Fault
from ..retry import FetchError, join_chunks, not_found, permission_denied
from ..uris import split_bucket
from .base import CHUNK_BYTES, ByteRange, Entry, NoClientError, Page


class Hdfs:
    """A ``Store`` with a client per name node."""

    def __init__(self) -> None:
        self._nodes: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, uri: str, max_bytes: int, deadline: float, byte_range: ByteRange = None) -> bytes:
        """Return the content of a file, as ``Store.read`` does."""
        node, path = split_bucket(uri)
        with _translate_errors(uri), self._node(node).open_input_file(f"/{path}") as file:
            file.seek(byte_range[0] if byte_range else 0)
            chunks = [file.read(byte_range[1])] if byte_range else iter(partial(file.read, CHUNK_BYTES), b"")
            return join_chunks(chunks, uri, max_bytes, deadline)

    def size(self, uri: str) -> int:
        """Return the length of a file in bytes."""
        node, path = split_bucket(uri)
        with _translate_errors(uri):
            info = self._node(node).get_file_info(f"/{path}")
        if info.type != fs.FileType.File:
            raise not_found(f"{uri} is not a file")
        return int(info.size)

    def list_page(self, prefix: str, recursive: bool, page_token: Any) -> Page:
        """Return all entries, as ``Store.list_page`` does, in one page: HDFS has no pages."""
        node, path = split_bucket(prefix)
        folder = path.rpartition("/")[0]
        with _translate_errors(prefix):
            selector = fs.FileSelector(f"/{folder}", allow_not_found=True, recursive=recursive)
            found = self._node(node).get_file_info(selector)
        entries = []
        for info in sorted(found, key=lambda info: info.path):
            name, is_folder = info.path.lstrip("/"), info.type == fs.FileType.Directory
            if name.startswith(path) and not (recursive and is_folder):
                entries.append(Entry(f"hdfs://{node}/{name}{'/' if is_folder else ''}", is_folder))
        return Page(entries)

    def _node(self, node: str) -> Any:
        with self._lock:
            if node not in self._nodes:
                try:
                    self._nodes[node] = fs.HadoopFileSystem.from_uri(f"hdfs://{node}")
                except OSError as error:
                    # libhdfs or the name node is missing, so each file would fail with the same error.
                    cure = "check the host and that libhdfs is installed"
                    raise NoClientError(f"hdfs://{node} can't be reached: {error}; {cure}") from error
            return self._nodes[node]


open_store = Hdfs


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Raise errors of the file system as FetchError."""
    try:
        yield
    except FetchError:
        raise
    except FileNotFoundError as error:
        raise not_found(f"{uri} is not a file") from error
    except PermissionError as error:
        raise permission_denied(f"{uri} may not be read: check its permissions") from error
    except OSError as error:
        raise FetchError(Fault(type(error).__name__, f"{uri}: {error}; try again later", retryable=True)) from error
