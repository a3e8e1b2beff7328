"""A fake of fal: the queue of fal-ai/moondream/batched, and the storage of uploads."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from .faults import Respond
from .pictures import number_of, number_of_data_uri

APP = "fal-ai/moondream"
UNITS_PER_PICTURE = 0.25
PLAIN: dict[str, str] = {}


@dataclass
class Job:
    """A job that was accepted. It is billed if it succeeds."""

    id: str
    arguments: dict[str, Any]
    pictures: list[int]
    polls: int = 0
    cancelled: bool = False
    ended: bool = False


@dataclass
class FalApi:
    """``jobs``: the accepted jobs by id. ``polls_to_end``: status calls until a job has ended.

    ``poison``: numbers of pictures that the model fails at. ``poison_is``: how the error names them: by "index", by
    "input" (the URL), not at all ("nothing"), or as a server error ("crash").
    """

    key: str = "fal-test-id:fal-test-secret-0123456789"
    polls_to_end: int = 2
    jobs: dict[str, Job] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    urls: dict[str, int] = field(default_factory=dict)
    poison: set[int] = field(default_factory=set)
    poison_is: str = "index"
    locked_after: int | None = None
    reports_units: bool = True
    webhooks: list[str] = field(default_factory=list)
    logs_asked: int = 0
    max_in_progress: int = 0
    upload_headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def asked(self) -> Counter[tuple[str, int]]:
        """How often each (prompt, picture number) was in an accepted job."""
        return Counter(
            (given["prompt"], number)
            for job in self.jobs.values()
            for given, number in zip(job.arguments["inputs"], job.pictures, strict=True)
        )

    @property
    def units(self) -> float:
        """The units that have been billed."""
        return sum(UNITS_PER_PICTURE * len(job.pictures) for job in self.jobs.values() if job.ended)

    def operation(self, method: str, host: str, path: str, query: dict[str, list[str]]) -> str:
        if host == "rest.fal.ai":
            return "token"
        if host == "v3.fal.media":
            return "upload"
        assert host in ("queue.fal.run", "queue.falrun.com"), host
        if method == "POST":
            return "submit"
        if method == "PUT":
            return "cancel"
        return "status" if path.endswith("/status") else "result"

    def answer(self, operation: str, call: Any) -> Respond:
        authorization = call.headers.get("Authorization", "")
        if operation == "upload":
            return self._upload(call)
        if authorization != f"Key {self.key}":
            return 401, json.dumps({"detail": f"invalid key credentials: {authorization}"}), PLAIN
        if operation == "token":
            until = datetime.now(timezone.utc) + timedelta(hours=1)
            token = {"token": "cdn-token", "token_type": "Bearer", "base_url": "https://v3.fal.media"}
            return 200, json.dumps({**token, "expires_at": until.isoformat()}), PLAIN
        with self.lock:
            if operation == "submit":
                return self._submit(call)
            parts = call.route.strip("/").split("/")
            assert "/".join(parts[:3]) == f"{APP}/requests", parts
            job = self.jobs.get(parts[3])
            if job is None:
                return 404, json.dumps({"status": "NOT_FOUND"}), PLAIN
            call.job = job
            return getattr(self, f"_{operation}")(job, call)

    def _submit(self, call: Any) -> Respond:
        assert call.route == f"/{APP}/batched", call.route
        if self.locked_after is not None and len(self.jobs) >= self.locked_after:
            reason = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
            return 403, json.dumps({"detail": reason}), PLAIN
        self.webhooks += call.query.get("fal_webhook", [])
        arguments = json.loads(call.body)
        pictures = [self._number(given["image_url"]) for given in arguments["inputs"]]
        job = Job(str(uuid.uuid4()), arguments, pictures)
        self.jobs[job.id] = job
        running = sum(not job.ended and not job.cancelled for job in self.jobs.values())
        self.max_in_progress = max(self.max_in_progress, running)
        base = f"https://queue.fal.run/{APP}/requests/{job.id}"
        body = {
            "status": "IN_QUEUE",
            "request_id": job.id,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
            "queue_position": 0,
        }
        return 200, json.dumps(body), {"x-fal-request-id": job.id}

    def _status(self, job: Job, call: Any) -> Respond:
        wants_logs = call.query.get("logs") == ["true"]
        self.logs_asked += wants_logs
        logs = [{"message": "loading", "level": "INFO", "source": "USER"}] if wants_logs else None
        job.polls += 1
        if job.cancelled:
            return 200, json.dumps({"status": "COMPLETED", "logs": logs, "error": "cancelled", "metrics": {}}), PLAIN
        if job.polls > self.polls_to_end:
            body = {"status": "COMPLETED", "logs": logs, "metrics": {"inference_time": 0.3}}
            if self._failure(job):
                body |= {"error": "it failed", "error_type": "runner_server_error"}
            return 200, json.dumps(body), PLAIN
        if job.polls == 1:
            return 202, json.dumps({"status": "IN_QUEUE", "queue_position": 1, "logs": None}), PLAIN
        return 202, json.dumps({"status": "IN_PROGRESS", "logs": logs}), PLAIN

    def _result(self, job: Job, call: Any) -> Respond:
        if job.cancelled:
            body = {"detail": "cancelled by the client", "error_type": "client_cancelled"}
            return 499, json.dumps(body), {"x-fal-error-type": "client_cancelled"}
        if job.polls <= self.polls_to_end:
            return 400, json.dumps({"detail": "Request is still in progress"}), PLAIN
        if failure := self._failure(job):
            return failure
        job.ended = True
        outputs = [
            f"{given['prompt']} | {number}" for given, number in zip(job.arguments["inputs"], job.pictures, strict=True)
        ]
        body = {
            "outputs": outputs,
            "partial": False,
            "timings": {"preprocess": 0.01 * len(outputs), "inference": 0.05 * len(outputs)},
            "filenames": [f"{number}.jpg" for number in job.pictures],
        }
        headers = {"x-fal-request-id": job.id}
        if self.reports_units:
            headers["x-fal-billable-units"] = str(UNITS_PER_PICTURE * len(outputs))
        return 200, json.dumps(body), headers

    def _cancel(self, job: Job, call: Any) -> Respond:
        if job.ended or job.polls > self.polls_to_end:
            return 400, json.dumps({"status": "ALREADY_COMPLETED"}), PLAIN
        job.cancelled = True
        return 202, json.dumps({"status": "CANCELLATION_REQUESTED"}), PLAIN

    def _failure(self, job: Job) -> Respond | None:
        """Return the error answer for a job with poisoned pictures; None if it has none."""
        bad = [place for place, number in enumerate(job.pictures) if number in self.poison]
        if not bad:
            return None
        if self.poison_is == "crash":
            body = {"detail": "Internal Server Error", "error_type": "runner_server_error"}
            return 500, json.dumps(body), {"x-fal-request-id": job.id, "x-fal-error-type": "runner_server_error"}
        fault = {"type": "image_load_error", "msg": "Failed to load the image.", "loc": ["body", "image_url"]}
        if self.poison_is == "nothing":
            return 422, json.dumps({"detail": [fault]}), PLAIN
        if self.poison_is == "input":
            faults = [{**fault, "input": job.arguments["inputs"][place]["image_url"]} for place in bad]
        else:
            faults = [{**fault, "loc": ["body", "inputs", place, "image_url"]} for place in bad]
        return 422, json.dumps({"detail": faults}), {"x-fal-billable-units": "0"}

    def _upload(self, call: Any) -> Respond:
        assert call.headers["Authorization"] == "Bearer cdn-token", "the key must not go to the storage"
        url = f"https://v3.fal.media/files/zebra/{uuid.uuid4().hex}_picture.jpg"
        self.uploads[url] = call.body
        self.upload_headers.append(dict(call.headers))
        return 200, json.dumps({"access_url": url}), PLAIN

    def _number(self, url: str) -> int:
        if url in self.uploads:
            return number_of(self.uploads[url])
        if url.startswith("data:"):
            return number_of_data_uri(url)
        return self.urls[url]
