"""Options of ``--backend transformers``, and those that it shares with vision servers."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from ....models.hosted.openai.annotator import MAX_PIXELS
from ....models.tasks import Length
from ....models.transformers.prompts import PLACEHOLDER
from .openai import OPENAI

TRANSFORMERS = "transformers"
SHARED_OPTIONS = ("max_pixels", "caption_prompt")


def add_transformers_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-pixels``, ``--caption-prompt`` and ``--prompt-template``."""
    group = parser.add_argument_group("other models", f"for --backend {OPENAI} and --backend {TRANSFORMERS}")
    group.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help=f"scale larger pictures down to about N pixels for the model (default: {MAX_PIXELS})",
    )
    group.add_argument(
        "--caption-prompt",
        action="append",
        type=_caption_prompt,
        metavar="LENGTH=TEXT",
        help=f"text that asks for captions of a length ({', '.join(get_args(Length))}); repeatable",
    )
    group.add_argument(
        "--prompt-template",
        metavar="TEXT",
        help=f"text with {PLACEHOLDER} and the model's mark of the picture, in place of the model's chat template, for "
        f"--backend {TRANSFORMERS}",
    )


def check_transformers(args: argparse.Namespace) -> None:
    """Check the options of models of transformers.

    Raises:
        ValueError: if ``--model`` is missing, or an option does not belong to the backend.
    """
    if args.backend != TRANSFORMERS and OPENAI not in (args.backend, args.fallback):
        for option in SHARED_OPTIONS:
            if getattr(args, option) is not None:
                raise ValueError(f"{_flag(option)} is for other models: add --backend {OPENAI}, or {TRANSFORMERS}")
    if args.backend != TRANSFORMERS:
        if args.prompt_template is not None:
            raise ValueError(f"--prompt-template is for models of transformers: add --backend {TRANSFORMERS}")
        return
    if not args.model:
        raise ValueError(f"--backend {TRANSFORMERS} needs a model: add --model with a folder, or OWNER/NAME on the hub")
    for option in ("max_cost", "price", "send_urls", "webhook", "tokenizer"):
        if getattr(args, option):
            raise ValueError(f"{_flag(option)} is not for --backend {TRANSFORMERS}: leave it out")


def transformers_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``TransformersModel`` that the options give."""
    options = {"batch_size": args.batch_size, "max_pixels": args.max_pixels, "prompt_template": args.prompt_template}
    given = {name: value for name, value in options.items() if value is not None}
    return {**given, "caption_prompts": dict(args.caption_prompt or ()), "device": args.device, "dtype": args.dtype}


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _caption_prompt(text: str) -> tuple[str, str]:
    """Return the length and the text of ``LENGTH=TEXT``."""
    length, equals, prompt = text.partition("=")
    if length not in get_args(Length) or not equals or not prompt.strip():
        raise argparse.ArgumentTypeError(f"{text}: give LENGTH=TEXT with a LENGTH of {', '.join(get_args(Length))}")
    return length, prompt
