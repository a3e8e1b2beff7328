"""What others' machines and APIs cost, and how fast they are: each number with its source and its date."""

from __future__ import annotations

from typing import NamedTuple

from ..models.hosted.cloud.protocol import PRICES, USUAL_TOKENS

# https://github.com/m87-labs/kestrel/blob/main/PERFORMANCE.md @ 0fbba06, Moondream 2, the query skill on ChartQA:
# requests a second at its best batch size, with answers of about 3 tokens and of about 30.
RATES_OF = "Kestrel, another engine, for Moondream 2 (its PERFORMANCE.md @ 0fbba06)"
SHORT_TOKENS, LONG_TOKENS = 3, 30
# https://www.runpod.io/pricing, pods, of 2026-10-07.
GPU_PRICES_OF = "runpod.io/pricing of 2026-10-07"
# https://moondream.ai/pricing of 2026-10-07; its documentation allows 10 requests a second with $10 on the account.
CLOUD_PRICES_OF = "moondream.ai/pricing of 2026-10-07"
CLOUD_REQUESTS_A_SECOND = 10.0
CLOUD_BATCH_SHARE = 0.5
# fal tells the price of fal-ai/moondream/batched to those who have a key, and nowhere else that we know of.
FAL = "fal"


class Gpu(NamedTuple):
    """Requests a second with short and with long answers, and dollars an hour (None: no dated price is known)."""

    short: float
    long: float
    usd_per_hour: float | None

    def seconds(self, tokens: float) -> float:
        """For one request whose answer has so many tokens: the line through both measurements."""
        a_token = (1 / self.long - 1 / self.short) / (LONG_TOKENS - SHORT_TOKENS)
        return 1 / self.short + a_token * (tokens - SHORT_TOKENS)


GPUS = {
    "B200": Gpu(93.61, 66.10, 6.79),
    "H100": Gpu(62.83, 48.44, 3.49),
    "A100": Gpu(25.18, 21.54, 1.59),
    "L40S": Gpu(26.39, 22.01, None),
    "A10": Gpu(9.92, 7.89, None),
    "L4": Gpu(7.61, 5.63, None),
}


def cloud_usd(output_tokens: float, prices: tuple[float, float] = PRICES) -> float:
    """What one request costs at Moondream Cloud, whose pictures have tokens of their own number."""
    into, out = prices
    return (USUAL_TOKENS[0] * into + output_tokens * out) / 1e6
