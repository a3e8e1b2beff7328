"""Florence-2: the task tokens of its prompts, and the boxes in its answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..hosted.openai.annotator import CAPTION_PROMPTS
from ..tasks import Box, Caption, Detect, Query, Task

MODEL_TYPE = "florence2"
# processing_florence2.py of transformers 5.24 turns these into the sentences that the model was trained with.
CAPTION_TOKENS = {"short": "<CAPTION>", "normal": "<DETAILED_CAPTION>", "long": "<MORE_DETAILED_CAPTION>"}
DETECT_TOKEN = "<OPEN_VOCABULARY_DETECTION>"
# An answer writes the name of the object, which is a few tokens, and four coordinates.
TOKENS_PER_BOX = 8
# Coordinates are numbers of bins: <loc_0> to <loc_999>.
BINS = 1000
_LOCATION = re.compile(r"<loc_(\d+)>")
_REGION = re.compile(r"<poly>(?P<outline>.*?)(?:</poly>|$)|(?:<loc_\d+>)+", re.DOTALL)


def prompt_of(task: Task, captions: Mapping[str, str]) -> str:
    """Return the text of a request.

    A caption of a length has the model's own task token, or the text in ``captions`` if that is not the default one. A
    query is its question, which may be a task token such as ``<OCR>``.

    Raises:
        ValueError: if the task is a point, or a query with reasoning.
    """
    if isinstance(task, Caption):
        text = captions[task.length]
        return CAPTION_TOKENS[task.length] if text == CAPTION_PROMPTS[task.length] else text
    if isinstance(task, Detect):
        return f"{DETECT_TOKEN}{task.object}"
    if isinstance(task, Query) and not task.reasoning:
        return task.question
    raise ValueError(
        f"Florence-2 can't be asked to {task.name} like this: give captions, queries and objects to detect"
    )


def decode(ids: Sequence[int], tokenizer: Any) -> str:
    """Return the text of an answer, with the special tokens of coordinates, and without start, end and padding."""
    dropped = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return str(tokenizer.decode([each for each in ids if each not in dropped], skip_special_tokens=False)).strip()


def boxes_in(text: str) -> list[Box]:
    """Return the boxes of an answer: each four coordinates in a row, and the bounds of each outline (``<poly>``).

    An incomplete box at the end of a row is left out.
    """
    return [box for region in _REGION.finditer(text) for box in _boxes_of(region)]


def _boxes_of(region: re.Match[str]) -> Iterator[Box]:
    places = [(min(int(number), BINS - 1) + 0.5) / BINS for number in _LOCATION.findall(region.group())]
    size = 4 if region["outline"] is None else len(places) // 2 * 2
    for start in range(0, len(places) - size + 1, size or 1):
        if corners := places[start : start + size]:
            xs, ys = corners[0::2], corners[1::2]
            yield Box(min(xs), min(ys), max(xs), max(ys))
