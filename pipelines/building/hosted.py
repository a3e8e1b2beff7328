"""The annotators of hosted APIs that the options name."""

from __future__ import annotations

import argparse
import math
from typing import Any

from ...models.hosted.annotator import HostedAnnotator
from ...models.hosted.cloud.annotator import MoondreamCloud
from ...models.hosted.cloud.protocol import PRICES
from ...models.hosted.fal.annotator import MODELS, Fal
from ...models.hosted.fallback import Fallback
from ...models.moondream.annotator import Moondream
from ...models.tasks import Annotator
from ..options.backends.hosted import LOCAL
from ..options.backends.openai import OPENAI, build_openai, parse_prices


def build_hosted(args: argparse.Namespace) -> HostedAnnotator:
    """Return the annotator of ``--backend``. With the local runner, check its key and extra first.

    Raises:
        ValueError: if the key or the extra is missing, the API has no such model, or the price is malformed.
    """
    return _build_api(args.backend, args, args.model)


def with_fallback(args: argparse.Namespace, engine: Moondream) -> Annotator:
    """Return the engine, with the API of ``--fallback`` behind it if there is one.

    Raises:
        ValueError: as ``build_hosted``.
    """
    if args.fallback == "none":
        return engine
    model = args.model if args.fallback == "fal" and args.model in MODELS else None
    return Fallback(engine, _build_api(args.fallback, args, model))


def _build_api(name: str, args: argparse.Namespace, model: str | None) -> HostedAnnotator:
    """Return the annotator of one of BACKENDS; ``model`` None is the default model of the API."""
    if name == OPENAI:
        return build_openai(args, model, _max_cost_per_process(args))
    options: dict[str, Any] = {"max_cost": _max_cost_per_process(args), "send_urls": args.send_urls}
    if model:
        options["model"] = model
    if args.batch_size and name != "cloud":
        options["batch_size"] = args.batch_size
    hosted: HostedAnnotator
    if name == "fal":
        hosted = Fal(price=_fal_price(args.price), webhook=args.webhook, **options)
    else:
        hosted = MoondreamCloud(prices=parse_prices(args.price) or PRICES, batch=name == "cloud-batch", **options)
    if args.runner == LOCAL:
        hosted.check()
    return hosted


def _fal_price(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"--price {text}: give the dollars of a billable unit, such as 0.001") from None


def _max_cost_per_process(args: argparse.Namespace) -> float | None:
    """Return ``--max-cost`` divided by ``--workers``, rounded down so that the sum stays below ``--max-cost``."""
    return None if args.max_cost is None else math.floor(args.max_cost / args.workers * 1e9) / 1e9
