"""The options of Beam are known without importing Beam."""

from __future__ import annotations

import argparse

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam.pipelines.building.arguments import beam_option_names


def test_every_option_of_beam_is_recognized() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    # Modules elsewhere define options too, which Beam knows once they are imported. The command imports none of them.
    for group in PipelineOptions.__subclasses__():
        if group.__module__.startswith("apache_beam.options."):
            group._add_argparse_args(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    assert len(options) > 100
    assert options - beam_option_names() == set()


@pytest.mark.parametrize("word", ["--num_worker", "--num-workers", "--quary", "-n", "num workers"])
def test_other_words_are_not(word: str) -> None:
    assert word not in beam_option_names()
