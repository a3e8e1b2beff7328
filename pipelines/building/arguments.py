"""Check the arguments of ``annotate`` and ``estimate`` before Beam and PyTorch are imported, which takes seconds."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ...models.moondream.names import check_device
from ...transforms.output.files import absolute, check_output_path
from ..options.backends.hosted import check_hosted
from ..options.cluster import check_cluster, slice_from
from ..options.job import LOCAL_RUNNER, check_job
from ..options.models import check_batch_size
from ..options.parser import reject_unknown_args
from ..options.tasks import build_sampling
from .inputs import Inputs, build_inputs

_QUOTED_OPTION = re.compile(r"""["'](-[\w-]+)["']""")


def check_annotate(args: argparse.Namespace, others: Sequence[str]) -> Inputs:
    """Check the arguments of ``annotate``, make the path of the output absolute, and return the inputs.

    Not checked are values of Beam's options, and whether the model exists.

    Args:
        others: the arguments that our parser did not understand. Beam's options are accepted.

    Raises:
        ValueError: if an option has a bad value or is unknown, options conflict, or an input has no pictures.
        OSError: if an input cannot be read.
        RuntimeError: if a client for a bucket is not installed.
    """
    slice_from(args)
    check_job(args)
    check_cluster(args)
    if named := [word for word in others if word.startswith("-") and word != "--"]:
        known = beam_option_names()
        reject_unknown_args(args, [word for word in named if word.partition("=")[0] not in known], known)
    args.output = absolute(args.output)
    inputs = _check_answers(args)
    args.output = check_output_path(args.output)
    return inputs


def check_estimate(args: argparse.Namespace) -> Inputs:
    """Check the arguments of ``estimate``, and return the inputs.

    Raises:
        ValueError: as ``check_annotate``, and if ``--sample`` is below 1.
        OSError: if an input cannot be read.
        RuntimeError: if a client for a bucket is not installed.
    """
    # The sample is annotated in this process, because the machines of other runners cannot be measured from here.
    args.runner, args.workers = LOCAL_RUNNER, 1
    if args.sample < 1:
        raise ValueError(f"--sample {args.sample}: give 1 or more")
    return _check_answers(args)


def beam_option_names() -> frozenset[str]:
    """Return the names of Beam's options, such as ``--region``, from the source of the modules that define them.

    The source is read and not imported. It also names words that are no options, which Beam's own parser refuses later.
    """
    spec = find_spec("apache_beam")
    folders = spec.submodule_search_locations if spec else None
    paths = [path for folder in folders or () for path in sorted(Path(folder, "options").glob("*.py"))]
    return frozenset(name for path in paths for name in _QUOTED_OPTION.findall(path.read_text(encoding="utf-8")))


def _check_answers(args: argparse.Namespace) -> Inputs:
    """Check the options that affect answers, and return the inputs."""
    check_hosted(args)
    check_device(args.device)
    check_batch_size(args)
    build_sampling(args)
    return build_inputs(args)
