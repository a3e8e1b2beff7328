"""What can be asked of a picture, what comes back, and the seam that every annotator implements."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, get_args

from PIL.Image import Image

from .billing import Billing

Length = Literal["short", "normal", "long"]
FinishReason = Literal["stop", "length"]
# Width and height, in pixels.
Size = tuple[int, int]

DEFAULT_PROMPT = "Describe this image."
DEFAULT_MAX_TOKENS = 64
CAPTION_MAX_TOKENS = {"short": 64, "normal": 256, "long": 512}
# moondream/torch/moondream.py @ 44146f1
DEFAULT_MAX_OBJECTS = 50


@dataclass(frozen=True)
class Caption:
    """Ask for a description: ``"short"``, ``"normal"`` or ``"long"``."""

    name: ClassVar[str] = "caption"
    length: Length = "normal"

    def __post_init__(self) -> None:
        if self.length not in get_args(Length):
            raise ValueError(f"caption length {self.length!r}: choose short, normal or long")

    @property
    def prompt(self) -> str:
        """What stands in the ``prompt`` column."""
        return self.length


@dataclass(frozen=True)
class Query:
    """Ask a question in plain words."""

    name: ClassVar[str] = "query"
    question: str = DEFAULT_PROMPT

    def __post_init__(self) -> None:
        _refuse_blank("query", self.question)

    @property
    def prompt(self) -> str:
        """What stands in the ``prompt`` column."""
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
        """What stands in the ``prompt`` column."""
        return self.object


@dataclass(frozen=True)
class Detect(_Find):
    """Ask for a box around each ``object``, at most ``max_objects`` of them."""

    name: ClassVar[str] = "detect"


@dataclass(frozen=True)
class Point(_Find):
    """Ask for the centre of each ``object``, at most ``max_objects`` of them."""

    name: ClassVar[str] = "point"


Task = Caption | Query | Detect | Point


@dataclass(frozen=True)
class Sampling:
    """How words are drawn; the defaults are the hosted endpoint's.

    ``max_tokens`` new tokens at most: None takes 64, or a caption's own preset. ``temperature`` 0 always takes
    the likeliest token; ``top_p`` in (0, 1] keeps the likeliest tokens up to that mass; ``repetition_penalty``
    above 1 makes tokens already generated less likely. Boxes and points are always the likeliest.
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
        """How many tokens the answer to this task may have."""
        if self.max_tokens is not None:
            return self.max_tokens
        return CAPTION_MAX_TOKENS[task.length] if isinstance(task, Caption) else DEFAULT_MAX_TOKENS


DEFAULT_SAMPLING = Sampling()


class Box(NamedTuple):
    """A rectangle in fractions of width and height, in [0, 1], from the top left."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


class Spot(NamedTuple):
    """A place in fractions of width and height, in [0, 1], from the top left."""

    x: float
    y: float


@dataclass(frozen=True)
class Answer:
    """What the model said: ``text`` for captions and queries, ``objects`` for Detect, ``points`` for Point."""

    finish_reason: FinishReason
    text: str | None = None
    objects: tuple[Box, ...] | None = None
    points: tuple[Spot, ...] | None = None


@dataclass(frozen=True)
class Timings:
    """Milliseconds that a request took: waiting for its turn, on the clock; seeing the picture; and answering.

    Requests that share a pass share its time, and each bears its part, so that sums over requests are real.
    """

    wait_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0


@dataclass(frozen=True)
class Tokens:
    """How many tokens went in (image prefix and prompt) and came out."""

    input: int = 0
    output: int = 0


@dataclass(frozen=True, eq=False)
class Request:
    """One task on one upright RGB picture, from ``uri`` if that is known, maybe in fewer pixels than its ``size`` says.
    Draws are seeded by ``id``; requests that share a picture object and follow each other share its encoding."""

    id: str
    picture: Image
    task: Task
    sampling: Sampling = DEFAULT_SAMPLING
    uri: str | None = None
    size: Size | None = None


@dataclass(frozen=True)
class Fault:
    """Why a request has no answer, after so many ``attempts``. ``retryable``: the same request may succeed later."""

    error: str
    message: str
    retryable: bool = False
    attempts: int = 1

    @classmethod
    def of(cls, error: BaseException, *, retryable: bool = False) -> Fault:
        """The fault that an exception amounts to."""
        return cls(type(error).__name__, str(error) or type(error).__name__, retryable)


@dataclass(frozen=True)
class Outcome:
    """The end of one request: an answer or a fault, and what it took on which ``backend``. ``model`` and ``revision``
    are empty unless another model answered than the one that was asked."""

    id: str
    result: Answer | Fault
    backend: str
    timings: Timings = Timings()
    tokens: Tokens = Tokens()
    hosted: Billing | None = None
    model: str = ""
    revision: str = ""


class Annotator(Protocol):
    """Whatever can answer tasks about pictures. It is pickled to the workers, so it loads when first asked."""

    @property
    def name(self) -> str:
        """The model, as it stands in the ``model`` column."""

    @property
    def revision(self) -> str:
        """Which state of that model: what the same name may not silently change."""

    @property
    def tasks(self) -> frozenset[type[Task]]:
        """The kinds of task that it can be asked."""

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Whether a picture of ``size`` may come in ``reduced`` pixels: it would see the same, but for rounding."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Answer a stream: one outcome for every request, in any order, never an exception for one bad request."""


def task_digest(task: Task) -> str:
    """A task as canonical JSON, for the request id."""
    return json.dumps({"task": task.name, **asdict(task)}, sort_keys=True, ensure_ascii=False)


def _refuse_blank(task: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"{task}: the prompt is empty")


def _refuse_below_one(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} {value}: give a whole number, 1 or more")
