"""The model on the command line: which one answers, where, in which precision, and for how much money."""

from __future__ import annotations

import argparse

from ...models.moondream.annotator import Moondream
from ...models.moondream.checkpoints.hub import OFFICIAL
from ...models.moondream.devices import DTYPES
from ...models.tasks import Annotator
from .hosted import add_hosted_options, check_hosted, fallback_of, hosted_of


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, where and in which precision; and hosted APIs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        help="a repository on the Hugging Face hub, a folder of weights here or in a bucket, one .safetensors, 'tiny' "
        f"(embedded, knows shapes only), or an API's model ({OFFICIAL}; at Moondream Cloud, its own)",
    )
    group.add_argument(
        "--revision",
        help="branch, tag or commit on the hub; of other weights, the release that they are, as 2025-01-09",
    )
    group.add_argument("--tokenizer", metavar="PATH", help="a tokenizer.json, or a folder with one (the model's own)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    group.add_argument("--dtype", default="auto", choices=("auto", *DTYPES), help="precision (%(default)s)")
    group.add_argument("--batch-size", type=int, metavar="N", help="requests answered at once (by memory)")
    add_hosted_options(parser)


def annotator_of(args: argparse.Namespace, threads: int | None, *, here: bool) -> Annotator:
    """The annotator that the options ask for, with so many CPU threads a process (None: as many as there are).

    ``here``: it will run on this machine, so that its weights may as well be fetched before anything starts.

    Raises:
        ValueError: there is no such model, an option makes no sense, or an API's key or extra is missing.
        RuntimeError: the weights can't be fetched.
    """
    check_hosted(args)
    if args.backend != "local":
        return hosted_of(args)
    engine = Moondream(
        args.model or OFFICIAL,
        args.revision,
        args.tokenizer,
        device=args.device,
        dtype=args.dtype,
        batch_size=args.batch_size,
        threads=threads,
    )
    # Where an API stands in, weights that can't be had are no reason not to start.
    if here and args.fallback == "none":
        engine.fetch()
    return fallback_of(args, engine)
