"""Hosted APIs on the command line: which one, for how much money, and what is sent to it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from ...models.hosted.annotator import HostedAnnotator
from ...models.hosted.cloud.annotator import MoondreamCloud
from ...models.hosted.cloud.protocol import BATCH_DEADLINE_S, PRICES
from ...models.hosted.fal.annotator import MODELS, Fal
from ...models.hosted.fallback import Fallback
from ...models.moondream.annotator import Moondream
from ...models.tasks import Annotator

LOCAL = "local"
PAID_OPTIONS = ("max_cost", "price", "send_urls", "webhook")


def add_hosted_options(parser: argparse.ArgumentParser) -> None:
    """``--backend``, ``--fallback`` and what goes with them."""
    group = parser.add_argument_group("hosted APIs", "paid for, and never asked unless named here")
    group.add_argument("--backend", default=LOCAL, choices=(LOCAL, *APIS), help="who answers (%(default)s)")
    group.add_argument(
        "--fallback",
        choices=("none", "fal", "cloud"),
        default="none",
        help="who answers where there is no accelerator, the model can't load, or a row fails (%(default)s)",
    )
    group.add_argument("--max-cost", type=float, metavar="USD", help="what this run may cost, on this machine")
    group.add_argument(
        "--price",
        metavar="USD",
        help="of a billable unit at fal, or IN/OUT of a million tokens at Moondream Cloud",
    )
    group.add_argument("--send-urls", action="store_true", help="send public http(s) addresses instead of pictures")
    group.add_argument("--webhook", metavar="URL", help="an address that fal tells of each job as well")


def check_hosted(args: argparse.Namespace) -> None:
    """Refuse options that don't go together.

    Raises:
        ValueError: they don't.
    """
    if args.backend != LOCAL and args.fallback != "none":
        raise ValueError("--fallback is for the local backend; an API has none")
    if args.backend == LOCAL and args.fallback == "none":
        for option in PAID_OPTIONS:
            if getattr(args, option):
                raise ValueError(f"--{option.replace('_', '-')} is for a hosted API: name one with --backend")
    if args.max_cost is not None and not 0 < args.max_cost < math.inf:
        raise ValueError(f"--max-cost {args.max_cost}: give more than 0 dollars, or leave it out")
    if args.max_cost is not None and args.runner != LOCAL:
        raise ValueError("--max-cost counts the workers of this machine; other runners have more than it knows of")


def hosted_of(args: argparse.Namespace) -> HostedAnnotator:
    """The API that ``--backend`` names, ready to be asked if the workers are processes of this machine.

    Raises:
        ValueError: its key or its extra is missing, or it has no such model.
    """
    return _ready(args, APIS[args.backend](args, args.model))


def patience_of(args: argparse.Namespace) -> float:
    """Seconds that a row may take for the reason that an API answers when it has the time."""
    return BATCH_DEADLINE_S if args.backend == "cloud-batch" else 0.0


def fallback_of(args: argparse.Namespace, engine: Moondream) -> Annotator:
    """The engine, with the API behind it that ``--fallback`` names, if any."""
    if args.fallback == "none":
        return engine
    model = args.model if args.fallback == "fal" and args.model in MODELS else None
    return Fallback(engine, _ready(args, APIS[args.fallback](args, model)))


def _fal(args: argparse.Namespace, model: str | None) -> Fal:
    return Fal(
        model or MODELS[0],
        price=_fal_price(args.price),
        max_cost=_share(args),
        send_urls=args.send_urls,
        webhook=args.webhook,
        **({"batch_size": args.batch_size} if args.batch_size else {}),
    )


def _cloud(args: argparse.Namespace, model: str | None) -> MoondreamCloud:
    return MoondreamCloud(
        *([model] if model else []),
        prices=_cloud_prices(args.price),
        max_cost=_share(args),
        send_urls=args.send_urls,
    )


def _cloud_batch(args: argparse.Namespace, model: str | None) -> MoondreamCloud:
    return MoondreamCloud(
        *([model] if model else []),
        batch=True,
        **({"batch_size": args.batch_size} if args.batch_size else {}),
        prices=_cloud_prices(args.price),
        max_cost=_share(args),
        send_urls=args.send_urls,
    )


def _fal_price(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"--price {text}: give the dollars that a billable unit costs, such as 0.001") from None


def _cloud_prices(text: str | None) -> tuple[float, float]:
    try:
        into, out = (float(part) for part in text.split("/")) if text else PRICES
    except ValueError:
        raise ValueError(f"--price {text}: give dollars for a million tokens in and out, such as 0.3/1") from None
    return into, out


def _share(args: argparse.Namespace) -> float | None:
    """What one of the processes may spend, rounded down: together they stay below what was allowed."""
    return None if args.max_cost is None else math.floor(args.max_cost / args.workers * 1e9) / 1e9


def _ready(args: argparse.Namespace, hosted: HostedAnnotator) -> HostedAnnotator:
    if args.runner == LOCAL:
        hosted.check()
    return hosted


APIS: dict[str, Callable[[argparse.Namespace, str | None], HostedAnnotator]] = {
    "fal": _fal,
    "cloud": _cloud,
    "cloud-batch": _cloud_batch,
}
