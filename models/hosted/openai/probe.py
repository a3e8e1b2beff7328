"""Probes of a vision server: whether it takes pictures, whether a row is to blame, and how long a prompt counts."""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from typing import Any, Protocol

from PIL import Image

from ...tasks import Tokens
from ..dispatch.rate_limiter import Clock
from ..http.errors import AccountError, CallError, RejectedError, ThrottledError
from ..http.images import JPEG_QUALITY
from ..service import Settings
from .discovery import REJECTS_LONG_PROMPTS, ServerInfo, loaded_context
from .protocol import MAX_BYTES_PER_TOKEN, parse_answer
from .transport import ServerClient

PROBE_TEXT = "Name the colours of this picture."
PROBE_SIDE = 112
PROBE_SETTINGS = Settings(max_tokens=4, temperature=0.0, top_p=1.0, repetition_penalty=1.0)
# A server that keeps a hung request does not answer the probe either.
PROBE_TIMEOUT_S = 60.0
# How long a passed probe is believed.
TRUSTED_S = 60.0
# Questions whose tokens are counted. Manifests may have a question for each picture.
MAX_COUNTED_QUESTIONS = 64


class Chat(Protocol):
    """Sends one request to a server, and returns its answer as JSON."""

    def __call__(
        self, client: ServerClient, text: str, jpeg: bytes | None, settings: Settings, limit_s: float | None = None
    ) -> dict[str, Any]:
        """Raise the errors of ``ServerClient.chat``."""


@lru_cache(maxsize=1)
def probe_picture() -> bytes:
    """Return a JPEG of 112 x 112 pixels, red above blue."""
    picture = Image.new("RGB", (PROBE_SIDE, PROBE_SIDE), "red")
    picture.paste("blue", (0, PROBE_SIDE // 2, PROBE_SIDE, PROBE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


class Prober:
    """Sends probes through ``chat``. ``info``: of the servers. ``counts_prompts``: compare prompts with the picture and
    without, which takes a few short requests."""

    def __init__(self, chat: Chat, info: ServerInfo, clock: Clock, counts_prompts: bool) -> None:
        self._chat, self._info, self._clock = chat, info, clock
        self._counts_prompts = counts_prompts and info.kind not in REJECTS_LONG_PROMPTS
        self._trusted_until: dict[tuple[str, Settings], float] = {}
        self._text_tokens: dict[str, int | None] = {}
        self._is_countable: bool | None = None
        self._context: int | None = None
        self._lock = threading.Lock()

    def check_server(self, client: ServerClient) -> None:
        """Check that a server takes pictures.

        Raises:
            RejectedError: if it rejects the probe picture, or ignores the picture.
            CallError: if it does not answer.
        """
        tokens = self._tokens(client, PROBE_TEXT, probe_picture())
        try:
            without = self._tokens(client, PROBE_TEXT, None)
        except RejectedError:
            # Some models answer requests with a picture only.
            return
        if tokens and without and tokens.input <= without.input:
            raise RejectedError(
                f"{client.name} ignores pictures: a prompt with a picture has {tokens.input} tokens, and without it "
                f"{without.input}; serve a vision model, with its projector (mmproj) if it has one",
                "no_vision",
            )

    def test_server(self, client: ServerClient) -> None:
        """Check within ``PROBE_TIMEOUT_S`` seconds that a server answers. Raise CallError if it does not."""
        self._chat(client, PROBE_TEXT, probe_picture(), PROBE_SETTINGS, PROBE_TIMEOUT_S)

    def blame(self, client: ServerClient, settings: Settings, error: RejectedError) -> None:
        """Return if a rejected request is to blame itself: the server accepts the probe picture with its settings.

        Raises:
            AccountError: if the server rejects the probe too. Then it would reject all requests.
            ThrottledError: if the server does not answer the probe.
        """
        key = (client.url, settings)
        if self._clock.now() < self._trusted_until.get(key, float("-inf")):
            return
        try:
            self._chat(client, PROBE_TEXT, probe_picture(), settings)
        except RejectedError as probed:
            raise AccountError(
                f"{client.name} rejects every picture, also a small one of ours: correct the options or the server: "
                f"{probed}"
            ) from error
        except CallError as unanswered:
            raise ThrottledError(str(unanswered)) from error
        self._trusted_until[key] = self._clock.now() + TRUSTED_S

    def token_bounds(self, client: ServerClient, text: str) -> tuple[int, int | None]:
        """Return how many tokens the prompt of a picture and this text has at least, and the context if it is known.

        A prompt was cut if it counts fewer tokens, or as many as the context.

        For servers that reject long prompts the limit follows from the length of the text. For others the server counts
        the text without the picture first, once for each of ``MAX_COUNTED_QUESTIONS`` questions.
        """
        from_length = len(text.encode("utf-8", "surrogateescape")) // MAX_BYTES_PER_TOKEN
        if not self._counts_prompts:
            return from_length, None
        with self._lock:
            try:
                if not self._can_count(client):
                    return 0, None
                if text not in self._text_tokens and len(self._text_tokens) < MAX_COUNTED_QUESTIONS:
                    self._text_tokens[text] = self._count_text(client, text)
            except CallError:
                # The server is in trouble. The next request counts again.
                return from_length, None
            counted = self._text_tokens.get(text)
        return from_length if counted is None else max(from_length, counted + 1), self._context

    def _can_count(self, client: ServerClient) -> bool:
        """Return whether a server reports the same tokens for the same prompt twice, also if its cache has the prompt.

        Otherwise the server leaves out cached tokens, and a short count does not show that a prompt was cut.
        """
        if self._is_countable is None:
            first, second = (self._tokens(client, PROBE_TEXT, probe_picture()) for _ in range(2))
            self._is_countable = first is not None and second is not None and first.input == second.input
            # The model is loaded now.
            self._context = loaded_context(client, self._info)
        return self._is_countable

    def _count_text(self, client: ServerClient, text: str) -> int | None:
        try:
            tokens = self._tokens(client, text, None)
        except RejectedError:
            return None
        return tokens.input if tokens else None

    def _tokens(self, client: ServerClient, text: str, jpeg: bytes | None) -> Tokens | None:
        parsed = parse_answer(self._chat(client, text, jpeg, PROBE_SETTINGS))
        return parsed.tokens if parsed else None
