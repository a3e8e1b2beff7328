"""Read and list files on the Hugging Face hub: ``hf://datasets/OWNER/NAME[@REVISION]/PATH`` and ``hf://buckets/...``.

The client is huggingface_hub, and the hub is ``HF_ENDPOINT``, by default https://huggingface.co.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from huggingface_hub import HfApi, RepoFile, constants, errors, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # It exports them without __all__.
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
)

from ....models.web.backoff import parse_retry_after
from ..retry import (
    FetchError,
    connection_error,
    has_range,
    http_error,
    join_chunks,
    not_found,
    permission_denied,
    range_ignored,
    timed_out,
)
from .base import READ_TIMEOUT_S, ByteRange, Entry, Page
from .hub_path import FORM, HubPath

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LISTING = "listing"
# A client before buckets has no such error.
BucketNotFoundError = getattr(errors, "BucketNotFoundError", RepositoryNotFoundError)


def pin_commit(uri: str) -> str:
    """Return a URI with the commit that its revision is now, so that later commits do not change what is read.

    A URI with a commit is returned without a request. A bucket has no commits: its URI is returned unchanged.

    Raises:
        ValueError: if the URI has another form; if the dataset, the revision or the bucket does not exist or is not
            accessible; or if the client is too old for buckets.
        RuntimeError: if the hub can't be reached.
    """
    found = HubPath.parse(uri)
    if _COMMIT.fullmatch(found.revision):
        return uri
    if found.is_bucket and not hasattr(HfApi, "list_bucket_tree"):
        raise ValueError(f"{uri}: the installed huggingface_hub knows no buckets: pip install -U huggingface_hub")
    api, where = hub_api(), f"{constants.ENDPOINT}/{'buckets' if found.is_bucket else 'datasets'}/{found.repository}"
    try:
        if found.is_bucket:
            api.bucket_info(found.repository)
            return uri
        commit = api.dataset_info(found.repository, revision=found.revision, expand=["sha"]).sha
        api.auth_check(found.repository, repo_type="dataset")
    except GatedRepoError as error:
        raise ValueError(f"{uri}: access is restricted; ask for access on {where}, then set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{uri}: {where} has no revision {found.revision}; choose another after the @") from error
    except (RepositoryNotFoundError, BucketNotFoundError) as error:
        raise ValueError(f"{uri}: {where} does not exist; check the name, or set HF_TOKEN if it is private") from error
    except HFValidationError as error:
        raise ValueError(f"{uri} names no dataset of the Hugging Face hub: {FORM}") from error
    except Exception as error:  # The client passes on any error of its HTTP library.
        raise RuntimeError(f"{uri}: {_problem(error)}; check the network, and run the same command again") from error
    if not commit:
        raise RuntimeError(f"{uri}: {where} answers without a commit; write one after the @")
    return found._replace(revision=commit).uri


def hub_api() -> HfApi:
    """Return a client that signs in by ``HF_TOKEN``."""
    return HfApi(token=hub_token())


def hub_token() -> str | bool:
    """Return ``HF_TOKEN``, or False, with which the client sends no token.

    A token that ``hf auth login`` saved on this machine is not used, because it is missing on the workers.
    """
    return os.environ.get("HF_TOKEN") or False


class Hub:
    """A ``Store`` that signs in by ``HF_TOKEN``."""

    def read(self, uri: str, max_bytes: int, deadline: float, byte_range: ByteRange = None) -> bytes:
        """Return the content of a file, as ``Store.read`` does."""
        at = HubPath.parse(uri)
        # Compressed responses have no ranges.
        headers = build_hf_headers(token=hub_token()) | {"Accept-Encoding": "identity"}
        if byte_range:
            headers["Range"] = f"bytes={byte_range[0]}-{sum(byte_range) - 1}"
        with _translate_errors(uri):
            url = _url(at)
            # The client retries in http_backoff only. RetryPolicy retries here, and counts the attempts for the row.
            with get_session().stream("GET", url, headers=headers, timeout=READ_TIMEOUT_S) as response:
                hf_raise_for_status(response)
                if byte_range and not has_range(
                    byte_range, response.status_code, response.headers.get("Content-Length")
                ):
                    raise range_ignored(uri)
                return join_chunks(response.iter_bytes(), uri, max_bytes, deadline)

    def size(self, uri: str) -> int:
        """Return the length of a file in bytes."""
        if (found := _file(HubPath.parse(uri), uri)) is None:
            raise not_found(f"{uri} is not a file")
        return found.size

    def list_page(self, prefix: str, recursive: bool, page_token: Any) -> Page:
        """Return entries as ``Store.list_page`` does: first the file that is named like the prefix, then all others.

        The client of the hub reads all pages of a folder in one call.
        """
        at = HubPath.parse(prefix)
        folder, _, stem = at.path.rpartition("/")
        if not at.path and not prefix.endswith("/"):
            return Page([])
        if stem and page_token is None:
            found = _file(at, prefix)
            return Page([Entry(prefix, False)] if found else [], _LISTING)
        entries = list(_tree(at, folder, recursive and not stem, prefix))
        if stem:
            entries = [each for each in entries if each.uri.startswith(prefix) and each.uri != prefix]
            if recursive:
                below = [each.uri for each in entries if each.is_folder]
                entries = [each for each in entries if not each.is_folder]
                for uri in below:
                    entries += _tree(HubPath.parse(uri), HubPath.parse(uri).path.rstrip("/"), True, uri)
        return Page(sorted(entries, key=lambda each: (each.is_folder, each.uri)))


open_store = Hub


def _check_bucket(at: HubPath, uri: str) -> None:
    if not hasattr(HfApi, "list_bucket_tree"):
        raise HFValidationError(
            f"{uri}: the installed huggingface_hub knows no buckets: pip install -U huggingface_hub"
        )
    hub_api().bucket_info(at.repository)


def _url(at: HubPath) -> str:
    if at.is_bucket:
        return f"{constants.ENDPOINT}/buckets/{at.repository}/resolve/{quote(at.path)}"
    return hf_hub_url(at.repository, at.path, repo_type="dataset", revision=at.revision)


def _file(at: HubPath, uri: str) -> Any:
    """Return what the hub knows about a file, or None if there is none."""
    with _translate_errors(uri):
        if at.is_bucket:
            listed = list(hub_api().get_bucket_paths_info(at.repository, [at.path]))
            return next((each for each in listed if each.type == "file" and each.path == at.path), None)
        found = hub_api().get_paths_info(at.repository, [at.path], revision=at.revision, repo_type="dataset")
    return next((each for each in found if isinstance(each, RepoFile) and each.path == at.path), None)


def _tree(at: HubPath, folder: str, recursive: bool, uri: str) -> Iterator[Entry]:
    """Yield the files of a folder, and its folders unless ``recursive``; nothing if there is no such folder.

    The spelling of dataset and revision is that of ``uri``.
    """
    root = uri[: len(uri) - len(at.path)]
    if at.is_bucket:
        yield from _bucket_tree(at, folder, recursive, root)
        return
    try:
        with _translate_errors(uri):
            for each in hub_api().list_repo_tree(
                at.repository, folder or None, recursive=recursive, revision=at.revision, repo_type="dataset"
            ):
                is_folder = not isinstance(each, RepoFile)
                if not (is_folder and recursive):
                    yield Entry(f"{root}{each.path}{'/' * is_folder}", is_folder)
    except FetchError as error:
        if not isinstance(error.__cause__, EntryNotFoundError):
            raise


def _bucket_tree(at: HubPath, folder: str, recursive: bool, root: str) -> Iterator[Entry]:
    """Yield entries of a bucket as ``_tree`` does. ``root`` is the URI of the bucket with a slash.

    All files below the folder are listed: the hub takes a folder for the beginning of names, and leaves out folders.
    """
    start, seen = f"{folder}/" if folder else "", set()
    with _translate_errors(root):
        for each in hub_api().list_bucket_tree(at.repository, folder or None, recursive=True):
            if each.type != "file" or not each.path.startswith(start):
                continue
            child, slash, _ = each.path[len(start) :].partition("/")
            name = each.path if recursive or not slash else f"{start}{child}/"
            if name not in seen:
                seen.update([name] if name.endswith("/") else [])
                yield Entry(f"{root}{name}", name.endswith("/"))


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Raise errors of the client as FetchError, or as ValueError if the URI is not valid."""
    try:
        yield
    except FetchError:
        raise
    except HFValidationError as error:
        raise ValueError(f"{uri} names no dataset of the Hugging Face hub: {FORM}") from error
    except GatedRepoError as error:
        where = f"{constants.ENDPOINT}/datasets/{HubPath.parse(uri).repository}"
        raise permission_denied(f"{uri}: access is restricted; ask for access on {where}, then set HF_TOKEN") from error
    except (RepositoryNotFoundError, BucketNotFoundError) as error:
        raise permission_denied(
            f"{uri}: no such dataset or bucket; check the name, or set HF_TOKEN if it is private"
        ) from error
    except HfHubHTTPError as error:
        headers = error.response.headers
        limit = parse_ratelimit_headers(headers)
        wait = float(limit.reset_in_seconds) if limit else parse_retry_after(headers.get("Retry-After"))
        raise http_error(error.response.status_code, uri, wait) from error
    except OfflineModeIsEnabled as error:
        raise connection_error(f"{uri}: HF_HUB_OFFLINE is set: unset it") from error
    except Exception as error:
        # The library of the client is httpx or httpx2, by its version.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "TimeoutException" in kinds:
            raise timed_out(f"{uri} does not answer in time") from error
        if kinds & {"TransportError", "ConnectionError"}:
            raise connection_error(f"the connection for {uri} failed: {type(error).__name__}") from error
        raise


def _problem(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} fails (HTTP status {error.response.status_code})"
    return f"{constants.ENDPOINT} can't be reached ({type(error).__name__})"
