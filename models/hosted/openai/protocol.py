"""The protocol of chat completions with pictures: bodies of requests, and the content of answers."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from ...tasks import Answer, Fault, Timings, Tokens
from ..http.images import JPEG_DATA_URI
from ..service import Reply, Settings

# The names of the field that limits the tokens of an answer. Ollama knows the first only, new models at OpenAI the
# second only.
MAX_FIELDS = ("max_tokens", "max_completion_tokens")
# Finish reasons of requests that the server gave up, or of a model that was loaded or unloaded in the meantime.
FAILED_FINISH = ("abort", "error", "load", "unload", "parse_error")
# An upper limit on the mean bytes of a token. A prompt that counts fewer tokens than this implies was cut.
MAX_BYTES_PER_TOKEN = 16


class ChatAnswer(NamedTuple):
    """The content of an answer. ``tokens``: None if the server did not report them."""

    text: str
    finish_reason: str
    tokens: Tokens | None


def request_fields(model: str, settings: Settings, max_field: str, seed: int, schema: str | None) -> dict[str, Any]:
    """Return the fields of a request beside its messages.

    Fields with a neutral value are left out, because transformers serve rejects fields that it does not know.

    Args:
        max_field: one of ``MAX_FIELDS``.
        schema: the JSON schema, as text, that the server is to enforce; None for none.
    """
    fields: dict[str, Any] = {
        "model": model,
        max_field: settings.max_tokens,
        "temperature": settings.temperature,
        "seed": seed,
    }
    if settings.top_p < 1:
        fields["top_p"] = settings.top_p
    if schema is not None:
        described = {"name": "answer", "schema": json.loads(schema)}
        fields["response_format"] = {"type": "json_schema", "json_schema": described}
    return fields


def request_body(fields: Mapping[str, Any], text: str, jpeg: bytes | None) -> bytes:
    """Return the JSON body of a request about a picture, or about a text alone if ``jpeg`` is None.

    The picture comes first, so that prompts about it share a prefix.
    """
    head, question = json.dumps(fields)[:-1].encode(), json.dumps({"type": "text", "text": text}).encode()
    parts = [head, b', "messages": [{"role": "user", "content": [', question, b"]}]}"]
    if jpeg is not None:
        # json.dumps would look at each character of the picture, which takes longer than all of the rest.
        picture = b'{"type": "image_url", "image_url": {"url": "%b' % JPEG_DATA_URI.encode()
        parts[2:2] = [picture, base64.b64encode(jpeg), b'"}}, ']
    return b"".join(parts)


def seed_of(request_id: str) -> int:
    """Return the seed of a request, in [0, 2 ** 31): the same id gives the same seed."""
    return int.from_bytes(hashlib.sha256(request_id.encode("utf-8", "surrogateescape")).digest()[:4], "big") >> 1


def other_max_field(field: str, message: str) -> str | None:
    """Return the other one of ``MAX_FIELDS`` if a rejection asks for it, else None.

    OpenAI writes "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'".
    """
    (other,) = (name for name in MAX_FIELDS if name != field)
    return other if other in message and field in message.replace(other, "") else None


def error_message(body: bytes) -> str:
    """Return the message of an error body, which has ``error``, a text or an object with ``message``; ``message``; or
    ``detail``.

    ``detail`` may be a list of objects with ``msg``. Other bodies give their first 200 bytes.
    """
    plain = body[:200].decode(errors="replace")
    try:
        content = json.loads(body)
    except ValueError:
        return plain
    if not isinstance(content, dict):
        return plain
    for value in (content.get("error"), content.get("detail"), content.get("message")):
        if isinstance(value, dict):
            value = value.get("message") or json.dumps(value)
        if isinstance(value, list):
            value = "; ".join(str(each.get("msg", each) if isinstance(each, dict) else each) for each in value)
        if value:
            return str(value)
    return plain


def parse_answer(answer: Any) -> ChatAnswer | None:
    """Return the content of a chat completion; None if ``answer`` is no chat completion. Lists of texts are joined."""
    try:
        choice = answer["choices"][0]
        content, finish = choice["message"].get("content"), choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        return None
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return ChatAnswer(content if isinstance(content, str) else "", str(finish), parse_tokens(answer.get("usage")))


def parse_tokens(usage: Any) -> Tokens | None:
    """Return the tokens that ``usage`` reports; None if either number is missing or not a count."""
    if not isinstance(usage, dict):
        return None
    into, out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Tokens(into, out) if _is_count(into) and _is_count(out) else None


def parse_timings(answer: Any, seconds: float) -> Timings:
    """Return llama.cpp's times for the prompt and for the answer. Other servers report none: all is ``generate_ms``.

    Args:
        seconds: the duration of the call.
    """
    times = answer.get("timings") if isinstance(answer, dict) else None
    if isinstance(times, dict):
        prompt, predicted = times.get("prompt_ms"), times.get("predicted_ms")
        if _is_duration(prompt) and _is_duration(predicted):
            return Timings(encode_ms=float(prompt), generate_ms=float(predicted))
    return Timings(generate_ms=1000 * seconds)


def reply_to(call: Mapping[str, Any], name: str) -> Reply:
    """Return the reply of a call. It is a fault if the answer is empty or broken off, or if its prompt was cut.

    Args:
        call: ``answer``, the JSON of the server; ``seconds``, the duration of the call; ``fewest_tokens``, how many
            tokens the whole prompt has at least; ``context``, the tokens to which the server cuts a prompt, or None.
        name: of the server, for messages.
    """
    answer = call["answer"]
    timings, parsed = parse_timings(answer, call["seconds"]), parse_answer(answer)
    if parsed is None:
        return Reply(Fault("NoAnswer", f"{name} gave no choices: run again with --retry-errors", True), timings)
    tokens = parsed.tokens or Tokens()
    keys = ("id", "model", "system_fingerprint", "usage")
    response = json.dumps({"finish_reason": parsed.finish_reason, **{key: answer.get(key) for key in keys}})
    return Reply(_result_of(parsed, name, call["fewest_tokens"], call["context"]), timings, tokens, response)


def _result_of(parsed: ChatAnswer, name: str, fewest_tokens: int, context: int | None) -> Answer | Fault:
    if parsed.finish_reason in FAILED_FINISH:
        message = f"{name} ended the answer with finish reason {parsed.finish_reason}: run again with --retry-errors"
        return Fault("BrokenAnswer", message, retryable=True)
    if parsed.tokens and (parsed.tokens.input < fewest_tokens or parsed.tokens.input >= (context or math.inf)):
        whole = f"a context of {context}" if context and parsed.tokens.input >= context else f"at least {fewest_tokens}"
        message = (
            f"{name} cut the prompt: it counts {parsed.tokens.input} tokens of {whole}; enlarge the context of the "
            "server or lower --max-pixels, and run again with --retry-errors"
        )
        return Fault("CutPrompt", message, retryable=True)
    if not (text := parsed.text.strip()):
        # The seed of a request is fixed, so the same request usually ends alike.
        cure = "raise --max-tokens" if parsed.finish_reason == "length" else "change the prompt or --temperature"
        message = f"{name} gave an empty answer, finish reason {parsed.finish_reason}: {cure}"
        return Fault("EmptyAnswer", message)
    if parsed.finish_reason == "content_filter":
        return Fault(
            "Rejected", f"{name} stopped the answer by its content filter: use another server for this picture"
        )
    return Answer("length" if parsed.finish_reason == "length" else "stop", text=text)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _is_duration(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < math.inf
