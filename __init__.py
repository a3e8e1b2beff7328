"""Annotate image datasets of any size with the Moondream vision-language model, on Apache Beam."""

from .models.tasks import (
    Annotator,
    Answer,
    Box,
    Caption,
    Detect,
    Fault,
    Outcome,
    Point,
    Query,
    Request,
    Sampling,
    Spot,
)

__all__ = [
    "Annotator",
    "Answer",
    "Box",
    "Caption",
    "Detect",
    "Fault",
    "Outcome",
    "Point",
    "Query",
    "Request",
    "Sampling",
    "Spot",
]
