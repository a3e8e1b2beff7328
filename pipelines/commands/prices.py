"""Prices and rate limits of the hosted APIs, each with its source and date."""

from __future__ import annotations

from ...models.hosted.cloud.protocol import PRICES, USUAL_TOKENS

# The source of PRICES. The documentation of the API allows 10 requests a second with $10 on the account.
CLOUD_PRICES_SOURCE = "moondream.ai/pricing of 2026-10-07"
CLOUD_REQUESTS_PER_S = 10.0
# The price of a request in a batch, divided by its price outside of a batch.
CLOUD_BATCH_SHARE = 0.5


def cloud_usd(output_tokens: float, prices: tuple[float, float] = PRICES) -> float:
    """Return the cost in dollars of one request at Moondream Cloud, outside of a batch.

    The number of input tokens is taken from USUAL_TOKENS, because the API counts pictures in its own way.

    Args:
        prices: dollars for a million tokens in, and for a million tokens out.
    """
    into, out = prices
    return (USUAL_TOKENS[0] * into + output_tokens * out) / 1e6
