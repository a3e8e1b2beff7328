"""Tasks as token ids: what follows the image prefix. After moondream/torch/moondream.py @ 44146f1."""

from __future__ import annotations

from ..tasks import Caption, Detect, Query, Task
from .config import Templates
from .tokenizer import Tokenizer


def prompt_ids(task: Task, templates: Templates, tokenizer: Tokenizer) -> list[int]:
    """The prompt of a task. The suffix of a query comes twice, as the reference feeds it and as it was trained."""
    if isinstance(task, Caption):
        return list(templates.caption[task.length])
    if isinstance(task, Query):
        prefix, suffix = templates.query
        return [*prefix, *tokenizer.encode(task.question), *suffix, *suffix]
    prefix, suffix = templates.detect if isinstance(task, Detect) else templates.point
    return [*prefix, *tokenizer.encode(" " + task.object), *suffix]
