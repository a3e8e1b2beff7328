"""Prompts: the token ids of a task after the image prefix. After moondream/torch/moondream.py @ 44146f1."""

from __future__ import annotations

from itertools import groupby

from ...tasks import Caption, Detect, Point, Query, Task
from .config import PromptPart, Templates
from .tokenizer import Tokenizer


def supported_tasks(templates: Templates) -> frozenset[type[Task]]:
    """Return the kinds of task for which there is a template."""
    known: dict[type[Task], object] = {
        Caption: templates.caption,
        Query: templates.query,
        Detect: templates.detect,
        Point: templates.point,
    }
    return frozenset(kind for kind, template in known.items() if template)


def prompt_ids(task: Task, templates: Templates, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of a task's prompt.

    Raises:
        ValueError: if the model does not support the task, the length of caption or reasoning, or the text is not
            Unicode.
    """
    if isinstance(task, Caption):
        if task.length not in templates.caption:
            known = f"choose {', '.join(templates.caption)}" if templates.caption else "ask a question with --query"
            raise ValueError(f"this generation of the model has no {task.length} caption; {known}")
        return _encode_parts([templates.caption[task.length]], tokenizer)
    template = {Query: templates.query, Detect: templates.detect, Point: templates.point}[type(task)]
    if template is None:
        raise ValueError(
            f"this generation of the model has no {task.name} task; choose another model with --model or --revision"
        )
    prefix, suffix = template
    if isinstance(task, Query):
        suffixes = [suffix] * templates.query_suffixes
        if task.reasoning:
            if templates.thinking_id is None:
                raise ValueError("this generation of the model does not reason; ask without --reasoning")
            suffixes[-1] = (templates.thinking_id,)
        return _encode_parts([prefix, templates.before_question + task.question, *suffixes], tokenizer)
    return _encode_parts([prefix, templates.before_object + task.object, suffix], tokenizer)


def _encode_parts(parts: list[PromptPart], tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of the parts. Adjacent texts are joined before they are encoded, because ids may differ."""
    ids: list[int] = []
    for is_text, group in groupby(parts, key=lambda part: isinstance(part, str)):
        if is_text:
            ids += tokenizer.encode("".join(str(part) for part in group))
        else:
            ids += [id for part in group for id in part if isinstance(id, int)]
    return ids
