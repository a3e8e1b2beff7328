"""Which words are options of Beam is known without importing Beam."""

from __future__ import annotations

import argparse

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam.pipelines.building.arguments import is_beam_option


def test_every_option_of_beam_is_recognized() -> None:
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    options = {option for action in parsers[0]._actions for option in action.option_strings} - {"-h", "--help"}
    assert len(options) > 100
    assert {option for option in options if not is_beam_option(f"{option}=1")} == set()


@pytest.mark.parametrize("word", ["--num_worker", "--num-workers", "--quary=What?", "-n", "--", "num workers"])
def test_other_words_are_not(word: str) -> None:
    assert is_beam_option(word) == (word == "--")
