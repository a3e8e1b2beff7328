"""``moondream-beam estimate``."""

from __future__ import annotations

import pytest

from moondream_beam.pipelines.commands.estimate import format_estimates, list_estimates, parse_prices
from moondream_beam.pipelines.commands.prices import cloud_usd
from moondream_beam.transforms.annotation.sample import Sample, SampleResult

MEASURED = SampleResult(200, 400, 4, 5.0, 20.0, 396 * 730, 396 * 30, 0.0, "local/cpu/float32")
SAMPLED = Sample([], 1_000_000, 2_000_000)


def estimated(measured=MEASURED, **prices):
    """Return the estimates by name; ``prices`` are values of --price-of."""
    parsed = parse_prices([f"{name}={price}" for name, price in prices.items()])
    return {estimate.name: estimate for estimate in list_estimates(SAMPLED, measured, parsed)}


def test_time_here_is_the_start_and_the_pace_of_the_sample():
    here = estimated()["here, local/cpu/float32"]
    assert (here.seconds, here.usd) == (5 + 100_000, None)
    assert estimated(here="0.36")["here, local/cpu/float32"].usd == pytest.approx(10.0005)


def test_a_bill_of_the_sample_is_scaled():
    assert estimated(MEASURED._replace(usd=0.1))["here, local/cpu/float32"].usd == pytest.approx(500)


def test_a_server_without_prices_asks_for_them_and_a_model_of_transformers_is_here():
    server = "openai/llama.cpp/qwen"
    free, paid = (estimated(MEASURED._replace(usd=usd, backend=server))[server] for usd in (0.0, 0.1))
    assert (free.usd, free.note) == (None, "measured; if this server is paid, give --price IN/OUT")
    assert (paid.usd, paid.note) == (pytest.approx(500), "measured")
    assert "here, transformers/cpu/float32" in estimated(MEASURED._replace(backend="transformers/cpu/float32"))


def test_an_api_is_estimated_by_its_prices():
    assert cloud_usd(100) == pytest.approx(1500 * 0.3e-6 + 100e-6)
    assert estimated()["Moondream Cloud"].usd == pytest.approx(2_000_000 * cloud_usd(30))
    assert estimated(cloud="0/2")["Moondream Cloud"].usd == pytest.approx(120)
    assert estimated(cloud="0/2")["Moondream Cloud, batches"].usd == pytest.approx(60)
    assert estimated()["fal"].usd is None and estimated(fal="0.001")["fal"].usd == pytest.approx(2000)


def test_without_an_answer_there_is_no_estimate_for_an_api():
    assert list(estimated(MEASURED._replace(failures=400, backend=""))) == ["here, no answer"]


def test_estimates_are_in_columns():
    lines = list(format_estimates(list_estimates(SAMPLED, MEASURED, {})))
    assert lines[1].split("  ")[0] == "here, local/cpu/float32" and lines[1].endswith(" 1 d 3 h        ?  measured")
    assert lines[2].startswith("Moondream Cloud  ") and lines[2].endswith("  time at the API's rate limit")
    assert lines[4].endswith(" ?  no published price; give --price-of fal=USD")


def test_the_command_measures_a_sample_and_prints_estimates(pictures, command):
    words = ("estimate", pictures, "--model", "tiny", "--caption", "short", "--sample", "3", "--price-of", "here=1")
    status, stdout, stderr = command(*words)
    assert status == 0 and stderr.startswith("batch size ") and stderr.count("\n") == 1
    assert stdout.startswith("sample   3 of 5 pictures, 3 of 5 requests, in ")
    assert "\nhere, local/cpu/float32  " in stdout and "moondream.ai/pricing of 2026-10-07" in stdout
    assert {path.name for path in pictures.parent.iterdir()} == {"pictures"}


@pytest.mark.parametrize(
    "words, cure",
    [
        (("--sample", "0"), "give 1 or more"),
        (("--price-of", "H100=1"), "--price-of H100=1: give NAME=USD with a NAME of here, cloud, fal"),
        (("--price-of", "cheap"), "give NAME=USD"),
        (("--price-of", "here"), "give dollars, such as here=1.2"),
        (("--price-of", "fal=cheap"), "--price-of fal=cheap: give dollars, such as fal=0.001"),
        (("--price-of", "cloud=1"), "such as cloud=0.3/1"),
        (("--price-of", "here=nan"), "give dollars"),
        (("--runner", "DataflowRunner"), "unknown option --runner"),
        (("--device", "abacus"), "choose auto"),
    ],
)
def test_a_bad_argument_is_one_line_of_error(words, cure, pictures, command):
    status, stdout, stderr = command("estimate", pictures, "--model", "tiny", "--caption", *words)
    assert status == 2 and stdout == "" and cure in stderr.splitlines()[-1] and "Traceback" not in stderr


def test_prices_are_parsed_by_name():
    assert parse_prices(["here=2", "cloud=0.3/1"]) == {"here": [2.0], "cloud": [0.3, 1.0]}
