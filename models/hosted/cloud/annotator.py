"""Moondream Cloud as an annotator: one call per request, or many requests in a batch."""

from __future__ import annotations

from ...tasks import Caption, Detect, Point, Query, Task
from ..annotator import HostedAnnotator
from ..dispatch.rate_limiter import Clock
from ..payment.budget import Budget
from ..service import Service
from .protocol import PRICES, USUAL_TOKENS, cost_usd

MODELS = ("moondream3.1-9B-A2B", "moondream3-preview")
# The API accepts up to 100,000 requests in a batch.
BATCH_SIZE, MAX_BATCH_SIZE = 1000, 100_000


class MoondreamCloud(HostedAnnotator):
    """Annotator that asks Moondream 3 at Moondream Cloud, which costs money per token. It supports all tasks.

    The API key is in ``MOONDREAM_API_KEY`` of the worker's environment.

    Args:
        model: the API's name of the model.
        concurrency: how many calls or batches are in flight at most in a process.
        batch: use the Batch API, which costs half of ``prices`` and answers within hours.
        batch_size: requests per batch, 1 to 100,000.
        prices: dollars per million tokens in, and per million tokens out.
        max_cost: dollars that a process may spend.
        send_urls: send the URL of a picture instead of its bytes if the URL is public; not with ``batch``.

    Raises:
        ValueError: if ``model`` is empty, a number is out of range, or ``batch`` and ``send_urls`` are both set.
    """

    tasks: frozenset[type[Task]] = frozenset({Caption, Query, Detect, Point})
    api, extra, module, key_variable = "Moondream Cloud", "cloud", "httpx", "MOONDREAM_API_KEY"
    key_page = "https://moondream.ai/c/cloud/api-keys"

    def __init__(
        self,
        model: str = MODELS[0],
        *,
        concurrency: int = 8,
        batch: bool = False,
        batch_size: int = BATCH_SIZE,
        prices: tuple[float, float] = PRICES,
        max_cost: float | None = None,
        send_urls: bool = False,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(concurrency=concurrency, max_cost=max_cost, send_urls=send_urls, clock=clock)
        if not model.strip():
            raise ValueError("model: give the API's name of a model, such as " + " or ".join(MODELS))
        if len(prices) != 2 or not all(0 <= price < float("inf") for price in prices):
            raise ValueError(f"prices {prices}: give the dollars for a million tokens in, and for a million out")
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ValueError(f"batch size {batch_size}: give 1 to {MAX_BATCH_SIZE} requests")
        if batch and send_urls:
            raise ValueError(
                "send urls: a batch holds pictures, not addresses; leave out send_urls (--send-urls) or batch"
            )
        self._name, self.batch, self._batch_size = model, batch, batch_size
        self._revision = "api.moondream.ai/v1"
        self._prices = (prices[0] / 2, prices[1] / 2) if batch else prices

    def _service(self, key: str) -> Service:
        # httpx is installed only with the extra "cloud".
        from .batch import BatchService
        from .realtime import RealtimeService

        if self.batch:
            return BatchService(key, self.name, self._prices, self._batch_size)
        return RealtimeService(key, self.name, self._prices, self.concurrency)

    def _budget(self) -> Budget:
        return Budget(self.max_cost, True, (float(sum(USUAL_TOKENS)), cost_usd(USUAL_TOKENS, self._prices)))
