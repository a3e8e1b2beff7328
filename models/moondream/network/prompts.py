"""Tasks as token ids: what follows the image prefix. After moondream/torch/moondream.py @ 44146f1."""

from __future__ import annotations

from itertools import groupby

from ...tasks import Caption, Detect, Point, Query, Task
from .config import Piece, Templates
from .tokenizer import Tokenizer


def tasks_of(templates: Templates) -> frozenset[type[Task]]:
    """What a model of these templates can be asked."""
    known: dict[type[Task], object] = {
        Caption: templates.caption,
        Query: templates.query,
        Detect: templates.detect,
        Point: templates.point,
    }
    return frozenset(kind for kind, template in known.items() if template)


def prompt_ids(task: Task, templates: Templates, tokenizer: Tokenizer) -> list[int]:
    """The prompt of a task.

    Raises:
        ValueError: the model can't be asked that, or the words are not Unicode.
    """
    if isinstance(task, Caption):
        if task.length not in templates.caption:
            known = ", ".join(templates.caption) or "none: ask a question"
            raise ValueError(f"this generation of the model knows no {task.length} caption; it knows {known}")
        return _encoded([templates.caption[task.length]], tokenizer)
    around = {Query: templates.query, Detect: templates.detect, Point: templates.point}[type(task)]
    if around is None:
        raise ValueError(f"this generation of the model can't {task.name}; choose another with --model or --revision")
    prefix, suffix = around
    if isinstance(task, Query):
        suffixes = [suffix] * templates.query_suffixes
        return _encoded([prefix, templates.question_lead + task.question, *suffixes], tokenizer)
    return _encoded([prefix, templates.object_lead + task.object, suffix], tokenizer)


def _encoded(pieces: list[Piece], tokenizer: Tokenizer) -> list[int]:
    """Token ids as they are, and texts that follow each other encoded in one, as one text has other tokens than two."""
    ids: list[int] = []
    for is_text, group in groupby(pieces, key=lambda piece: isinstance(piece, str)):
        if is_text:
            ids += tokenizer.encode("".join(str(piece) for piece in group))
        else:
            ids += [id for piece in group for id in piece if isinstance(id, int)]
    return ids
