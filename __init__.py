"""Annotate image datasets of any size with the Moondream vision-language model, on Apache Beam."""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from .models.hosted.cloud.annotator import MoondreamCloud
    from .models.hosted.fal.annotator import Fal
    from .models.hosted.fallback import Fallback
    from .models.hosted.openai.annotator import OpenAIServer
    from .models.moondream.annotator import Moondream
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
    from .models.transformers.annotator import TransformersModel
    from .transforms.annotation.annotate import Annotate, Annotated, annotate
    from .transforms.annotation.job import AnnotateToParquet
    from .transforms.annotation.model_handler import MoondreamModelHandler
    from .transforms.core.beam_schema import AsRows
    from .transforms.core.records import Annotation, Failure, ImageRef
    from .transforms.inputs.images import ReadImages

# Where each public name is defined. The module is imported when the name is asked for the first time, because Beam and
# PyTorch take seconds to import, and commands such as ``status`` need neither.
_ORIGINS = {
    "Annotate": ".transforms.annotation.annotate",
    "AnnotateToParquet": ".transforms.annotation.job",
    "Annotated": ".transforms.annotation.annotate",
    "Annotation": ".transforms.core.records",
    "Annotator": ".models.tasks",
    "Answer": ".models.tasks",
    "AsRows": ".transforms.core.beam_schema",
    "Box": ".models.tasks",
    "Caption": ".models.tasks",
    "Detect": ".models.tasks",
    "Failure": ".transforms.core.records",
    "Fal": ".models.hosted.fal.annotator",
    "Fallback": ".models.hosted.fallback",
    "Fault": ".models.tasks",
    "ImageRef": ".transforms.core.records",
    "Moondream": ".models.moondream.annotator",
    "MoondreamCloud": ".models.hosted.cloud.annotator",
    "MoondreamModelHandler": ".transforms.annotation.model_handler",
    "OpenAIServer": ".models.hosted.openai.annotator",
    "Outcome": ".models.tasks",
    "Point": ".models.tasks",
    "Query": ".models.tasks",
    "ReadImages": ".transforms.inputs.images",
    "Request": ".models.tasks",
    "Sampling": ".models.tasks",
    "Spot": ".models.tasks",
    "TransformersModel": ".models.transformers.annotator",
    "annotate": ".transforms.annotation.annotate",
}

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
    "OpenAIServer",
    "Outcome",
    "Point",
    "Query",
    "ReadImages",
    "Request",
    "Sampling",
    "Spot",
    "TransformersModel",
    "annotate",
]


def __getattr__(name: str) -> object:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_importlib.import_module(_ORIGINS[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGINS})
