"""Object stores on loopback for S3, GCS and Azure, each behind a proxy that can make requests fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_port
from support.servers.fault_proxy import Proxy, fault_proxy

ROOT = Path(__file__).parents[3]
# The published key of the emulator, not a secret.
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
START_TIMEOUT_S = 120


@dataclass
class Bucket:
    """A new bucket with the URI ``root``. Clients find it by the environment variables ``env``."""

    root: str
    proxy: Proxy
    env: dict[str, str]
    client: Any = field(repr=False)

    def put(self, name: str, content: bytes) -> str:
        """Write an object directly to the server, past the proxy. Return its URI."""
        self.client.put(name, content)
        return f"{self.root}/{name}"

    def delete(self, name: str) -> None:
        """Delete an object directly on the server, past the proxy."""
        self.client.delete(name)


class S3Client:
    def __init__(self, url: str, bucket: str) -> None:
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self.bucket, self.client = bucket, boto3.session.Session(**keys).client("s3", endpoint_url=url)
        self.client.create_bucket(Bucket=bucket)

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=name, Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=name)


class GcsClient:
    def __init__(self, url: str, bucket: str) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        client = Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})
        self.bucket = client.create_bucket(bucket)

    def put(self, name: str, content: bytes) -> None:
        self.bucket.blob(name).upload_from_string(content)

    def delete(self, name: str) -> None:
        self.bucket.delete_blob(name)


class AzureClient:
    def __init__(self, url: str, bucket: str) -> None:
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient.from_connection_string(azure_connection(url), api_version="2024-11-04")
        self.container = service.create_container(bucket)

    def put(self, name: str, content: bytes) -> None:
        self.container.upload_blob(name, content)

    def delete(self, name: str) -> None:
        self.container.delete_blob(name)


def azure_connection(url: str) -> str:
    return (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};"
        f"BlobEndpoint={url}/devstoreaccount1;"
    )


def s3_error(status: int) -> tuple[str, bytes]:
    code = {503: "SlowDown", 403: "AccessDenied", 404: "NoSuchKey"}.get(status, "InternalError")
    return "application/xml", f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def gcs_error(status: int) -> tuple[str, bytes]:
    return "application/json", f'{{"error": {{"code": {status}, "message": "no"}}}}'.encode()


def azure_error(status: int) -> tuple[str, bytes]:
    code = {503: "ServerBusy", 403: "AuthorizationFailure", 404: "BlobNotFound"}.get(status, "InternalError")
    # A gateway in between may send 500 without a message.
    message = "" if status == 500 else "<Message>no</Message>"
    return "application/xml", f"<?xml version='1.0'?><Error><Code>{code}</Code>{message}</Error>".encode()


def azurite() -> str | None:
    """Return the path of the Azure emulator, from $AZURITE or `make azurite`, or None without it or Node."""
    here = os.environ.get("AZURITE") or str(ROOT / ".venv/azurite/node_modules/.bin/azurite-blob")
    return here if shutil.which("node") and Path(here).exists() else None


@contextlib.contextmanager
def running(command: list[str], port: int, env: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server in its own process within this block, once it answers on ``port``."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **(env or {})}, **quiet)
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while not answers(port):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < end, f"{command[0]} does not answer"
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


@contextlib.contextmanager
def s3_server() -> Iterator[Proxy]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("ministack"))]
    with (
        running(command, port, {"MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}),
        fault_proxy(port, s3_error) as proxy,
    ):
        yield proxy


@contextlib.contextmanager
def gcs_server() -> Iterator[Proxy]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("gcp-storage-emulator"))]
    command += ["start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--quiet"]
    with running(command, port), fault_proxy(port, gcs_error) as proxy:
        yield proxy


@contextlib.contextmanager
def azure_server() -> Iterator[Proxy]:
    program, port = azurite(), free_port()
    if program is None:
        pytest.skip("Azurite is not installed: install Node, then run make azurite")
    command = ["node", program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry"]
    command += ["--skipApiVersionCheck", "--inMemoryPersistence"]
    with running(command, port), fault_proxy(port, azure_error) as proxy:
        yield proxy


SERVERS = {"s3": s3_server, "gs": gcs_server, "az": azure_server}


def make_bucket(kind: str, proxy: Proxy) -> Bucket:
    """Return a new bucket on the running server behind ``proxy``; ``kind`` is a key of ``SERVERS``."""
    name, behind = f"b{uuid.uuid4().hex[:12]}", f"http://127.0.0.1:{proxy.port}"
    if kind == "s3":
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        return Bucket(f"s3://{name}", proxy, {"AWS_ENDPOINT_URL": proxy.url, **keys}, S3Client(behind, name))
    if kind == "gs":
        env = {"STORAGE_EMULATOR_HOST": proxy.url, "GOOGLE_CLOUD_PROJECT": "test"}
        return Bucket(f"gs://{name}", proxy, env, GcsClient(behind, name))
    env = {"AZURE_STORAGE_CONNECTION_STRING": azure_connection(proxy.url)}
    return Bucket(f"az://{name}", proxy, env, AzureClient(behind, name))
