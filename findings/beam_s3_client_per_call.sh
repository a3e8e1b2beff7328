#!/usr/bin/env bash
# apache-beam 2.77.0 with boto3 1.44.8, seen on 2026-11-29 with Python 3.11.
#
# Each call of Beam's FileSystems with an s3:// path makes a boto3 session and a client of its own, which reads the
# description of the service from JSON again. So 20 calls of exists() took 3.05 seconds of a core; the same 20 requests
# with one client took 0.03. A job that writes, renames, lists and locks small files in a bucket
# spends most of its processor time on this. Nothing in Beam's options changes this.
#
# Output seen (the ratio was 92; the check asks for 5):
#   20 calls of exists(): 20 clients, 20 connections
#   20 requests with one client: 1 connection
#   processor time, calls of Beam to requests of one client: more than 5 to 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q apache-beam==2.77.0 boto3==1.44.8
cat > "$work/show.py" <<'PY'
import logging
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

logging.disable(logging.CRITICAL)


class Missing(BaseHTTPRequestHandler):
    """Answers that no object exists, as S3 does, and counts connections."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self):
        super().setup()
        Missing.connections += 1

    def do_HEAD(self):
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Missing)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ.update(
    AWS_ACCESS_KEY_ID="test",
    AWS_SECRET_ACCESS_KEY="test",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}",
)
import boto3
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from botocore.exceptions import ClientError

FileSystems.set_options(PipelineOptions([]))
clients = []
make = boto3.session.Session.client
boto3.session.Session.client = lambda *given, **options: clients.append(1) or make(*given, **options)

began = time.process_time()
for number in range(20):
    assert not FileSystems.exists(f"s3://bucket/{number}")
by_beam = time.process_time() - began
print(f"20 calls of exists(): {len(clients)} clients, {Missing.connections} connections")

one, Missing.connections = boto3.session.Session().client("s3"), 0
began = time.process_time()
for number in range(20):
    try:
        one.head_object(Bucket="bucket", Key=str(number))
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404
by_one = time.process_time() - began
print(f"20 requests with one client: {Missing.connections} connection")
ratio = by_beam / by_one
size = "more than 5 to 1" if ratio > 5 else f"{ratio:.1f} to 1"
print(f"processor time, calls of Beam to requests of one client: {size}")
print(f"measured ratio: {ratio:.0f}, {by_beam:.2f} s and {by_one:.2f} s", file=sys.stderr)
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" | tee "$work/seen" || { tail -20 "$work/log"; exit 1; }
tail -1 "$work/log" >&2
diff "$work/seen" - <<'SEEN'
20 calls of exists(): 20 clients, 20 connections
20 requests with one client: 1 connection
processor time, calls of Beam to requests of one client: more than 5 to 1
SEEN
