"""Any vision server that speaks OpenAI's chat completions, as an annotator for captions and queries."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL.Image import Image

from ...tasks import Caption, Outcome, Query, Request, Size, Task
from ...web.urls import is_public_url
from ..annotator import HostedAnnotator, Self
from ..dispatch.rate_limiter import Clock
from ..http.errors import AccountError, CallError
from ..http.images import oversamples_area, shrink_area
from ..payment.budget import Budget
from ..payment.journal import Store
from ..service import Service

if TYPE_CHECKING:
    from .discovery import ServerInfo
    from .service import ChatService
    from .transport import ServerClient

log = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
CONCURRENCY = 32
# About what Qwen2-VL's processor takes by default: 1,003,520 pixels, which are 1,280 tokens.
MAX_PIXELS = 1 << 20
TIMEOUT_S = 600.0
CAPTION_PROMPTS = {
    "short": "Describe this image in one short sentence.",
    "normal": "Describe this image in one paragraph.",
    "long": "Describe this image in detail.",
}


class OpenAIServer(HostedAnnotator):
    """Annotator that asks a vision model behind ``/v1/chat/completions``: captions and queries.

    Such servers are vLLM, SGLang, llama.cpp, Ollama, LM Studio, LMDeploy, ``transformers serve`` and OpenRouter. The
    servers are asked for model and revision when these are first needed.

    Args:
        base_url: the server's URL, such as ``http://localhost:8000/v1``; or several URLs, which share the load.
        model: the server's name of the model; by default the only model that the server has.
        revision: the version of the model, for the rows; by default what the server tells, else "unknown".
        api_key_env: the environment variable of the API key; by default ``OPENAI_API_KEY``, which may be missing.
        concurrency: how many requests are in flight at most in a process.
        max_pixels: larger pictures are scaled down to about this number of pixels.
        caption_prompts: the text for captions of some lengths, such as ``{"short": "Describe the person."}``.
        timeout_s: the time limit of a request, in seconds.
        prices: dollars per million tokens in, and per million tokens out. A lost answer is then not asked for again.
        max_cost: dollars that a process may spend. It needs ``prices``.

    Raises:
        ValueError: if an argument has a bad value. ``name`` and ``revision`` raise it if no server can be reached, or
            the servers have several models or different ones.
    """

    tasks: frozenset[type[Task]] = frozenset({Caption, Query})
    api, extra, module = "the vision server", "openai", "httpx"
    key_page = "the provider of the server"

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str | None = None,
        *,
        revision: str | None = None,
        api_key_env: str | None = None,
        concurrency: int = CONCURRENCY,
        max_pixels: int = MAX_PIXELS,
        caption_prompts: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        prices: tuple[float, float] | None = None,
        max_cost: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(concurrency=concurrency, max_cost=max_cost, send_urls=False, clock=clock)
        self.base_urls = tuple(map(normal_url, [base_url] if isinstance(base_url, str) else base_url))
        if not self.base_urls or len(set(self.base_urls)) < len(self.base_urls):
            raise ValueError(f"base URLs {', '.join(self.base_urls) or 'none'}: give at least one, and each once")
        if max_pixels < 1:
            raise ValueError(f"max pixels {max_pixels}: give 1 or more")
        if not 0 < timeout_s < float("inf"):
            raise ValueError(f"time limit {timeout_s}: give more than 0 seconds")
        if prices is not None and (len(prices) != 2 or not all(0 <= price < float("inf") for price in prices)):
            raise ValueError(f"prices {prices}: give the dollars for a million tokens in, and for a million out")
        if max_cost is not None and not any(prices or ()):
            raise ValueError(f"max cost {max_cost}: give the prices of a million tokens (--price IN/OUT) as well")
        self.key_variable, self._must_have_key = api_key_env or KEY_VARIABLE, api_key_env is not None
        self.max_pixels, self.timeout_s, self._prices = max_pixels, timeout_s, prices
        self.caption_prompts = all_caption_prompts(caption_prompts)
        self.is_paid = prices is not None
        self._given_model, self._given_revision = model, revision
        self._info: ServerInfo | None = None

    def __getstate__(self) -> dict[str, Any]:
        # All workers must have the same name and revision, which are part of the ids of rows.
        _ = self.name, self.revision
        return super().__getstate__()

    @property
    def name(self) -> str:
        """The server's name of the model."""
        return self._given_model or self.discover().model

    @property
    def revision(self) -> str:
        """The version of the model, and what else changes the answers: ``max_pixels`` and ``caption_prompts``."""
        revision = self._given_revision or self.discover().revision
        return "; ".join([revision, *changed_settings(self.max_pixels, self.caption_prompts)])

    def discover(self) -> ServerInfo:
        """Return what the servers tell about themselves, asked at the first call. Log which of them do not answer.

        Raises:
            ValueError: if no server can be reached, or the servers have several models or different ones.
        """
        if self._info is None:
            self._require_extra()
            from .discovery import UNKNOWN, discover_all

            clients = self._connect()
            try:
                self._info, warnings = discover_all(clients, self._given_model, self._clock)
            finally:
                for client in clients:
                    client.close()
            for warning in (*warnings, *self._key_warnings()):
                log.warning("%s", warning)
            if self._info.revision == UNKNOWN and self._given_revision is None:
                log.warning(
                    "%s does not tell the revision of %s: rows have the revision %s, and a change of the weights "
                    "behind this name is not noticed; name the revision with --revision",
                    *(self.base_urls[0], self._info.model, UNKNOWN),
                )
        return self._info

    def check_servers(self) -> None:
        """Send a small picture to a server, to check before the run that it takes pictures.

        Raises:
            ValueError: if no server can be reached, or the first one rejects the picture or the key.
        """
        self.discover()
        try:
            self._chat_service().check_servers()
        except (CallError, AccountError) as error:
            raise ValueError(str(error)) from error

    def has_penalty(self) -> bool:
        """Return whether this kind of server has a repetition penalty. Raise ValueError as ``discover``."""
        from .discovery import PENALTY_FIELDS

        return self.discover().kind in PENALTY_FIELDS

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return whether ``reduced`` has at least twice the pixels a side of what is sent."""
        return oversamples_area(reduced, self.max_pixels)

    def shrink(self, picture: Image) -> Image:
        """Return a picture in the size that is sent: of at most about ``max_pixels`` pixels."""
        return shrink_area(picture, self.max_pixels)

    def answer(self, requests: Iterable[Request], scope: str = "") -> Iterator[Outcome]:
        """Yield one outcome for each request, in the order of their ends. ``scope``: the scope in the journal.

        Outcomes of servers without ``prices`` have no bill.

        Raises:
            AccountError: if a server refuses the key or all requests, or the journal can't be written.
        """
        for outcome in super().answer(requests, scope):
            yield outcome if self.is_paid else replace(outcome, hosted=None)

    def with_store(self: Self, store: Store) -> Self:
        """Return a copy of the annotator with its journal in ``store``; the annotator itself if it is not paid."""
        return super().with_store(store) if self.is_paid else self

    def _key(self) -> str:
        """Return the API key, or "" if the default variable is missing.

        Raises:
            ValueError: if the variable that the user named is missing, or the key has a bad character.
        """
        if not self._must_have_key and not os.environ.get(self.key_variable, "").strip():
            return ""
        return super()._key()

    def _key_warnings(self) -> list[str]:
        """Return a warning for each URL to which the key travels over the internet without encryption."""
        if not self._key():
            return []
        open_urls = [url for url in self.base_urls if url.startswith("http:") and is_public_url(url)]
        return [f"the key in {self.key_variable} is sent to {url} in clear text: use https" for url in open_urls]

    def _connect(self) -> list[ServerClient]:
        from .transport import ServerClient

        return [ServerClient(url, self._key(), self.timeout_s, self.concurrency) for url in self.base_urls]

    def _chat_service(self) -> ChatService:
        from .service import ChatService

        info = self.discover()._replace(model=self.name)
        threads, limit = self.concurrency, self.timeout_s
        return ChatService(self._connect, info, self.caption_prompts, self._prices, threads, limit, self._clock)

    def _service(self, key: str) -> Service:
        try:
            return self._chat_service()
        except ValueError as error:
            raise AccountError(str(error)) from error

    def _budget(self) -> Budget:
        return Budget(self.max_cost, self.is_paid, (0.0, 0.0))


def all_caption_prompts(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the text for captions of each length: the given ones, else those of ``CAPTION_PROMPTS``.

    Raises:
        ValueError: if a key is no length, or a text is blank.
    """
    for length, text in (given or {}).items():
        if length not in CAPTION_PROMPTS or not text.strip():
            raise ValueError(f"caption prompt {length!r}: give a text for short, normal or long")
    return {**CAPTION_PROMPTS, **(given or {})}


def changed_settings(max_pixels: int, caption_prompts: Mapping[str, str]) -> list[str]:
    """Return the settings that change the answers and are not the default, as parts of a revision."""
    parts = [f"max_pixels {max_pixels}"] * (max_pixels != MAX_PIXELS)
    if caption_prompts != CAPTION_PROMPTS:
        parts.append(f"caption_prompts {short_digest(json.dumps(caption_prompts, sort_keys=True))}")
    return parts


def short_digest(text: str) -> str:
    """Return the digest by which a revision names a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def normal_url(url: str) -> str:
    """Return a base URL without a slash at its end. ``/v1`` is added if the URL has no path.

    Raises:
        ValueError: if the URL is not http(s), or has a user name, a query or a fragment, which may be secrets.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base URL {url}: give an http(s) URL, such as http://localhost:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(
            f"base URL of {parts.hostname}: leave out user, query and fragment; name a key with --api-key-env"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"
