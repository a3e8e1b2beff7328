"""The annotator that the options name: the engine on this machine, a hosted API, or both."""

from __future__ import annotations

import argparse

from ...models.moondream.annotator import Moondream
from ...models.moondream.names import OFFICIAL
from ...models.tasks import Annotator
from ..local_runner.gpus import choose_gpus
from ..options.backends.hosted import check_hosted
from ..options.backends.transformers import TRANSFORMERS, transformers_options
from .hosted import build_hosted, with_fallback


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
    if args.backend == TRANSFORMERS:
        return _build_transformers(args, threads, here)
    if args.backend != "local":
        return build_hosted(args)
    engine = Moondream(
        args.model or OFFICIAL,
        args.revision,
        args.tokenizer,
        device=_device(args, here),
        dtype=args.dtype,
        batch_size=args.batch_size,
        threads=threads,
        graphs=args.graphs,
    )
    # With a fallback, the API answers if the weights cannot be downloaded.
    if here and args.fallback == "none":
        # Several workers check their own devices: a check here would take memory of the first GPU.
        if args.workers == 1:
            engine.check_memory()
        engine.fetch()
    return with_fallback(args, engine)


def _device(args: argparse.Namespace, here: bool) -> str:
    """Return the device of each process. A process with a GPU of its own must not use a CPU if the GPU is gone."""
    return "cuda" if here and choose_gpus(args) else str(args.device)


def _build_transformers(args: argparse.Namespace, threads: int | None, here: bool) -> Annotator:
    """Return the annotator of ``--backend transformers``. If the workers run on this machine, check and fetch it."""
    # It imports the client of the hub, which takes 0.2 seconds.
    from ...models.transformers.annotator import TransformersModel

    options = {**transformers_options(args), "device": _device(args, here)}
    model = TransformersModel(args.model, args.revision, threads=threads, **options)
    if here:
        model.check()
        model.fetch()
    return model
