"""The model on the command line: which one answers, where, and in which precision."""

from __future__ import annotations

import argparse

from ..models.moondream.annotator import Moondream
from ..models.moondream.devices import DTYPES
from ..models.tasks import Annotator


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--device``, ``--dtype`` and ``--batch-size``."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", required=True, help="'tiny' (embedded, knows shapes only) or a folder of weights")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    group.add_argument("--dtype", default="auto", choices=("auto", *DTYPES), help="precision (%(default)s)")
    group.add_argument("--batch-size", type=int, metavar="N", help="requests answered at once (by memory)")


def annotator_of(args: argparse.Namespace, threads: int | None) -> Annotator:
    """The annotator that the options ask for, with so many CPU threads a process (None: as many as there are).

    Raises:
        ValueError: there is no such model, or an option makes no sense.
    """
    return Moondream(args.model, device=args.device, dtype=args.dtype, batch_size=args.batch_size, threads=threads)
