"""Rows with constant values, of which a test replaces some."""

from __future__ import annotations

from datetime import datetime, timezone

from moondream_beam.transforms.core.records import Annotation, Failure, RowTimings

NOW = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)


def annotation(**values: object) -> Annotation:
    plain = Annotation(
        id="i",
        key="k",
        filename="a.jpg",
        uri="/photos/a.jpg",
        sha256="5",
        width=4,
        height=3,
        task="caption",
        prompt="normal",
        caption="A dog.",
        objects=None,
        points=None,
        finish_reason="stop",
        input_tokens=7,
        output_tokens=3,
        timings=RowTimings(0.5, 0.25, 1.0, 2.0, 4.0, 8.0),
        backend="rules",
        model="echo",
        revision="1",
        run="one",
        created_at=NOW,
    )
    return plain._replace(**values)


def failure(**values: object) -> Failure:
    plain = Failure(
        "i", "k", "a.jpg", "/a.jpg", "query", "Why?", "fetch", "OSError", "gone", True, 1, "rules", "one", NOW
    )
    return plain._replace(**values)
