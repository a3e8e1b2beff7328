"""Options for the model: its checkpoint, device and precision, or a hosted API."""

from __future__ import annotations

import argparse

from ...models.moondream.annotator import Moondream
from ...models.moondream.checkpoints.hub import OFFICIAL
from ...models.moondream.devices import DTYPES
from ...models.tasks import Annotator
from .backends.hosted import add_hosted_options, build_hosted, check_hosted, with_fallback


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
        "--dtype", default="auto", choices=("auto", *DTYPES), help="precision of the weights (default: %(default)s)"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="number of requests in one batch (default: as many as memory holds; fal: 16; cloud-batch: 1000), or in "
        "flight at a vision server (default: 32)",
    )
    add_hosted_options(parser)


def build_annotator(args: argparse.Namespace, threads: int | None, *, here: bool) -> Annotator:
    """Return the annotator that ``--backend`` and ``--model`` name: an API, or the engine, with or without fallback.

    Args:
        threads: CPU threads for each process; None: as many as PyTorch chooses.
        here: the workers run on this machine. The weights are then downloaded now, unless there is a fallback.

    Raises:
        ValueError: if the model does not exist, an option has a bad value, or an API's key or extra is missing.
        RuntimeError: if the weights cannot be downloaded, or do not fit into the memory of this machine's device.
    """
    check_hosted(args)
    if args.backend != "local":
        return build_hosted(args)
    engine = Moondream(
        args.model or OFFICIAL,
        args.revision,
        args.tokenizer,
        device=args.device,
        dtype=args.dtype,
        batch_size=args.batch_size,
        threads=threads,
    )
    # With a fallback, the API answers if the weights cannot be downloaded.
    if here and args.fallback == "none":
        # Several workers check their own devices: a check here would take memory of the first GPU.
        if args.workers == 1:
            engine.check_memory()
        engine.fetch()
    return with_fallback(args, engine)
