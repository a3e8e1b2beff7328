"""Create a file only if there is none of its name (put-if-absent), on local disks, S3, GCS and Azure.

Several workers may try to create the same file. One of them succeeds, and all of them read what that one wrote.

On a local disk the file is a folder with one file in it: renaming a folder fails if there is a folder of the new name
that is not empty. Some file systems have no hard links, and all have this rename.
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

from ..io.object_stores.file_systems import FileSystems, beam_file_systems
from ..io.uris import LOCAL, scheme_of
from .files import exists, glob_files, make_folder

CONTENT_NAME = "content"
NOT_IMPLEMENTED, CONFLICT, PRECONDITION_FAILED = 501, 409, 412

logger = logging.getLogger(__name__)


def create_exclusive(path: str, content: bytes) -> bytes | None:
    """Create a file unless there is one, and return the content of the file that is there now.

    Returns:
        None if another process created the file and deleted it since.
    """
    make_folder(FileSystems.split(path)[0])
    # If a client repeats a request whose response was lost, the file that it finds may be its own. So the content is
    # read, and the caller compares.
    return content if CREATE[scheme_of(path)](path, content) else read_exclusive(path)


def read_exclusive(path: str) -> bytes | None:
    """Return the content of a file that ``create_exclusive`` wrote, or None if there is none."""
    if scheme_of(path) == LOCAL:
        path = os.path.join(path, CONTENT_NAME)
    # The file may be deleted and created anew between a look and a read, so a first failure is no error.
    for is_last in (False, True):
        if not exists(path):
            return None
        try:
            with FileSystems.open(path) as file:
                content: bytes = file.read()
            return content
        # Each client of a bucket has errors of its own.
        except Exception:
            if is_last and exists(path):
                raise
    return None


def delete_exclusive(path: str) -> None:
    """Delete a file that ``create_exclusive`` wrote, if there is one."""
    if scheme_of(path) == LOCAL:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, CONTENT_NAME))
        with contextlib.suppress(OSError):
            os.rmdir(path)
    else:
        try:
            FileSystems.delete([path])
        except OSError:
            if exists(path):
                raise


def delete_all_exclusive(prefix: str) -> None:
    """Delete all files that ``create_exclusive`` wrote and whose paths begin with ``prefix``."""
    if scheme_of(prefix) == LOCAL:
        for path in glob.glob(f"{glob.escape(prefix)}*"):
            delete_exclusive(path)
    elif paths := glob_files(f"{prefix}*"):
        FileSystems.delete(paths)


# One function for each kind of storage. It returns True if this call created the file, and False if it may not have.


def _create_on_disk(path: str, content: bytes) -> bool:
    draft = f"{path}-{uuid.uuid4().hex}"
    os.mkdir(draft)
    with open(os.path.join(draft, CONTENT_NAME), "wb") as file:
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


# Beam's own clients are used, because Beam's options for credentials and endpoints apply to them.


def _create_in_s3(path: str, content: bytes) -> bool:
    from apache_beam.io.aws import s3io
    from botocore.exceptions import ClientError

    bucket, key = s3io.parse_s3_path(path)
    client = s3io.S3IO(options=_file_system(path)._options).client.client
    try:
        client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == NOT_IMPLEMENTED:
            logger.warning("%s: this S3 service has no conditional writes (If-None-Match). See docs/clusters.", path)
            if not exists(path):
                client.put_object(Bucket=bucket, Key=key, Body=content)
        elif status not in (CONFLICT, PRECONDITION_FAILED):
            raise
        return False
    return True


def _create_in_gcs(path: str, content: bytes) -> bool:
    from apache_beam.io.gcp import gcsio
    from google.api_core.exceptions import PreconditionFailed

    bucket, name = gcsio.parse_gcs_path(path)
    client = gcsio.GcsIO(pipeline_options=_file_system(path)._pipeline_options).client
    try:
        client.bucket(bucket).blob(name).upload_from_string(content, if_generation_match=0)
    except PreconditionFailed:
        return False
    return True


def _create_in_azure(path: str, content: bytes) -> bool:
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
    return beam_file_systems().get_filesystem(path)


CREATE: dict[str, Callable[[str, bytes], bool]] = {
    LOCAL: _create_on_disk,
    "s3": _create_in_s3,
    "gs": _create_in_gcs,
    "azfs": _create_in_azure,
}
