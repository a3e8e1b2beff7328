"""Rows about pictures that exist, and a function that exports them."""

from __future__ import annotations

import pytest
from support.data.outputs import publish
from support.data.small_outputs import some_of_each, with_digest

from moondream_beam.transforms.dataset.export import formats
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher


@pytest.fixture
def rows(tmp_path):
    """Three pictures with four tasks each."""
    return [
        with_digest(row)
        for row in some_of_each(tmp_path / "photos")
        if getattr(row, "caption", "") != "" and hasattr(row, "sha256")
    ]


@pytest.fixture
def export(tmp_path):
    """Return a function that exports rows, and returns the destination and the problems."""

    def run(format_name, rows, destination="there", where="true", kept=(), **options):
        # Two exports of the same rows in one test share the output.
        if not (tmp_path / "out" / "data").exists():
            publish(tmp_path / "out", rows, kept)
        with Dataset(str(tmp_path / "out")) as dataset:
            left = formats.FORMATS[format_name](
                Selection(dataset, where), str(tmp_path / destination), Fetcher(), **options
            )
        return tmp_path / destination, left

    return run
