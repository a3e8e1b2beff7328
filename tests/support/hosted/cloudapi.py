"""A fake of Moondream Cloud: the realtime API and the Batch API."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .faults import Respond
from .pictures import number_of, number_of_data_uri

PLAIN: dict[str, str] = {}
TOKENS = {"input_tokens": 1000, "output_tokens": 20}
BOX = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.5, "y_max": 0.6}
QUESTIONS = {"caption": "length", "query": "question", "detect": "object", "point": "object"}


def reply(skill: str, question: Any, number: int, most: int | None) -> dict[str, Any]:
    """Return the model's answer about a picture."""
    if skill in ("caption", "query"):
        return {"caption" if skill == "caption" else "answer": f"{question} | {number}"}
    things = [BOX if skill == "detect" else {"x": 0.25, "y": 0.75}] * (number % 3)
    return {"objects" if skill == "detect" else "points": things[:most]}


@dataclass
class CloudApi:
    """``asked``: how often each (skill, question, picture number) was answered, and so billed."""

    key: str = "moondream-test-secret-0123456789"
    asked: Counter[tuple[str, Any, int]] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    urls: dict[str, int] = field(default_factory=dict)
    poison: set[int] = field(default_factory=set)
    reports_tokens: bool = True
    polls_to_end: int = 1
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    polls: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def operation(self, method: str, host: str, path: str, query: dict[str, list[str]]) -> str:
        if host == "storage.example.com":
            return "download"
        assert host == "api.moondream.ai", host
        if path.startswith("/v1/batch"):
            return query["action"][0] if "action" in query else "batch"
        return path.removeprefix("/v1/")

    def answer(self, operation: str, call: Any) -> Respond:
        if operation == "download":
            assert "X-Moondream-Auth" not in call.headers, "the key must not go to the storage"
            return 200, self.files[call.route], PLAIN
        if call.headers.get("X-Moondream-Auth") != self.key:
            body = {"error": {"message": f"Invalid API key {call.headers.get('X-Moondream-Auth')}", "type": "auth"}}
            return 401, json.dumps(body), PLAIN
        with self.lock:
            if operation in QUESTIONS:
                return self._skill(operation, json.loads(call.body))
            return getattr(self, "_" + operation.replace("-", "_"))(call)

    def _skill(self, skill: str, body: dict[str, Any]) -> Respond:
        self.bodies.append(body)
        url = body["image_url"]
        number = number_of_data_uri(url) if url.startswith("data:") else self.urls[url]
        if number in self.poison:
            return 400, json.dumps({"error": {"message": "Invalid image", "type": "invalid_request_error"}}), PLAIN
        question = body.get(QUESTIONS[skill])
        self.asked[skill, question, number] += 1
        answer = reply(skill, question, number, body.get("settings", {}).get("max_objects"))
        metadata = {"request_id": uuid.uuid4().hex, "finish_reason": "stop"}
        if self.reports_tokens:
            metadata["metrics"] = {**TOKENS, "prefill_time_ms": 5.0, "decode_time_ms": 7.0}
        return 200, json.dumps({**answer, **metadata}), PLAIN

    def _mpu_create(self, call: Any) -> Respond:
        return 200, json.dumps({"fileId": f"file_{uuid.uuid4().hex}", "uploadId": "upload+/=1"}), PLAIN

    def _mpu_uploadpart(self, call: Any) -> Respond:
        assert call.query["uploadId"] == ["upload+/=1"] and call.query["partNumber"] == ["1"]
        self.files[call.route] = call.body
        return 200, json.dumps({"etag": "an-etag"}), PLAIN

    def _mpu_complete(self, call: Any) -> Respond:
        assert json.loads(call.body) == {"parts": [{"partNumber": 1, "etag": "an-etag"}]}
        name = f"batch_{uuid.uuid4().hex}"
        self.batches[name] = [json.loads(line) for line in self.files.pop(call.route).splitlines()]
        return 200, json.dumps({"id": name, "status": "chunking"}), PLAIN

    def _batch(self, call: Any) -> Respond:
        name = call.route.rpartition("/")[2]
        lines = self.batches.get(name)
        if lines is None:
            return 404, json.dumps({"error": {"message": "no such batch", "type": "not_found"}}), PLAIN
        self.polls[name] += 1
        if self.polls[name] <= self.polls_to_end:
            return 200, json.dumps({"id": name, "status": "processing", "progress": {"total": len(lines)}}), PLAIN
        answers = [self._line(index, line) for index, line in enumerate(lines)]
        # The answers are in two files, the later lines first.
        outputs = []
        for index, part in enumerate((answers[len(answers) // 2 :], answers[: len(answers) // 2])):
            self.files[f"/{name}-{index}.jsonl"] = "".join(json.dumps(answer) + "\n" for answer in part).encode()
            outputs.append({"index": index, "url": f"https://storage.example.com/{name}-{index}.jsonl?sig=x"})
        return 200, json.dumps({"id": name, "status": "completed", "outputs": outputs}), PLAIN

    def _line(self, index: int, line: dict[str, Any]) -> dict[str, Any]:
        number = number_of(base64.b64decode(line["image"], validate=True))
        head = {"line_index": index, "id": line["id"]}
        if number in self.poison:
            return {**head, "status": "error", "error": {"code": "image_decode_failed", "message": "no image"}}
        question = line.get(QUESTIONS[line["skill"]])
        self.asked[line["skill"], question, number] += 1
        result = reply(line["skill"], question, number, line.get("settings", {}).get("max_objects"))
        return {**head, "status": "ok", "result": result, "usage": TOKENS}
