"""Objects of Amazon S3, or of whatever speaks like it at ``AWS_ENDPOINT_URL``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from urllib3.exceptions import HTTPError

from ..retry import connection_error, http_error, timed_out, too_large
from ..uris import split_bucket
from .base import CHUNK_BYTES, CONNECT_TIMEOUT_S, MAX_CONNECTIONS, READ_TIMEOUT_S, ByteRange, Entry, NoClientError, Page


class S3:
    """One client, signed in by the usual variables, files and roles."""

    def __init__(self) -> None:
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=MAX_CONNECTIONS,
            # Ours are counted, and know what can't pass.
            retries={"total_max_attempts": 1, "mode": "standard"},
            response_checksum_validation="when_required",
        )
        try:
            self.client: Any = boto3.session.Session().client("s3", config=config)
        except (exceptions.BotoCoreError, ValueError) as error:
            raise NoClientError(f"s3:// can't sign in: {error}") from error

    def read(self, uri: str, limit: int, end: float, part: ByteRange = None) -> bytes:
        """The content of an object."""
        bucket, key = split_bucket(uri)
        content = bytearray()
        span = {"Range": f"bytes={part[0]}-{sum(part) - 1}"} if part else {}
        with (
            _translate_errors(uri),
            contextlib.closing(self.client.get_object(Bucket=bucket, Key=key, **span)["Body"]) as body,
        ):
            # Until nothing comes: only then does the client compare what came with what was announced.
            while piece := body.read(CHUNK_BYTES):
                content += piece
                if len(content) > limit:
                    raise too_large(limit)
                if time.monotonic() > end:
                    raise timed_out(f"{uri} comes too slowly")
        return bytes(content)

    def size(self, uri: str) -> int:
        """The length that the store tells."""
        bucket, key = split_bucket(uri)
        with _translate_errors(uri):
            return int(self.client.head_object(Bucket=bucket, Key=key)["ContentLength"])

    def page(self, prefix: str, deep: bool, token: Any) -> Page:
        """Up to 1,000 keys."""
        bucket, key = split_bucket(prefix)
        options = {} if deep else {"Delimiter": "/"}
        if token:
            options["ContinuationToken"] = token
        with _translate_errors(prefix):
            answer = self.client.list_objects_v2(Bucket=bucket, Prefix=key, **options)
        objects = [Entry(f"s3://{bucket}/{found['Key']}", False) for found in answer.get("Contents", ())]
        folders = [Entry(f"s3://{bucket}/{found['Prefix']}", True) for found in answer.get("CommonPrefixes", ())]
        return Page(objects + folders, answer.get("NextContinuationToken"))


open_store = S3


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("SlowDown", "RequestTimeout", "InternalError", "ThrottlingException", "RequestTimeTooSkewed"):
            status = max(status, 500)
        raise http_error(status, f"{uri}: {code}") from error
    except (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError) as error:
        raise timed_out(f"{uri} does not answer in time") from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.TokenRetrievalError) as error:
        raise NoClientError(f"s3:// can't sign in: {error}") from error
    except exceptions.ParamValidationError as error:
        raise ValueError(f"{uri} can't be the name of an object") from error
    except (exceptions.BotoCoreError, HTTPError, ConnectionError) as error:
        raise connection_error(f"the connection for {uri} failed: {type(error).__name__}") from error
