"""``moondream-beam estimate``: annotate a sample, and say what all of it would take, here and elsewhere."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from ...models.hosted.cloud.protocol import PRICES
from ...transforms.annotation.sample import Sample, SampleResult, measure, read_sample, sample
from ..display.formatting import count, dollars, duration, number, share
from ..local_runner.runner import local_runner
from ..options.inputs import Inputs, add_input_options, inputs_of
from ..options.job import LOCAL_RUNNER
from ..options.models import add_model_options, annotator_of
from ..options.parser import reject_unknown_args, startup_errors
from ..options.tasks import add_sampling_options, add_task_options, sampling_of
from ..prices import (
    CLOUD_BATCH_SHARE,
    CLOUD_PRICES_OF,
    CLOUD_REQUESTS_A_SECOND,
    FAL,
    GPU_PRICES_OF,
    GPUS,
    RATES_OF,
    cloud_usd,
)
from .annotate import threads_of

SAMPLE = 200
HERE, CLOUD = "here", "cloud"
Prices = dict[str, str]


class Offer(NamedTuple):
    """One way to have it all done. ``seconds`` and ``usd`` are None where nobody knows."""

    name: str
    seconds: float | None
    usd: float | None
    note: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command: those of annotate that decide an answer, and its own."""
    add_input_options(parser)
    add_task_options(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    group = parser.add_argument_group("estimate")
    group.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help="pictures to annotate (%(default)s)")
    group.add_argument(
        "--price-of",
        action="append",
        default=[],
        metavar="NAME=USD",
        help=f"dollars an hour of a GPU ({', '.join(GPUS)}) or of this machine ({HERE}), IN/OUT of a million tokens at "
        f"{CLOUD}, or of a request at {FAL}; repeatable",
    )


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: bad arguments, or a device that is not there.
    """
    # An estimate is made in this process; what remote runners have is not known here.
    args.runner, args.workers = LOCAL_RUNNER, 1
    with startup_errors():
        reject_unknown_args(args, others)
        if args.sample < 1:
            raise ValueError(f"--sample {args.sample}: give 1 or more")
        prices = prices_of(args.price_of)
        inputs = inputs_of(args)
        annotator = annotator_of(args, threads_of(args), here=True)
        sampling = sampling_of(args)
        sampled = _choose(inputs, args.sample)
        measured = measure(sampled.refs, inputs.tasks, annotator, sampling, inputs.fetch)
    print("\n".join([*told(sampled, measured), "", *table(offers(sampled, measured, prices)), "", *sources()]))
    return 0


def prices_of(options: Sequence[str]) -> Prices:
    """The prices that were given, by name.

    Raises:
        ValueError: a name is not known, or a price is none.
    """
    prices: Prices = {}
    for option in options:
        name, equals, price = option.partition("=")
        if not equals or name not in (*GPUS, HERE, CLOUD, FAL):
            raise ValueError(f"--price-of {option}: give NAME=USD, of {', '.join((*GPUS, HERE, CLOUD, FAL))}")
        _numbers(name, price)
        prices[name] = price
    return prices


def offers(sampled: Sample, measured: SampleResult, prices: Prices) -> Iterator[Offer]:
    """What it takes here, on GPUs and at hosted APIs."""
    here = measured.start_seconds + sampled.pictures * measured.seconds / measured.pictures
    if measured.usd:
        usd: float | None = measured.usd / measured.pictures * sampled.pictures
    else:
        usd = _an_hour(prices, HERE, None, here)
    yield Offer(f"here, {measured.backend or 'no answer'}", here, usd, "measured")
    answers = measured.rows - measured.failures
    if not answers:
        return
    tokens = measured.output_tokens / answers
    for name, gpu in GPUS.items():
        seconds = gpu.seconds(tokens) * sampled.requests
        yield Offer(name, seconds, _an_hour(prices, name, gpu.usd_per_hour, seconds), "published rate")
    into, *out = _numbers(CLOUD, prices[CLOUD]) if CLOUD in prices else PRICES
    usd = cloud_usd(tokens, (into, out[0])) * sampled.requests
    yield Offer("Moondream Cloud", sampled.requests / CLOUD_REQUESTS_A_SECOND, usd, "at its limit of requests")
    yield Offer("Moondream Cloud, batches", None, CLOUD_BATCH_SHARE * usd, "time is not promised")
    each = float(prices[FAL]) if FAL in prices else None
    yield Offer("fal", None, None if each is None else each * sampled.requests, "" if each else "no published price")


def told(sampled: Sample, measured: SampleResult) -> list[str]:
    """What the sample was, and what came of it."""
    answers = measured.rows - measured.failures
    return [
        f"sample   {count(measured.pictures)} of {count(sampled.pictures)} pictures, {count(measured.rows)} of "
        f"{count(sampled.requests)} requests, in {number(measured.seconds)} s after {number(measured.start_seconds)} s "
        "to start",
        f"pace     {number(measured.pictures / measured.seconds)} pictures a second",
        f"answers  {number(measured.output_tokens / max(1, answers))} tokens out and "
        f"{number(measured.input_tokens / max(1, answers))} in, {share(measured.failures, measured.rows)} errors",
    ]


def table(offers: Iterator[Offer]) -> Iterator[str]:
    """A line for each offer, in columns."""
    lines = [("", "time", "money", "")]
    for offer in offers:
        seconds = "?" if offer.seconds is None else duration(offer.seconds)
        usd = "?" if offer.usd is None else dollars(offer.usd)
        lines.append((offer.name, seconds, usd, offer.note))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for name, seconds, usd, note in lines:
        yield f"{name:<{widths[0]}}  {seconds:>{widths[1]}}  {usd:>{widths[2]}}  {note}".rstrip()


def sources() -> list[str]:
    """Where the numbers that were not measured come from."""
    return [
        f"Rates of GPUs: {RATES_OF}. One GPU; none was measured with this package.",
        f"Prices: {GPU_PRICES_OF}, {CLOUD_PRICES_OF}; other prices: --price-of.",
    ]


def _choose(inputs: Inputs, size: int) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        pipeline = beam.Pipeline(local_runner(PipelineOptions([]), 1), options=PipelineOptions([]))
        sample(inputs.read(pipeline), inputs.tasks, size, Path(folder))
        pipeline.run().wait_until_finish()
        return read_sample(Path(folder))


def _an_hour(prices: Prices, name: str, usual: float | None, seconds: float) -> float | None:
    an_hour = float(prices[name]) if name in prices else usual
    return None if an_hour is None else an_hour * seconds / 3600


def _numbers(name: str, price: str) -> list[float]:
    try:
        numbers = [float(part) for part in price.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) != (2 if name == CLOUD else 1) or not all(0 <= value < float("inf") for value in numbers):
        raise ValueError(f"--price-of {name}={price}: give dollars, such as {'0.3/1' if name == CLOUD else '1.2'}")
    return numbers
