"""Parse arguments of Beam YAML: tasks, sampling, paths, and the output for failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pyarrow as pa

from ...models.hosted.openai.annotator import OpenAIServer
from ...models.moondream.annotator import Moondream
from ...models.moondream.names import OFFICIAL
from ...models.tasks import DEFAULT_SAMPLING, Annotator, Query, Sampling, Task
from ..options.tasks import BYTE_ORDER_MARK, split_objects

SERVER_KEYS = ("base_url", "api_key_env", "max_pixels", "caption_prompts", "timeout_s", "prices", "max_cost")
TRANSFORMERS_KEYS = ("max_pixels", "caption_prompts", "prompt_template")
KINDS: dict[str, type[Any]] = {kind.name: kind for kind in get_args(Task)}
# Beam YAML's name of the output for rows that are not errors.
GOOD_OUTPUT = "good"
# The fields of the row that AnnotateToParquet returns.
RECORD_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("run", "output")),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("inputs", "pictures", "requests", "pending", "done", "retried", "annotations", "failures")
        ),
        pa.field("balanced", pa.bool_(), nullable=False),
    ]
)


def parse_tasks(given: Sequence[Any] | None) -> tuple[Task, ...]:
    """Return the tasks of a list such as ``[{caption: short}, "How many?"]``; for None, the default question.

    Raises:
        ValueError: if ``given`` is not a list, or an item is neither a text nor a mapping of one task to its text. The
            mapping of a query may have ``reasoning: true`` and ``schema``, a JSON schema, too.
    """
    if given is None:
        return (Query(),)
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise ValueError("tasks: give a list, such as [{caption: short}, {detect: dog}]")
    return tuple(map(_task_of, given))


def parse_sampling(given: Mapping[str, Any] | None) -> Sampling:
    """Return the sampling of a mapping such as ``{temperature: 0}``; for None, the default.

    Raises:
        ValueError: if ``given`` is not a mapping, a key is unknown, or a value is no number or out of range.
    """
    if given is None:
        return DEFAULT_SAMPLING
    names = list(vars(DEFAULT_SAMPLING))
    if not isinstance(given, Mapping) or set(given) - set(names):
        raise ValueError(f"sampling: give a mapping of {', '.join(names)}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"sampling: {name} {value!r} is not a number: give one, without quotes")
    return Sampling(**given)


def build_annotator(
    model: str | None,
    revision: str | None,
    tokenizer: str | None,
    how: Mapping[str, Any],
    openai: Mapping[str, Any] | None,
    transformers: Mapping[str, Any] | None,
) -> Annotator:
    """Return the vision servers of ``openai``, the model of ``transformers``, or the local engine if both are None.

    Args:
        how: ``device``, ``dtype`` and ``batch_size`` of the engine. Servers use ``batch_size`` only.

    Raises:
        ValueError: if an argument has a bad value, or does not belong to what answers.
    """
    if openai is not None and transformers is not None:
        raise ValueError("openai and transformers: give one of them")
    if tokenizer is not None and (openai is not None or transformers is not None):
        raise ValueError(f"tokenizer {tokenizer}: only Moondream's own engine takes one: leave it out")
    if transformers is not None:
        return parse_transformers(transformers, model, revision, how)
    if openai is not None:
        return parse_server(openai, model, revision, how["batch_size"])
    return Moondream(model or OFFICIAL, revision, tokenizer, **how)


def parse_server(
    given: Mapping[str, Any], model: str | None, revision: str | None, batch_size: int | None
) -> OpenAIServer:
    """Return the annotator of a mapping such as ``{base_url: http://localhost:8000/v1, max_pixels: 500000}``.

    Args:
        batch_size: how many requests are in flight; None for the default.

    Raises:
        ValueError: if ``given`` is not a mapping with base_url, a key is unknown, or a value is bad.
    """
    if not isinstance(given, Mapping) or "base_url" not in given or set(given) - set(SERVER_KEYS):
        raise ValueError(f"openai: give a mapping with base_url, and if wanted {', '.join(SERVER_KEYS[1:])}")
    options = {**given, "base_url": parse_texts("openai: base_url", given["base_url"])}
    if batch_size is not None:
        options["concurrency"] = batch_size
    try:
        return OpenAIServer(model=model, revision=revision, **options)
    except TypeError as error:
        # A text in place of a number.
        raise ValueError(f"openai: {error}: give numbers without quotes") from error


def parse_transformers(
    given: Mapping[str, Any], model: str | None, revision: str | None, how: Mapping[str, Any]
) -> Annotator:
    """Return the model of transformers of a mapping such as ``{max_pixels: 500000}``, checked.

    Args:
        how: ``device``, ``dtype`` and ``batch_size``; None for the default batch size.

    Raises:
        ValueError: if ``given`` is not a mapping, a key is unknown, the model is missing, or a value is bad.
        RuntimeError: if the hub cannot be reached, or the device does not exist here.
    """
    from ...models.transformers.annotator import TransformersModel

    if not isinstance(given, Mapping) or set(given) - set(TRANSFORMERS_KEYS):
        raise ValueError(f"transformers: give a mapping, and if wanted {', '.join(TRANSFORMERS_KEYS)} in it")
    if model is None:
        raise ValueError("transformers: give model as well, a folder or OWNER/NAME on the hub")
    options = {**given, **{name: value for name, value in how.items() if value is not None}}
    try:
        annotator = TransformersModel(model, revision, **options)
    except TypeError as error:
        # A text in place of a number.
        raise ValueError(f"transformers: {error}: give numbers without quotes") from error
    annotator.check()
    return annotator


def parse_error_output(given: Mapping[str, str] | None) -> str | None:
    """Return NAME of ``{output: NAME}``, the output for failures; None for None.

    Raises:
        ValueError: if ``given`` is anything else, or NAME is the name of the main output.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or set(given) != {"output"} or not isinstance(given["output"], str):
        raise ValueError("error_handling: give {output: NAME} and nothing else")
    if given["output"] == GOOD_OUTPUT:
        raise ValueError(f"error_handling: {GOOD_OUTPUT} is the name of the output for rows: choose another name")
    return given["output"]


def parse_texts(name: str, given: str | Sequence[str]) -> list[str]:
    """Return a text or a list of texts as a list.

    Args:
        name: the name of the argument, for the message of an error.

    Raises:
        ValueError: if ``given`` is neither, or a text is empty.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{name}: give a text or a list of them, not {given!r}")
    return list(texts)


def _task_of(given: Any) -> Task:
    if isinstance(given, str):
        if given in KINDS:
            raise ValueError(f"tasks: {given} needs a value: write {{{given}: ...}}")
        return Query(given.strip(BYTE_ORDER_MARK))
    if isinstance(given, Mapping) and Query.name in given and set(given) <= {Query.name, "reasoning", "schema"}:
        query, reasoning = _plain_task_of({Query.name: given[Query.name]}), given.get("reasoning", False)
        if not isinstance(reasoning, bool):
            raise ValueError(f"tasks: reasoning {reasoning!r}: give true or false")
        return Query(query.prompt, reasoning, given.get("schema"))
    return _plain_task_of(given)


def _plain_task_of(given: Any) -> Task:
    """Return the task of a mapping such as ``{detect: dog}``."""
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in KINDS:
        raise ValueError(
            f"tasks: {given!r} is not a task: give a question, or a mapping of {', '.join(KINDS)} to a text"
        )
    ((kind, what),) = given.items()
    if not isinstance(what, str):
        raise ValueError(
            f"tasks: {kind} {what!r} is not a text: put it in quotes, because YAML reads yes and 7 as other types"
        )
    if kind in ("detect", "point") and len(objects := split_objects(what)) > 1:
        cure = ", ".join(f"{{{kind}: {one.strip()}}}" for one in objects if one.strip())
        raise ValueError(f"tasks: {kind} {what!r} names several objects: write {cure}")
    task: Task = KINDS[kind](what.strip(BYTE_ORDER_MARK))
    return task
