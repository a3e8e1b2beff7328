"""Read and list objects of Amazon S3, or of a compatible store at ``AWS_ENDPOINT_URL``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from urllib3.exceptions import HTTPError

from ..retry import connection_error, has_range, http_error, join_chunks, range_ignored, timed_out
from ..uris import split_bucket
from .base import CHUNK_BYTES, CONNECT_TIMEOUT_S, MAX_CONNECTIONS, READ_TIMEOUT_S, ByteRange, Entry, NoClientError, Page


class S3:
    """A ``Store`` that authenticates by the environment, files and roles that boto3 knows."""

    def __init__(self) -> None:
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=MAX_CONNECTIONS,
            # RetryPolicy retries: it counts the attempts for the row, and skips errors that last.
            retries={"total_max_attempts": 1, "mode": "standard"},
            response_checksum_validation="when_required",
        )
        try:
            self.client: Any = boto3.session.Session().client("s3", config=config)
        except (exceptions.BotoCoreError, ValueError) as error:
            raise NoClientError(f"s3:// can't sign in: {error}; set the AWS credentials") from error

    def read(self, uri: str, max_bytes: int, deadline: float, byte_range: ByteRange = None) -> bytes:
        """Return the content of an object, as ``Store.read`` does."""
        bucket, key = split_bucket(uri)
        header = {"Range": f"bytes={byte_range[0]}-{sum(byte_range) - 1}"} if byte_range else {}
        with _translate_errors(uri), contextlib.ExitStack() as stack:
            answer = self.client.get_object(Bucket=bucket, Key=key, **header)
            body = stack.enter_context(contextlib.closing(answer["Body"]))
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            if byte_range and not has_range(byte_range, status, answer.get("ContentLength")):
                raise range_ignored(uri)
            # Read to the end: only then does boto3 compare the length with the Content-Length header.
            return join_chunks(iter(partial(body.read, CHUNK_BYTES), b""), uri, max_bytes, deadline)

    def size(self, uri: str) -> int:
        """Return the length of an object in bytes."""
        bucket, key = split_bucket(uri)
        with _translate_errors(uri):
            return int(self.client.head_object(Bucket=bucket, Key=key)["ContentLength"])

    def list_page(self, prefix: str, recursive: bool, page_token: Any) -> Page:
        """Return up to 1,000 entries, as ``Store.list_page`` does."""
        bucket, key = split_bucket(prefix)
        options = {} if recursive else {"Delimiter": "/"}
        if page_token:
            options["ContinuationToken"] = page_token
        with _translate_errors(prefix):
            answer = self.client.list_objects_v2(Bucket=bucket, Prefix=key, **options)
        objects = [Entry(f"s3://{bucket}/{found['Key']}", False) for found in answer.get("Contents", ())]
        folders = [Entry(f"s3://{bucket}/{found['Prefix']}", True) for found in answer.get("CommonPrefixes", ())]
        return Page(objects + folders, answer.get("NextContinuationToken"))


open_store = S3


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Raise errors of boto3 as FetchError, NoClientError or ValueError."""
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
        raise NoClientError(f"s3:// can't sign in: {error}; set the AWS credentials") from error
    except exceptions.ParamValidationError as error:
        raise ValueError(f"{uri} is not a valid bucket or object name: correct it") from error
    except (exceptions.BotoCoreError, HTTPError, ConnectionError) as error:
        raise connection_error(f"the connection for {uri} failed: {type(error).__name__}") from error
