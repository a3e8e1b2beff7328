#!/usr/bin/env bash
# boto3 1.44.8, google-cloud-storage 3.17.1 and azure-storage-blob 12.31.1, and a server that ignores the Range header, seen
# on 2026-11-29 with Python 3.11.
#
# HTTP allows a server, a proxy or a cache to ignore a byte range: it answers 200 with the whole object, in place of 206.
# Asked for 50 bytes from byte 100, boto3 and google-cloud-storage then return the object from its first byte, without an
# error; the latter logs a line if the object is larger than the range. azure-storage-blob refuses the response. So compare
# the status of each response to a request for a range.
#
# Output seen:
#   boto3: 256 bytes, the first is byte 0
#   google-cloud-storage: 256 bytes, the first is byte 0
#   azure-storage-blob: ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q boto3==1.44.8 google-cloud-storage==3.17.1 azure-storage-blob==12.31.1
cat > "$work/show.py" <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from azure.storage.blob import BlobServiceClient
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

CONTENT = bytes(range(256))


class Server(BaseHTTPRequestHandler):
    """Answers each GET with the whole object."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_):
        pass


def with_boto3(url):
    access = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **access)
    return client.get_object(Bucket="b", Key="k", Range="bytes=100-149")["Body"].read()


def with_google(url):
    client = Client("p", AnonymousCredentials(), client_options={"api_endpoint": url})
    return client.bucket("b").blob("k").download_as_bytes(start=100, end=149, checksum=None)


def with_azure(url):
    client = BlobServiceClient(url, retry_total=0)
    return client.get_blob_client("b", "k").download_blob(offset=100, length=50).readall()


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
for name, read in (("boto3", with_boto3), ("google-cloud-storage", with_google)):
    content = read(url)
    print(f"{name}: {len(content)} bytes, the first is byte {content[0]}")
    assert content == CONTENT, f"changed: {name} returns something else"
try:
    with_azure(url)
except ValueError as error:
    print(f"azure-storage-blob: {type(error).__name__}")
else:
    raise SystemExit("changed: azure-storage-blob accepts the response")
PY
"$work/venv/bin/python" "$work/show.py"
