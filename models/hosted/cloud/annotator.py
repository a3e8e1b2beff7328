"""Moondream Cloud as an Annotator: captions, queries, boxes and points, one call for each, or many in a batch."""

from __future__ import annotations

from ...tasks import Caption, Detect, Point, Query, Task
from ..annotator import HostedAnnotator
from ..budget import Budget
from ..dispatch.rate_limiter import Clock
from ..service import Service
from .protocol import PRICES, USUAL_TOKENS, cost_of

MODELS = ("moondream3.1-9B-A2B", "moondream3-preview")
# Of the 100,000 that a file may have.
BATCH_SIZE, MOST_BATCH_SIZE = 1000, 100_000


class MoondreamCloud(HostedAnnotator):
    """Moondream 3 at Moondream Cloud, which is paid for by the token; the key is the worker's ``MOONDREAM_API_KEY``.

    ``model`` is the API's name for it. ``prices`` are the dollars for a million tokens in and out. ``batch`` asks its
    Batch API: half of these prices, ``batch_size`` requests a file, and hours instead of seconds.

    Raises:
        ValueError: a number makes no sense.
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
            raise ValueError("model: give the API's name for it, such as " + " or ".join(MODELS))
        if len(prices) != 2 or not all(0 <= price < float("inf") for price in prices):
            raise ValueError(f"prices {prices}: give the dollars for a million tokens in, and for a million out")
        if not 1 <= batch_size <= MOST_BATCH_SIZE:
            raise ValueError(f"batch size {batch_size}: a batch takes 1 to {MOST_BATCH_SIZE} requests")
        if batch and send_urls:
            raise ValueError("send urls: a batch holds pictures, not addresses")
        self.name, self.batch, self._batch_size = model, batch, batch_size
        self.revision = "api.moondream.ai/v1"
        self._prices = (prices[0] / 2, prices[1] / 2) if batch else prices

    def _service(self, key: str) -> Service:
        from .batch import CloudBatches
        from .realtime import CloudCalls

        if self.batch:
            return CloudBatches(key, self.name, self._prices, self._batch_size)
        return CloudCalls(key, self.name, self._prices, self.concurrency)

    def _budget(self) -> Budget:
        return Budget(self.max_cost, True, (float(sum(USUAL_TOKENS)), cost_of(USUAL_TOKENS, self._prices)))
