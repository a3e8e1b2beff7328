"""Options for vision servers that speak OpenAI's chat completions: ``--base-url`` and what belongs to it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ....models.hosted.openai.annotator import KEY_VARIABLE, TIMEOUT_S, OpenAIServer
from ....models.tasks import DEFAULT_SAMPLING

OPENAI = "openai"
OPENAI_OPTIONS = ("base_url", "api_key_env", "request_timeout")


def add_openai_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``--backend openai``, from ``--base-url`` to ``--request-timeout``."""
    group = parser.add_argument_group(
        "vision servers", "vLLM, SGLang, llama.cpp, Ollama, LM Studio, OpenRouter and others, for --backend openai"
    )
    group.add_argument(
        "--base-url",
        action="append",
        metavar="URL",
        help="URL of the server, such as http://localhost:8000/v1; repeat it for servers that share the load",
    )
    group.add_argument(
        "--api-key-env",
        metavar="NAME",
        help=f"environment variable with the server's API key (default: {KEY_VARIABLE}, if it is set)",
    )
    group.add_argument(
        "--request-timeout",
        type=float,
        metavar="SECONDS",
        help=f"time limit of a request, with the time in the server's queue (default: {TIMEOUT_S:g})",
    )


def check_openai(args: argparse.Namespace) -> None:
    """Check the options of vision servers.

    Raises:
        ValueError: if ``--base-url`` is missing, or an option does not belong to the backend.
    """
    if OPENAI not in (args.backend, args.fallback):
        for option in OPENAI_OPTIONS:
            if getattr(args, option) is not None:
                raise ValueError(f"--{option.replace('_', '-')} is for a vision server: add --backend {OPENAI}")
        return
    name = "backend" if args.backend == OPENAI else "fallback"
    if not args.base_url:
        raise ValueError(
            f"--{name} {OPENAI} needs the URL of a server: add --base-url, such as http://localhost:8000/v1"
        )
    for option in ("send_urls", "webhook"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} is not for --{name} {OPENAI}: leave it out")


def build_openai(args: argparse.Namespace, model: str | None, max_cost: float | None) -> OpenAIServer:
    """Return the annotator of a vision server. If the workers run on this machine, ask the server for a probe.

    Args:
        model: the server's name of the model; None to ask the server.
        max_cost: dollars that a process may spend.

    Raises:
        ValueError: if an option has a bad value, the key is missing, or the server is not fit for the job.
    """
    options: dict[str, Any] = {
        "max_pixels": args.max_pixels,
        "timeout_s": args.request_timeout,
        "concurrency": args.batch_size,
    }
    given = {name: value for name, value in options.items() if value is not None}
    server = OpenAIServer(
        args.base_url,
        model,
        revision=args.revision if args.backend == OPENAI else None,
        api_key_env=args.api_key_env,
        caption_prompts=dict(args.caption_prompt or ()),
        prices=parse_prices(args.price),
        max_cost=max_cost,
        **given,
    )
    if args.runner == "local":
        server.check()
        check_penalty(server, args.repetition_penalty)
        server.check_servers()
    return server


def check_penalty(server: OpenAIServer, penalty: float) -> None:
    """Raise ValueError if a repetition penalty other than 1 is given, and this kind of server has none."""
    if penalty != DEFAULT_SAMPLING.repetition_penalty and not server.has_penalty():
        raise ValueError(
            f"--repetition-penalty {penalty}: {server.base_urls[0]} is of kind {server.discover().kind}, which has no "
            "such option: leave it out"
        )


def parse_prices(text: str | None) -> tuple[float, float] | None:
    """Return the prices of ``--price IN/OUT``; None if the option is not given.

    Raises:
        ValueError: if the text is not two numbers with a slash between them.
    """
    try:
        numbers: Sequence[float] | None = None if text is None else [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if numbers is None:
        return None
    if len(numbers) != 2:
        raise ValueError(f"--price {text}: give the dollars of a million tokens in and out, such as 0.3/1")
    return numbers[0], numbers[1]


def start_line(args: argparse.Namespace) -> str:
    """Return the line that says, at the start of a run, which servers answer and what that costs."""
    cost = "costs money" if args.price else "is not billed, because --price is not given"
    return f"{', '.join(args.base_url)} answers, gets the pictures, and {cost}; rows go to {args.output}"
