"""Options for hosted APIs: which API answers, how much it may cost, and what is sent to it."""

from __future__ import annotations

import argparse
import math

from ....models.hosted.cloud.protocol import BATCH_DEADLINE_S, PRICES
from ....transforms.core.records import IGNORE_PROFILES
from .openai import OPENAI, add_openai_options, check_openai
from .transformers import TRANSFORMERS, add_transformers_options, check_transformers

LOCAL = "local"
FALLBACKS = ("fal", "cloud", OPENAI)
# ``cloud-batch`` is no fallback, because its answers take hours.
BACKENDS = (*FALLBACKS, "cloud-batch")
HOSTED_OPTIONS = ("max_cost", "price", "send_urls", "webhook")


def add_hosted_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--backend``, ``--fallback`` and the options of hosted APIs and vision servers."""
    group = parser.add_argument_group("hosted APIs", "they may cost money, and are used only if named here")
    group.add_argument(
        "--backend",
        default=LOCAL,
        choices=(LOCAL, TRANSFORMERS, *BACKENDS),
        help="what answers: the local engine, another model on this machine by transformers, a hosted API, or the "
        "vision server of --base-url (default: %(default)s)",
    )
    group.add_argument(
        "--fallback",
        choices=("none", *FALLBACKS),
        default="none",
        help="API that answers if there is no accelerator, the model cannot be loaded, or a request fails (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--max-cost", type=float, metavar="USD", help="limit in dollars for this run on this machine (default: none)"
    )
    group.add_argument(
        "--price",
        metavar="USD",
        help="price in dollars: of a billable unit at fal (default: unknown), or IN/OUT for a million tokens at "
        f"Moondream Cloud (default: {PRICES[0]}/{PRICES[1]}) or a vision server (default: free)",
    )
    group.add_argument(
        "--send-urls", action="store_true", help="send public http(s) URLs to the API instead of the pictures"
    )
    group.add_argument("--webhook", metavar="URL", help="URL that fal also notifies of each job")
    add_openai_options(parser)
    add_transformers_options(parser)


def check_hosted(args: argparse.Namespace) -> None:
    """Check the options of hosted APIs.

    Raises:
        ValueError: if they conflict with each other or with ``--runner``, or ``--max-cost`` is out of range.
    """
    if args.backend != LOCAL and args.fallback != "none":
        raise ValueError(f"--fallback {args.fallback} needs --backend {LOCAL}: leave out one of the two")
    if args.backend == LOCAL and args.fallback == "none":
        for option in HOSTED_OPTIONS:
            if getattr(args, option):
                raise ValueError(f"--{option.replace('_', '-')} is for a hosted API: name one with --backend")
    check_openai(args)
    check_transformers(args)
    if args.send_urls and args.colour_profiles != IGNORE_PROFILES:
        raise ValueError(
            f"--send-urls: an API that fetches pictures by URL ignores --colour-profiles {args.colour_profiles}: leave "
            "out one of the two"
        )
    if args.max_cost is not None and not 0 < args.max_cost < math.inf:
        raise ValueError(f"--max-cost {args.max_cost}: give more than 0 dollars, or leave it out")
    if args.max_cost is not None and args.runner != LOCAL:
        raise ValueError(
            f"--max-cost needs --runner {LOCAL}, because the workers of --runner {args.runner} cannot share a budget: "
            "leave it out"
        )


def extra_row_s(args: argparse.Namespace) -> float:
    """Return the seconds that a row may take beyond the usual limits: the deadline of a batch, or 0."""
    return BATCH_DEADLINE_S if args.backend == "cloud-batch" else 0.0
