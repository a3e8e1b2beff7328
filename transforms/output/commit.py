"""What several attempts at one thing settle on: whoever writes it first has decided, on a disk and in a bucket.

A disk makes a folder its own name only where there is none of that name with anything in it; the stores of the clouds
write an object only where there is none, if that is asked of them.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from typing import Any

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from ..io.uris import LOCAL, scheme_of
from .files import exists, glob_files, make_folder

# A folder with one file: unlike links, those are known to all file systems.
INSIDE = "decided"
NOT_KNOWN, CONFLICT = 501, (409, 412)

logger = logging.getLogger(__name__)


def create_exclusive(path: str, content: bytes) -> bytes | None:
    """Write this, unless somebody has written before; what stands there then. None: it was forgotten meanwhile."""
    make_folder(FileSystems.split(path)[0])
    # Where there is something it may be this: a client whose answer was lost on the way tries again.
    return content if WAYS[scheme_of(path)](path, content) else read_commit(path)


def read_commit(path: str) -> bytes | None:
    """What was decided; None: nothing yet, or it was forgotten."""
    if scheme_of(path) == LOCAL:
        path = os.path.join(path, INSIDE)
    if not exists(path):
        return None
    try:
        with FileSystems.open(path, compression_type="uncompressed") as file:
            content: bytes = file.read()
    except Exception:
        if exists(path):
            raise
        return None
    return content


def delete_commit(path: str) -> None:
    """Remove a decision, if it is there."""
    if scheme_of(path) == LOCAL:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, INSIDE))
        with contextlib.suppress(OSError):
            os.rmdir(path)
    else:
        try:
            FileSystems.delete([path])
        except BeamIOError:
            if exists(path):
                raise


def delete_commits(start: str) -> None:
    """Remove all decisions whose paths begin so."""
    if scheme_of(start) == LOCAL:
        for path in glob.glob(f"{glob.escape(start)}*"):
            delete_commit(path)
    elif paths := glob_files(f"{start}*"):
        FileSystems.delete(paths)


# The ways to write what is not there; whether it was surely not.


def _on_disk(path: str, content: bytes) -> bool:
    draft = f"{path}-{uuid.uuid4().hex}"
    os.mkdir(draft)
    with open(os.path.join(draft, INSIDE), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.rename(draft, path)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


# With Beam's own clients: those that all else of an output is written with, and its options are for.


def _in_s3(path: str, content: bytes) -> bool:
    from apache_beam.io.aws import s3io
    from botocore.exceptions import ClientError

    bucket, key = s3io.parse_s3_path(path)
    client = s3io.S3IO(options=_file_system(path)._options).client.client
    try:
        client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == NOT_KNOWN:
            logger.warning("%s: this store can't write a name once; see docs/clusters.md", path)
            if not exists(path):
                client.put_object(Bucket=bucket, Key=key, Body=content)
        elif status not in CONFLICT:
            raise
        return False
    return True


def _in_gcs(path: str, content: bytes) -> bool:
    from apache_beam.io.gcp import gcsio
    from google.api_core.exceptions import PreconditionFailed

    bucket, name = gcsio.parse_gcs_path(path)
    client = gcsio.GcsIO(pipeline_options=_file_system(path)._pipeline_options).client
    try:
        client.bucket(bucket).blob(name).upload_from_string(content, if_generation_match=0)
    except PreconditionFailed:
        return False
    return True


def _in_azure(path: str, content: bytes) -> bool:
    from apache_beam.io.azure import blobstorageio
    from azure.core.exceptions import ResourceExistsError

    container, name = blobstorageio.parse_azfs_path(path)
    client = blobstorageio.BlobStorageIO(pipeline_options=_file_system(path)._pipeline_options).client
    try:
        client.get_blob_client(container, name).upload_blob(content, overwrite=False)
    except ResourceExistsError:
        return False
    return True


def _file_system(path: str) -> Any:
    return FileSystems.get_filesystem(path)


WAYS: dict[str, Callable[[str, bytes], bool]] = {
    LOCAL: _on_disk,
    "s3": _in_s3,
    "gs": _in_gcs,
    "azfs": _in_azure,
}
