"""Annotate image datasets of any size with the Moondream vision-language model, on Apache Beam."""

from .models.hosted.cloud.annotator import MoondreamCloud
from .models.hosted.fal.annotator import Fal
from .models.hosted.fallback import Fallback
from .models.moondream.annotator import Moondream
from .models.tasks import Annotator, Answer, Box, Caption, Detect, Fault, Outcome, Point, Query, Request, Sampling, Spot
from .transforms.annotation.annotate import Annotate, Annotated, annotate
from .transforms.annotation.job import AnnotateToParquet
from .transforms.annotation.model_handler import MoondreamModelHandler
from .transforms.core.beam_schema import AsRows
from .transforms.core.records import Annotation, Failure, ImageRef
from .transforms.inputs.images import ReadImages

__all__ = [
    "Annotate",
    "AnnotateToParquet",
    "Annotated",
    "Annotation",
    "Annotator",
    "Answer",
    "AsRows",
    "Box",
    "Caption",
    "Detect",
    "Failure",
    "Fal",
    "Fallback",
    "Fault",
    "ImageRef",
    "Moondream",
    "MoondreamCloud",
    "MoondreamModelHandler",
    "Outcome",
    "Point",
    "Query",
    "ReadImages",
    "Request",
    "Sampling",
    "Spot",
    "annotate",
]
