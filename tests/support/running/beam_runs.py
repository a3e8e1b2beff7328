"""Run a piece of a pipeline in this process and return the elements as a list."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.window import GlobalWindows


def collect(build: Callable[[beam.Pipeline], PCollection | tuple[PCollection, ...]]) -> Any:
    """Return the elements of the collection that ``build`` returns, or one list for each if it returns several."""
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline(FnApiRunner()) as pipeline:
            built = build(pipeline)
            outputs = built if isinstance(built, tuple) else (built,)
            for index, output in enumerate(outputs):
                (
                    output
                    | f"All windows {index}" >> beam.WindowInto(GlobalWindows())
                    | f"To a list {index}" >> beam.combiners.ToList()
                    | f"Keep {index}" >> beam.Map(keep, str(Path(folder, str(index))))
                )
        lists = [pickle.loads(Path(folder, str(index)).read_bytes()) for index in range(len(outputs))]
    return lists if isinstance(built, tuple) else lists[0]


def keep(elements: list[Any], path: str) -> None:
    Path(path).write_bytes(pickle.dumps(elements))
