"""The options of Beam are known without importing Beam."""

from __future__ import annotations

import argparse

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam.pipelines.building.arguments import beam_option_names


def test_every_option_of_beam_is_recognized() -> None:
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    options = {option for action in parsers[0]._actions for option in action.option_strings} - {"-h", "--help"}
    assert len(options) > 100
    assert options - beam_option_names() == set()


@pytest.mark.parametrize("word", ["--num_worker", "--num-workers", "--quary", "-n", "num workers"])
def test_other_words_are_not(word: str) -> None:
    assert word not in beam_option_names()
