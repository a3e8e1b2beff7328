"""Options for the model: its checkpoint, device and precision, or a hosted API."""

from __future__ import annotations

import argparse

from ...models.moondream.names import DTYPE_NAMES, OFFICIAL
from .backends.hosted import add_hosted_options


def check_batch_size(args: argparse.Namespace) -> None:
    """Check ``--batch-size``.

    Raises:
        ValueError: if it is below 1.
    """
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size}: give 1 or more")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the engine, from ``--model`` to ``--batch-size``, and those of hosted APIs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        help="name on the Hugging Face hub, folder of weights on disk or in a bucket, .safetensors file, 'tiny' "
        f"(embedded, knows drawn shapes only), or the API's name of a model (default: {OFFICIAL}, or the API's model)",
    )
    group.add_argument(
        "--revision",
        help="branch, tag or commit on the hub; for other weights, the release of Moondream 2, such as 2025-01-09; for "
        "a vision server, the version that the rows name",
    )
    group.add_argument(
        "--tokenizer", metavar="PATH", help="tokenizer.json, or a folder that contains it (default: the model's own)"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", *DTYPE_NAMES),
        help="precision of the weights (default: %(default)s)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="number of requests in one batch (default: as many as memory holds; transformers: 8; fal: 16; "
        "cloud-batch: 1000), or in flight at a vision server (default: 32)",
    )
    group.add_argument(
        "--no-graphs",
        dest="graphs",
        action="store_false",
        help="on a CUDA device, do not replay steps as CUDA graphs; the column backend then ends in /no-graphs",
    )
    add_hosted_options(parser)
