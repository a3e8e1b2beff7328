"""``moondream-beam estimate``: annotate a sample, and estimate the time and the cost of the whole input."""

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
from ..building.inputs import Inputs
from ..building.models import build_annotator
from ..building.pipeline import read_inputs
from ..display.formatting import format_count, format_duration, format_number, format_percent, format_table, format_usd
from ..local_runner.runner import local_runner
from ..options.backends.hosted import LOCAL
from ..options.backends.openai import OPENAI
from ..options.backends.transformers import TRANSFORMERS
from ..options.commands import CLOUD, FAL, HERE
from ..options.parser import startup_errors
from ..options.tasks import build_sampling
from .annotate import threads_per_worker
from .prices import CLOUD_BATCH_SHARE, CLOUD_PRICES_SOURCE, CLOUD_REQUESTS_PER_S, cloud_usd

PRICE_EXAMPLES = {HERE: "1.2", CLOUD: "0.3/1", FAL: "0.001"}
Prices = dict[str, list[float]]


class Estimate(NamedTuple):
    """The time and the cost of the whole input in one place. ``seconds`` or ``usd`` is None if it is not known."""

    name: str
    seconds: float | None
    usd: float | None
    note: str = ""


def run(args: argparse.Namespace, inputs: Inputs) -> int:
    """Run the command, print the estimates, and return 0.

    Args:
        inputs: what ``check_estimate`` returned for ``args``.

    Raises:
        StartupError: if a price is bad, or the model cannot be loaded.
    """
    with startup_errors():
        prices = parse_prices(args.price_of)
        annotator = build_annotator(args, threads_per_worker(args), here=True)
        sampling = build_sampling(args)
        sampled = _draw_sample(inputs, args.sample)
        how = (sampling, inputs.fetch, inputs.colour_profiles)
        measured = measure(sampled.refs, inputs.tasks, annotator, *how)
    table = format_estimates(list_estimates(sampled, measured, prices))
    source = f"Prices of Moondream Cloud: {CLOUD_PRICES_SOURCE}. To use other prices, give --price-of."
    print("\n".join([*format_sample(sampled, measured), "", *table, "", source]))
    return 0


def parse_prices(options: Sequence[str]) -> Prices:
    """Return the prices of ``--price-of`` by name: one number each, and two for ``cloud`` (tokens in, tokens out).

    Raises:
        ValueError: if an option is not NAME=USD with a known name and dollars of 0 or more.
    """
    prices: Prices = {}
    for option in options:
        name, _, price = option.partition("=")
        if name not in PRICE_EXAMPLES:
            raise ValueError(f"--price-of {option}: give NAME=USD with a NAME of {', '.join(PRICE_EXAMPLES)}")
        try:
            numbers = [float(part) for part in price.split("/")]
        except ValueError:
            numbers = []
        if len(numbers) != (2 if name == CLOUD else 1) or not all(0 <= value < float("inf") for value in numbers):
            raise ValueError(f"--price-of {option}: give dollars, such as {name}={PRICE_EXAMPLES[name]}")
        prices[name] = numbers
    return prices


def list_estimates(sampled: Sample, measured: SampleResult, prices: Prices) -> Iterator[Estimate]:
    """Yield the estimate for what answered the sample, then those for the hosted APIs.

    If no request of the sample was answered, yield only the first, because the length of answers is not known.
    """
    seconds = measured.start_seconds + sampled.pictures * measured.seconds / measured.pictures
    usd: float | None = None
    if measured.usd:
        usd = measured.usd / measured.pictures * sampled.pictures
    elif HERE in prices:
        usd = prices[HERE][0] * seconds / 3600
    is_local = not measured.backend or measured.backend.startswith((LOCAL, TRANSFORMERS))
    name = f"here, {measured.backend or 'no answer'}" if is_local else measured.backend
    is_free_server = usd is None and measured.backend.startswith(OPENAI)
    note = "measured; if this server is paid, give --price IN/OUT" if is_free_server else "measured"
    yield Estimate(name, seconds, usd, note)
    answers = measured.rows - measured.failures
    if not answers:
        return
    into, out = prices.get(CLOUD, PRICES)
    usd = cloud_usd(measured.output_tokens / answers, (into, out)) * sampled.requests
    yield Estimate("Moondream Cloud", sampled.requests / CLOUD_REQUESTS_PER_S, usd, "time at the API's rate limit")
    yield Estimate("Moondream Cloud, batches", None, CLOUD_BATCH_SHARE * usd, "the API promises no time")
    each = prices[FAL][0] if FAL in prices else None
    note = "" if each else f"no published price; give --price-of {FAL}=USD"
    yield Estimate("fal", None, None if each is None else each * sampled.requests, note)


def format_sample(sampled: Sample, measured: SampleResult) -> list[str]:
    """Return lines about the sample: its size, its pace, and its tokens and errors."""
    answers = measured.rows - measured.failures
    pictures = f"{format_count(measured.pictures)} of {format_count(sampled.pictures)} pictures"
    requests = f"{format_count(measured.rows)} of {format_count(sampled.requests)} requests"
    return [
        f"sample   {pictures}, {requests}, in {format_number(measured.seconds)} s after "
        f"{format_number(measured.start_seconds)} s to start",
        f"pace     {format_number(measured.pictures / measured.seconds)} pictures a second",
        f"answers  {format_number(measured.output_tokens / max(1, answers))} tokens out and "
        f"{format_number(measured.input_tokens / max(1, answers))} in (means), "
        f"{format_percent(measured.failures, measured.rows)} errors",
    ]


def format_estimates(estimates: Iterator[Estimate]) -> Iterator[str]:
    """Return a header and one line for each estimate, in columns. What is not known is a question mark."""
    lines = [("", "time", "cost", "")]
    for estimate in estimates:
        seconds = "?" if estimate.seconds is None else format_duration(estimate.seconds)
        usd = "?" if estimate.usd is None else format_usd(estimate.usd)
        lines.append((estimate.name, seconds, usd, estimate.note))
    return format_table(lines, right=(1, 2))


def _draw_sample(inputs: Inputs, size: int) -> Sample:
    """Return ``size`` pictures of the input, with the numbers of all its pictures and requests."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = beam.Pipeline(local_runner(PipelineOptions([]), 1), options=PipelineOptions([]))
        sample(read_inputs(pipeline, inputs), inputs.tasks, size, Path(folder))
        pipeline.run().wait_until_finish()
        return read_sample(Path(folder))
