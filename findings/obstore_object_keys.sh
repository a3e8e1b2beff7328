#!/usr/bin/env bash
# obstore 0.12.1 (Rust object_store) and S3 keys with an empty segment, seen on 2026-11-29 with Python 3.11.
#
# S3 allows any UTF-8 key, and boto3 1.43 lists and reads "photos//b.jpg". obstore refuses to read this key with
# ValueError. One such key also makes the listing of its whole prefix fail, so the other keys are lost too.
# A prefix matches whole segments only: "photos/a" does not list "photos/a.jpg", as a prefix does in S3.
#
# Output seen:
#   boto3 lists ['photos/a.jpg', 'photos//b.jpg']
#   obstore reads photos//b.jpg: ValueError
#   obstore lists photos/: error
#   obstore lists the prefix photos/a: []
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q obstore==0.12.1 boto3==1.43.11
cat > "$work/show.py" <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import boto3
import obstore
from obstore.store import S3Store

KEYS = ["photos/a.jpg", "photos//b.jpg"]


class Bucket(BaseHTTPRequestHandler):
    """GET of ListObjectsV2 and of objects, enough for both clients."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            items = "".join(
                f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                '<ETag>"e"</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>'
                for key in keys
                if key.startswith(prefix)
            )
            body = (
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
                f"<Prefix>{prefix}</Prefix><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
            ).encode()
        else:
            body = b"x"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


keys = KEYS
server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
access = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **access)
listed = [item["Key"] for item in client.list_objects_v2(Bucket="b", Prefix="photos/")["Contents"]]
print("boto3 lists", listed)
assert listed == KEYS
store = S3Store("b", endpoint=url, region="us-east-1", access_key_id="key", secret_access_key="secret",
                client_options={"allow_http": True}, virtual_hosted_style_request=False)
try:
    obstore.get(store, KEYS[1]).bytes()
except ValueError as error:
    print(f"obstore reads {KEYS[1]}: {type(error).__name__}")
else:
    raise SystemExit("changed: obstore reads a key with an empty segment")
try:
    obstore.list(store, "photos/").collect()
except Exception:
    print("obstore lists photos/: error")
else:
    raise SystemExit("changed: obstore lists a prefix that holds a key with an empty segment")
keys = KEYS[:1]
found = [item["path"] for item in obstore.list(store, "photos/a").collect()]
print("obstore lists the prefix photos/a:", found)
assert found == [], "changed: a prefix may end inside a segment"
assert [item["path"] for item in obstore.list(store, "photos").collect()] == KEYS[:1]
PY
"$work/venv/bin/python" "$work/show.py"
