"""``moondream-beam estimate``."""

from __future__ import annotations

import pytest

from moondream_beam.pipelines.commands.estimate import offers, prices_of, table
from moondream_beam.pipelines.prices import GPUS, LONG_TOKENS, SHORT_TOKENS, cloud_usd
from moondream_beam.transforms.annotation.sample import Sample, SampleResult

MEASURED = SampleResult(200, 400, 4, 5.0, 20.0, 396 * 730, 396 * 30, 0.0, "local/cpu/float32")
SAMPLED = Sample([], 1_000_000, 2_000_000)


def offered(measured=MEASURED, **prices):
    return {offer.name: offer for offer in offers(SAMPLED, measured, prices)}


def test_time_here_is_the_start_and_the_pace_of_the_sample():
    here = offered()["here, local/cpu/float32"]
    assert (here.seconds, here.usd) == (5 + 100_000, None)
    assert offered(here="0.36")["here, local/cpu/float32"].usd == pytest.approx(10.0005)


def test_a_bill_of_the_sample_is_scaled():
    assert offered(MEASURED._replace(usd=0.1))["here, local/cpu/float32"].usd == pytest.approx(500)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_a_rate_goes_through_both_that_were_published(gpu):
    assert gpu.seconds(SHORT_TOKENS) == pytest.approx(1 / gpu.short)
    assert gpu.seconds(LONG_TOKENS) == pytest.approx(1 / gpu.long)
    assert 1 / gpu.short < gpu.seconds(10) < 1 / gpu.long < gpu.seconds(256)


def test_a_gpu_takes_time_by_the_tokens_of_the_sample_and_money_by_the_hour():
    h100 = offered()["H100"]
    assert h100.seconds == pytest.approx(2_000_000 / 48.44) and h100.usd == pytest.approx(h100.seconds / 3600 * 3.49)
    assert offered(H100="1")["H100"].usd == pytest.approx(h100.seconds / 3600)
    assert offered()["L4"].usd is None


def test_an_api_is_paid_by_its_prices():
    assert cloud_usd(100) == pytest.approx(1500 * 0.3e-6 + 100e-6)
    assert offered()["Moondream Cloud"].usd == pytest.approx(2_000_000 * cloud_usd(30))
    assert offered(cloud="0/2")["Moondream Cloud"].usd == pytest.approx(120)
    assert offered(cloud="0/2")["Moondream Cloud, batches"].usd == pytest.approx(60)
    assert offered()["fal"].usd is None and offered(fal="0.001")["fal"].usd == pytest.approx(2000)


def test_where_nothing_was_answered_nothing_is_said_of_others():
    assert list(offered(MEASURED._replace(failures=400, backend=""))) == ["here, no answer"]


def test_offers_stand_in_columns():
    lines = list(table(offers(SAMPLED, MEASURED, {})))
    assert lines[1].split("  ")[0] == "here, local/cpu/float32" and lines[1].endswith(" 1 d 3 h        ?  measured")
    assert len({line.index("  published") for line in lines if "published rate" in line}) == 1


def test_the_command_measures_and_tells(pictures, command):
    words = ("estimate", pictures, "--model", "tiny", "--caption", "short", "--sample", "3", "--price-of", "here=1")
    status, said, complained = command(*words)
    assert (status, complained) == (0, "")
    assert said.startswith("sample   3 of 5 pictures, 3 of 5 requests, in ")
    assert "H100" in said and "@ 0fbba06" in said and "runpod.io/pricing of 2026-10-07" in said
    assert {path.name for path in pictures.parent.iterdir()} == {"pictures"}


@pytest.mark.parametrize(
    "words, cure",
    [
        (("--sample", "0"), "give 1 or more"),
        (("--price-of", "H101=1"), "of B200, H100"),
        (("--price-of", "H100"), "give NAME=USD"),
        (("--price-of", "H100=cheap"), "give dollars, such as 1.2"),
        (("--price-of", "cloud=1"), "such as 0.3/1"),
        (("--price-of", "here=nan"), "give dollars"),
        (("--runner", "DataflowRunner"), "unknown option --runner"),
        (("--device", "abacus"), "choose auto"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(words, cure, pictures, command):
    status, said, complained = command("estimate", pictures, "--model", "tiny", "--caption", *words)
    assert status == 2 and said == "" and cure in complained.splitlines()[-1] and "Traceback" not in complained


def test_prices_are_taken_as_they_are_given():
    assert prices_of(["H100=2", "cloud=0.3/1"]) == {"H100": "2", "cloud": "0.3/1"}
