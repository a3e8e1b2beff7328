"""A server on loopback in place of Dataflow's API: it gives tokens, accepts jobs and tells their state."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/?]+))?(/messages)?(?:\?.*)?")
JOB_ID = "2026-11-29_00_00_00-1234567890"


class Dataflow(ThreadingHTTPServer):
    """The server.

    Attributes:
        created: the body of each request that creates a job.
        state: the state of every job, such as JOB_STATE_RUNNING.
        error: the text of an error message of every job, or "".
        asked_for_job: set once the state of a job was asked for. Tests clear it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict[str, Any]] = []
        self.state, self.error = "JOB_STATE_RUNNING", ""
        self.asked_for_job = threading.Event()

    def write_key(self, path: Path) -> None:
        """Write the key of a service account, for which this server gives tokens."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {"type": "service_account", "project_id": "some-project", "private_key_id": "1", "private_key": pem}
        email = "submitter@some-project.iam.gserviceaccount.com"
        path.write_text(json.dumps({**account, "client_email": email, "token_uri": f"{self.url}/token"}))

    @property
    def url(self) -> str:
        # Beam speaks HTTP, and not gRPC, if the name is localhost.
        return f"http://localhost:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Dataflow

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/token":
            self._reply({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})
            return
        body = json.loads(content)
        self.server.created.append(body)
        self._reply({**_job(self.path), "name": body["name"], "currentState": "JOB_STATE_PENDING"})

    def do_GET(self) -> None:
        found = JOBS.fullmatch(self.path)
        if found is None:
            self._reply({}, 404)
        elif found[4]:
            message = {"id": "1", "time": "2026-11-29T00:00:00Z", "messageText": self.server.error}
            error = {**message, "messageImportance": "JOB_MESSAGE_ERROR"}
            self._reply({"jobMessages": [error] if self.server.error else []})
        elif found[3]:
            self._reply({**_job(self.path), "currentState": self.server.state})
            self.server.asked_for_job.set()
        else:
            self._reply({"jobs": []})

    def _reply(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _job(path: str) -> dict[str, str]:
    found = JOBS.fullmatch(path)
    assert found is not None, path
    return {"id": JOB_ID, "projectId": found[1], "location": found[2]}


@contextlib.contextmanager
def dataflow_server() -> Iterator[Dataflow]:
    """Run the server within this block."""
    server = Dataflow()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
