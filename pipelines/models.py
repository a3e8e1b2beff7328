"""The model on the command line: which one answers, where, in which precision, and for how much money."""

from __future__ import annotations

import argparse

from ..models.moondream.annotator import Moondream
from ..models.moondream.devices import DTYPES
from ..models.tasks import Annotator
from .hosted import add_hosted_options, check_hosted, fallback_of, hosted_of


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--device``, ``--dtype`` and ``--batch-size``, and those of hosted APIs."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="'tiny' (embedded, knows shapes only), a folder of weights, or an API's model")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    group.add_argument("--dtype", default="auto", choices=("auto", *DTYPES), help="precision (%(default)s)")
    group.add_argument("--batch-size", type=int, metavar="N", help="requests answered at once (by memory)")
    add_hosted_options(parser)


def annotator_of(args: argparse.Namespace, threads: int | None) -> Annotator:
    """The annotator that the options ask for, with so many CPU threads a process (None: as many as there are).

    Raises:
        ValueError: there is no such model, an option makes no sense, or an API's key or extra is missing.
    """
    check_hosted(args)
    if args.backend != "local":
        return hosted_of(args)
    if args.model is None:
        raise ValueError("--model: give 'tiny' or a folder of weights")
    engine = Moondream(args.model, device=args.device, dtype=args.dtype, batch_size=args.batch_size, threads=threads)
    return fallback_of(args, engine)
