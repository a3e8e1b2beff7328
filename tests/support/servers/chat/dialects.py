"""What each vision server does with a chat completion, read from the sources of the servers in November 2026."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

from support.hosted.faults import Respond
from support.hosted.pictures import number_of

PLAIN: dict[str, str] = {}
# Pixels of a picture that count one token, as in Qwen2-VL.
PIXELS_PER_TOKEN = 784
TEXT_OVERHEAD = 10


@dataclass
class Dialect:
    """A server with one model. Answers derive from the text and from the bytes of the picture.

    ``asked``: how often each (text, number of the picture) was answered; without a picture the number is None.
    ``poison``: numbers of pictures that the server takes for broken. ``answers``: texts in place of the usual answer.
    ``rejects``: a message with which all pictures are rejected. ``context``: tokens of prompt and answer.
    """

    owner: ClassVar[str] = "somebody"
    known_fields: ClassVar[frozenset[str] | None] = None
    model: str = "org/model"
    key: str = ""
    context: int = 1 << 20
    poison: set[int] = field(default_factory=set)
    rejects: str = ""
    is_blind: bool = False
    finish: str = "stop"
    answers: list[str] = field(default_factory=list)
    asked: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)

    def get(self, path: str) -> Respond:
        if path == "/v1/models":
            return 200, json.dumps({"object": "list", "data": [self.entry()]}), PLAIN
        known = self.look_ups().get(path)
        return (404, json.dumps({"detail": "Not Found"}), PLAIN) if known is None else (200, json.dumps(known), PLAIN)

    def entry(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": 0, "owned_by": self.owner}

    def look_ups(self) -> dict[str, Any]:
        return {}

    def error(self, status: int, message: str, kind: str = "BadRequestError") -> Respond:
        return status, json.dumps({"error": {"message": message, "type": kind, "code": status}}), PLAIN

    def broken_picture(self) -> Respond:
        return self.error(400, "Failed to load image: cannot identify image file")

    def wrong_model(self, name: str) -> Respond:
        return self.error(404, f"The model `{name}` does not exist.", "NotFoundError")

    def too_long(self, tokens: int) -> Respond | None:
        message = f"This model's maximum context length is {self.context} tokens, you have {tokens}."
        return self.error(400, message)

    def limit_of(self, body: dict[str, Any]) -> int | None:
        return body.get("max_completion_tokens", body.get("max_tokens"))

    def chat(self, body: dict[str, Any], headers: Any) -> Respond:
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            return self.error(401, f"Incorrect API key provided: {headers.get('Authorization')}", "auth")
        unknown = set(body) - self.known_fields if self.known_fields is not None else set()
        if unknown:
            return 422, json.dumps({"detail": [{"msg": f"Unexpected keys: {sorted(unknown)}", "loc": ["body"]}]}), PLAIN
        if body["model"] != self.model and (refusal := self.wrong_model(body["model"])):
            return refusal
        (message,) = body["messages"]
        parts = {part["type"]: part for part in message["content"]}
        text, number, pixels = parts["text"]["text"], None, 0
        if picture := parts.get("image_url"):
            assert message["content"][0] is picture, "the picture comes first, for the caches"
            if self.rejects:
                return self.error(400, self.rejects)
            head, _, content = picture["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64", head
            number, pixels = number_of_jpeg(base64.b64decode(content, validate=True))
        if number is not None and number in self.poison:
            return self.broken_picture()
        tokens = TEXT_OVERHEAD + len(text.split()) + (0 if self.is_blind else -(-pixels // PIXELS_PER_TOKEN))
        if tokens > self.context:
            if refusal := self.too_long(tokens):
                return refusal
            tokens = self.context
        with self.lock:
            self.asked[text, number] += 1
            self.bodies.append(body)
            said = self.answers.pop(0) if self.answers and number is not None else self.say(text, number, body)
        return 200, json.dumps(self.completion(body, said, tokens)), PLAIN

    def say(self, text: str, number: int | None, body: dict[str, Any]) -> str:
        return f"{text} | {number}"

    def completion(self, body: dict[str, Any], said: str, tokens: int) -> dict[str, Any]:
        limit, words = self.limit_of(body), said.split()
        # One word is one token. The number at the end is always there.
        finish = "length" if limit is not None and limit < len(words) else self.finish
        usage = {"prompt_tokens": tokens, "completion_tokens": len(words), "total_tokens": tokens + len(words)}
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": finish}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": self.model,
            "choices": [choice],
            "usage": usage,
        }


class Vllm(Dialect):
    owner = "vllm"

    def entry(self) -> dict[str, Any]:
        return {**super().entry(), "root": "/weights/v3", "parent": None, "max_model_len": self.context}


class Sglang(Dialect):
    owner = "sglang"

    def error(self, status: int, message: str, kind: str = "BadRequest") -> Respond:
        return status, json.dumps({"object": "error", "message": message, "type": kind, "code": status}), PLAIN

    def look_ups(self) -> dict[str, Any]:
        return {"/get_model_info": {"model_path": self.model, "weight_version": "step-900"}}


class LlamaCpp(Dialect):
    owner = "llamacpp"

    def entry(self) -> dict[str, Any]:
        return {**super().entry(), "meta": {"n_params": 7, "size": 1234}, "status": {"value": "loaded"}}

    def look_ups(self) -> dict[str, Any]:
        return {"/props": {"model_path": "/models/qwen.gguf", "total_slots": 4}, "/health": {"status": "ok"}}

    def wrong_model(self, name: str) -> Respond | None:  # type: ignore[override]
        return None

    def broken_picture(self) -> Respond:
        return self.error(400, "Failed to load image or audio file", "invalid_request_error")

    def completion(self, body: dict[str, Any], said: str, tokens: int) -> dict[str, Any]:
        return {**super().completion(body, said, tokens), "timings": {"prompt_ms": 5.0, "predicted_ms": 7.0}}


class Ollama(Dialect):
    """Cuts a prompt that is too long to its context without a word, and knows ``max_tokens`` only."""

    owner = "library"

    def look_ups(self) -> dict[str, Any]:
        name = self.model if ":" in self.model else f"{self.model}:latest"
        named = {"name": name, "model": name}
        return {
            "/api/tags": {"models": [{**named, "digest": "0123abcd"}]},
            "/api/ps": {"models": [{**named, "context_length": self.context}]},
        }

    def too_long(self, tokens: int) -> None:
        return None

    def limit_of(self, body: dict[str, Any]) -> int | None:
        return body.get("max_tokens")


class LmDeploy(Dialect):
    owner = "lmdeploy"


class LmStudio(Dialect):
    owner = "organization_owner"

    def look_ups(self) -> dict[str, Any]:
        return {"/api/v0/models": {"data": [{"id": self.model, "type": "vlm", "quantization": "Q4_K_M"}]}}

    def too_long(self, tokens: int) -> None:
        return None


class Transformers(Dialect):
    """Answers 422 for unknown fields, and 500 without JSON for a broken picture. Ignores ``response_format``."""

    known_fields = frozenset(
        ("model", "messages", "max_tokens", "temperature", "top_p", "seed", "stream", "response_format")
    )

    def entry(self) -> dict[str, Any]:
        return {**super().entry(), "status": {"value": "loaded"}}

    def broken_picture(self) -> Respond:
        return 500, "Internal Server Error", {"Content-Type": "text/plain"}

    def too_long(self, tokens: int) -> None:
        return None


class OpenAi(Dialect):
    """The API of OpenAI itself, with a model that knows ``max_completion_tokens`` only."""

    owner = "system"

    def chat(self, body: dict[str, Any], headers: Any) -> Respond:
        if "max_tokens" in body:
            message = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
            return self.error(400, message, "invalid_request_error")
        return super().chat(body, headers)


DIALECTS: dict[str, type[Dialect]] = {
    "vllm": Vllm,
    "sglang": Sglang,
    "llama.cpp": LlamaCpp,
    "ollama": Ollama,
    "lmdeploy": LmDeploy,
    "lmstudio": LmStudio,
    "transformers": Transformers,
    "unknown": OpenAi,
}


def number_of_jpeg(content: bytes) -> tuple[int | None, int]:
    """Return the number that a JPEG encodes and its pixels."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert "exif" not in image.info, "the server must get upright pixels"
        return number_of(content), image.width * image.height
