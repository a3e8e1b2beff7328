"""Tasks, requests and outcomes, and the protocol ``Annotator`` that every model and API implements."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

from PIL.Image import Image

from .hosted.payment.billing import Billing
from .structured.schema import schema_text

Length = Literal["short", "normal", "long"]
# Why an answer ended: by the model's end token, or by a limit on tokens, objects or context.
FinishReason = Literal["stop", "length"]
# Width and height, in pixels.
Size = tuple[int, int]

DEFAULT_PROMPT = "Describe this image."
DEFAULT_MAX_TOKENS, SCHEMA_MAX_TOKENS = 64, 512
CAPTION_MAX_TOKENS = {"short": 64, "normal": 256, "long": 512}
# moondream/torch/moondream.py @ 44146f1
DEFAULT_MAX_OBJECTS = 50
DEFAULT_REASONING_TOKENS = 768


@dataclass(frozen=True)
class Caption:
    """Describe a picture. Any ``length`` other than "short", "normal" and "long" raises a ValueError."""

    name: ClassVar[str] = "caption"
    length: Length = "normal"

    def __post_init__(self) -> None:
        if self.length not in get_args(Length):
            raise ValueError(f"caption length {self.length!r}: choose short, normal or long")

    @property
    def prompt(self) -> str:
        """The value of the ``prompt`` column."""
        return self.length


@dataclass(frozen=True)
class Query:
    """Answer a question about a picture. A blank ``question`` or a bad ``schema`` raises a ValueError.

    ``reasoning``: whether the model writes a reasoning before the answer, which takes more tokens. ``schema``: a JSON
    schema, as a mapping or as text, that the answer must fit; it is kept as text with sorted keys.
    """

    name: ClassVar[str] = "query"
    question: str = DEFAULT_PROMPT
    reasoning: bool = False
    schema: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _refuse_blank("query", self.question)
        if self.schema is not None:
            object.__setattr__(self, "schema", schema_text(self.schema))

    @property
    def prompt(self) -> str:
        """The value of the ``prompt`` column."""
        return self.question


@dataclass(frozen=True)
class _Find:
    name: ClassVar[str]
    object: str
    max_objects: int = DEFAULT_MAX_OBJECTS

    def __post_init__(self) -> None:
        _refuse_blank(self.name, self.object)
        _refuse_below_one("max_objects", self.max_objects)

    @property
    def prompt(self) -> str:
        """The value of the ``prompt`` column."""
        return self.object


@dataclass(frozen=True)
class Detect(_Find):
    """Find a box around each ``object``. A blank object or ``max_objects`` below 1 raises a ValueError."""

    name: ClassVar[str] = "detect"


@dataclass(frozen=True)
class Point(_Find):
    """Find the centre of each ``object``. A blank object or ``max_objects`` below 1 raises a ValueError."""

    name: ClassVar[str] = "point"


Task = Caption | Query | Detect | Point


@dataclass(frozen=True)
class Sampling:
    """How tokens of a text are sampled. The defaults are the hosted endpoint's. Bad numbers raise a ValueError.

    ``max_tokens``: the limit on new tokens, 1 or more; None: see ``budget``. ``temperature``: 0 takes the most likely
    token; higher values sample. ``top_p``, in (0, 1]: sample from the most likely tokens up to this probability.
    ``repetition_penalty``, above 0: values above 1 make tokens of the answer less likely to be repeated. Coordinates of
    boxes and points are always the most likely.
    """

    max_tokens: int | None = None
    temperature: float = 0.2
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _refuse_below_one("max_tokens", self.max_tokens)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature {self.temperature}: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: give more than 0 and at most 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"repetition_penalty {self.repetition_penalty}: give more than 0; 1 changes nothing")

    def budget(self, task: Task) -> int:
        """Return ``max_tokens``. If that is None: 64, 256 or 512 for a caption by its length; 512 for a query with a
        schema; else 64."""
        if self.max_tokens is not None:
            return self.max_tokens
        if isinstance(task, Query) and task.schema is not None:
            return SCHEMA_MAX_TOKENS
        return CAPTION_MAX_TOKENS[task.length] if isinstance(task, Caption) else DEFAULT_MAX_TOKENS

    def reasoning_budget(self, task: Task) -> int:
        """Return the limit on tokens of the reasoning before an answer: 0 for a task without reasoning.

        For a query with reasoning it is ``max_tokens``, or if that is None 768. The answer has a limit of its own.
        """
        if not needs_reasoning(task):
            return 0
        return DEFAULT_REASONING_TOKENS if self.max_tokens is None else self.max_tokens


DEFAULT_SAMPLING = Sampling()


class Box(NamedTuple):
    """A rectangle, in fractions of the picture's width and height, in [0, 1]. The origin is the top left corner."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


class Spot(NamedTuple):
    """A point, in fractions of the picture's width and height, in [0, 1]. The origin is the top left corner."""

    x: float
    y: float


@dataclass(frozen=True)
class Answer:
    """An answer: ``text`` to Caption and Query, ``objects`` to Detect, ``points`` to Point; None in the others.

    ``reasoning``: the text before the answer to a Query with reasoning; None in all others.
    """

    finish_reason: FinishReason
    text: str | None = None
    objects: tuple[Box, ...] | None = None
    points: tuple[Spot, ...] | None = None
    reasoning: str | None = None


@dataclass(frozen=True)
class Timings:
    """Milliseconds until a request is prefilled, to encode its picture, and to generate its answer. Requests that share
    a pass of the network divide its time."""

    wait_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0


@dataclass(frozen=True)
class Tokens:
    """Numbers of tokens: ``input`` counts image prefix and prompt, ``output`` the answer."""

    input: int = 0
    output: int = 0


@dataclass(frozen=True, eq=False)
class Request:
    """One task on one upright RGB picture. ``id`` seeds the sampling. ``size``: of the full picture, if ``picture`` is
    reduced. Consecutive requests that share a picture object share its encoding."""

    id: str
    picture: Image
    task: Task
    sampling: Sampling = DEFAULT_SAMPLING
    uri: str | None = None
    size: Size | None = None


@dataclass(frozen=True)
class Fault:
    """Why a request has no answer. ``error``: the type of the error. ``retryable``: the request may succeed later.
    ``attempts``: how often the request was tried."""

    error: str
    message: str
    retryable: bool = False
    attempts: int = 1

    @classmethod
    def of(cls, error: BaseException, *, retryable: bool = False) -> Fault:
        """Return the fault of an exception: its type's name and its text, or the name twice if the text is empty."""
        return cls(type(error).__name__, str(error) or type(error).__name__, retryable)


@dataclass(frozen=True)
class Outcome:
    """The result of one request from ``backend``. ``model`` and ``revision`` are set only if a fallback answered."""

    id: str
    result: Answer | Fault
    backend: str
    timings: Timings = Timings()
    tokens: Tokens = Tokens()
    hosted: Billing | None = None
    model: str = ""
    revision: str = ""


class Annotator(Protocol):
    """A model or an API that answers requests. It is pickled to the workers, so it loads at the first ``answer``.

    An attribute ``supports_reasoning`` that is True permits a Query with reasoning.
    """

    @property
    def name(self) -> str:
        """The value of the ``model`` column."""

    @property
    def revision(self) -> str:
        """The value of the ``revision`` column: the version of the model. Another revision may give other answers."""

    @property
    def tasks(self) -> frozenset[type[Task]]:
        """The kinds of task that it supports."""

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return whether a picture of ``size`` may be given in ``reduced`` pixels: the model input hardly differs."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Yield one outcome for every request, in any order. The ``result`` of a bad request is a ``Fault``."""


@lru_cache(1024)
def task_digest(task: Task) -> str:
    """Return a task as JSON with sorted keys. Request ids contain this text, so its format must not change.

    The keys ``reasoning`` and ``schema`` are there only if they are set: queries had no such keys at first.
    """
    values = {name: value for name, value in vars(task).items() if name not in ("reasoning", "schema") or value}
    return json.dumps({"task": task.name, **values}, sort_keys=True, ensure_ascii=False)


def needs_reasoning(task: Task) -> bool:
    """Return whether the task is a query with reasoning."""
    return isinstance(task, Query) and task.reasoning


def supports_reasoning(annotator: Annotator) -> bool:
    """Return the attribute ``supports_reasoning`` of an annotator; False if it has none."""
    return bool(getattr(annotator, "supports_reasoning", False))


def supports(annotator: Annotator, task: Task) -> bool:
    """Return whether an annotator can answer a task of this kind, with its reasoning if it is a query with one."""
    return type(task) in annotator.tasks and (supports_reasoning(annotator) or not needs_reasoning(task))


def _refuse_blank(task: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"{task}: the prompt is empty: give a text")


def _refuse_below_one(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} {value}: give a whole number, 1 or more")
