"""Conversations about pictures for trainers of vision-language models: LLaVA's JSON, and JSONL with messages."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from ....images.prefetch import Fetch
from ..pictures.notes import NO_TEXT, Problems
from ..targets import new_folder
from ..wide import Selection
from .placing import DEFAULT_LAYOUT, LayoutOptions, json_bytes, open_lists, place, with_answers, write_json

# The question that a trainer's model is asked in place of the length of a caption.
INSTRUCTIONS = {
    "short": "Describe this image in one short sentence.",
    "normal": "Describe this image.",
    "long": "Describe this image in detail.",
}
MARKER = "<image>"
# What trainers replace by a picture, a video or a sound wherever a text has it.
MARKERS = (MARKER, "<video>", "<audio>")
HAS_MARKER = (
    f"has a text with {', '.join(MARKERS[:2])} or {MARKERS[2]}, which trainers replace: that answer is left out"
)
SOME_EMPTY = "has an empty answer, which is left out"
# The name that LLaMA-Factory knows a split by, before the name of the split.
DATASET = "moondream_beam_"


def to_llava(selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = DEFAULT_LAYOUT) -> Problems:
    """Write a folder with ``train.json``, or a file for each split: a list of LLaVA's samples, one for each picture.

    A sample has ``id``, ``image`` and ``conversations``: a question of ``human`` and the answer of ``gpt`` for each
    caption and query. ``dataset_info.json`` is the entry for LLaMA-Factory.

    Raises:
        ValueError: if the selection has no caption and no answer to a query.
    """
    problems = Problems()
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    with new_folder(destination) as folder:
        _write_dataset_info(folder, options, "json", {"messages": "conversations", "images": "image"}, tags)
        with open_lists(folder, options.splits, "json") as add:
            for row, split, name in place(_with_turns(selection, problems), folder, fetch, options, problems):
                said = []
                for number, (question, answer) in enumerate(row["turns"]):
                    marker = "" if number else f"{MARKER}\n"
                    said.append({"from": "human", "value": marker + question})
                    said.append({"from": "gpt", "value": answer})
                add(split, {"id": row["key"], "image": name, "conversations": said})
    return +problems


def to_messages(
    selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = DEFAULT_LAYOUT
) -> Problems:
    """Write a folder with ``train.jsonl``, or a file for each split: one line with ``messages`` for each picture.

    ms-swift and LLaMA-Factory read these files, whose first question has ``<image>``. ``dataset_info.json`` is the
    entry for LLaMA-Factory. Beside the pictures lies ``metadata.jsonl``, with which ``datasets`` loads the folder
    ``images`` for TRL. Its messages have no ``<image>``, which TRL would take for text.

    Raises:
        ValueError: if the selection has no caption and no answer to a query.
    """
    problems = Problems()
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    with new_folder(destination) as folder, ExitStack() as stack:
        _write_dataset_info(folder, options, "jsonl", {"messages": "messages", "images": "images"}, tags)
        add = stack.enter_context(open_lists(folder, options.splits, "jsonl"))
        metadata: dict[str, Any] = {}
        for row, split, name in place(_with_turns(selection, problems), folder, fetch, options, problems):
            add(split, {"messages": _messages(row["turns"], MARKER), "images": [name]})
            if options.along == "no":
                continue
            start = f"images/{split}"
            if split not in metadata:
                metadata[split] = stack.enter_context(folder.create(f"{start}/metadata.jsonl"))
            line = {"images_file_names": [posixpath.relpath(name, start)], "messages": _messages(row["turns"])}
            metadata[split].write(json_bytes(line) + b"\n")
    return +problems


def _with_turns(selection: Selection, problems: Problems) -> Iterator[dict[str, Any]]:
    """Yield the rows with ``turns``, a list of questions and answers, in place of their ``answers``.

    Raises:
        ValueError: if there is no caption and no answer to a query.
    """
    if not selection.answers_to["caption"] + selection.answers_to["query"]:
        raise ValueError(
            "none of these rows is a caption or an answer to a query, and conversations need texts: choose another "
            "format or --where"
        )
    for row in with_answers(selection, ("caption", "query")):
        pairs = [(_question(answer), (answer["caption"] or "").strip()) for answer in row.pop("answers")]
        filled = [pair for pair in pairs if pair[1]]
        turns = [pair for pair in filled if not any(marker in text for text in pair for marker in MARKERS)]
        problems[HAS_MARKER] += len(turns) < len(filled)
        problems[SOME_EMPTY] += 0 < len(filled) < len(pairs)
        if turns:
            yield {**row, "turns": turns}
        else:
            problems[NO_TEXT] += not filled


def _question(answer: dict[str, Any]) -> str:
    prompt = str(answer["prompt"])
    return INSTRUCTIONS.get(prompt, prompt) if answer["task"] == "caption" else prompt


def _messages(turns: list[tuple[str, str]], marker: str = "") -> list[dict[str, str]]:
    messages = []
    for number, (question, answer) in enumerate(turns):
        messages.append({"role": "user", "content": question if number else marker + question})
        messages.append({"role": "assistant", "content": answer})
    return messages


def _write_dataset_info(
    folder: Any, options: LayoutOptions, extension: str, columns: dict[str, str], tags: dict[str, str]
) -> None:
    """Write ``dataset_info.json``, in which LLaMA-Factory finds the dataset of each split by its name."""
    entry = {"formatting": "sharegpt", "columns": columns, "tags": tags}
    named = {DATASET + name: {"file_name": f"{name}.{extension}", **entry} for name in options.splits.names}
    write_json(folder, "dataset_info.json", named)
