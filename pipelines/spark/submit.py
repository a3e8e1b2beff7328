"""The program for spark-submit: ``spark-submit submit.py annotate INPUT --output OUT``, the command on Spark.

The words are those of ``moondream-beam``. ``--engine spark`` is added to ``annotate``. spark-submit runs this file by
its path, so the file imports the package by its name, which must be installed.
"""

from __future__ import annotations

import sys

from moondream_beam.pipelines.cli import main


def with_engine(words: list[str]) -> list[str]:
    """Return the words of a command, with ``--engine spark`` after ``annotate``."""
    return [*words[:1], "--engine", "spark", *words[1:]] if words[:1] == ["annotate"] else words


if __name__ == "__main__":
    sys.exit(main(with_engine(sys.argv[1:])))
