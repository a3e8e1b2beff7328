"""The card of an output on the Hugging Face hub: what it holds, which model made it, and how many requests failed."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCard, DatasetCardData

from ...io.uris import HUB, scheme_of
from ...output.dataset_card import is_generated
from ..reader import Dataset

TAG = "moondream-beam"
# The hub's categories of datasets, by task.
CATEGORIES = {
    "caption": "image-to-text",
    "query": "visual-question-answering",
    "detect": "object-detection",
    "point": "keypoint-detection",
}
# The last line of a card, by which a later push recognizes a card that it may replace.
SEAL = "<!-- moondream-beam push, sha256 of the lines above: {digest} -->\n"
_SEAL = re.compile(re.escape(SEAL).replace(re.escape("{digest}"), "([0-9a-f]{64})"))
MAX_PROMPTS, MAX_ERRORS = 20, 20
TEXT = """\
# {name}

{pictures:,} pictures with {answers:,} answers of Moondream, made with moondream-beam. {failures:,} requests failed.

```python
from datasets import load_dataset

annotations = load_dataset("{repository}", split="train")
```

"""


def make_card(
    dataset: Dataset, repository: str, schema: pa.Schema, local_card: str, licence_of: Callable[[str], str]
) -> str:
    """Return the card of an output for the dataset ``repository`` on the hub. It has no path of this machine.

    A local card that a user has edited gives its metadata, except for its configs, and its text in place of ours.

    Args:
        schema: the columns of the pushed files in ``data/``.
        local_card: the text of ``README.md`` in the output; "" if there is none.
        licence_of: returns the licence of the weights of a model by its name.
    """
    ((pictures, answers),) = dataset.tuples("SELECT count(DISTINCT key), count(*) FROM data")
    ((failures,),) = dataset.tuples("SELECT count(*) FROM errors")
    metadata, text = _metadata(dataset, answers, failures), ""
    if local_card and not is_generated(local_card):
        edited = DatasetCard(local_card, ignore_metadata_errors=True)
        theirs = {name: value for name, value in edited.data.to_dict().items() if name != "configs" and value}
        tags = list(dict.fromkeys([*metadata["tags"], *theirs.pop("tags", [])]))
        metadata |= {**theirs, "tags": tags}
        text = edited.text.strip() + "\n"
    if not text:
        numbers = {"pictures": pictures, "answers": answers, "failures": failures}
        text = TEXT.format(name=repository.partition("/")[2], repository=repository, **numbers)
        text += "\n".join(_sections(dataset, schema, licence_of))
    front = DatasetCardData(**metadata).to_yaml()
    card = f"---\n{front}\n---\n{text}"
    return card + SEAL.format(digest=_digest(card))


def is_replaceable(card: str) -> bool:
    """Return whether a card on the hub is as ``make_card`` made it, or has no text yet."""
    *lines, last = card.splitlines(keepends=True) or [""]
    match = _SEAL.fullmatch(last)
    return not card.strip() or (match is not None and match[1] == _digest("".join(lines)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _metadata(dataset: Dataset, answers: int, failures: int) -> dict[str, Any]:
    tasks = [task for (task,) in dataset.tuples("SELECT DISTINCT task FROM data ORDER BY task")]
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}]
    if failures:
        # `datasets` refuses a config without rows.
        configs.append({"config_name": "errors", "data_files": [{"split": "train", "path": "errors/*.parquet"}]})
    return {
        "language": ["en"],
        "task_categories": list(dict.fromkeys(CATEGORIES[task] for task in tasks if task in CATEGORIES)),
        "annotations_creators": ["machine-generated"],
        "size_categories": [size_category(answers)],
        "tags": [TAG, "moondream", "synthetic"],
        "configs": configs,
    }


def size_category(rows: int) -> str:
    """Return the hub's name for a number of rows: ``n<1K``, ``1K<n<10K``, ..., ``n>1T``."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    above = sum(rows >= 1000 * 10**power for power in range(len(names)))
    if above == 0:
        return "n<1K"
    return f"{names[above - 1]}<n<{names[above]}" if above < len(names) else "n>1T"


def _sections(dataset: Dataset, schema: pa.Schema, licence_of: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines about models, questions, errors and columns."""
    yield "## Models\n"
    models = dataset.tuples("SELECT backend, model, revision, count(*) FROM data GROUP BY ALL ORDER BY ALL")
    yield from _table(
        ("model", "revision", "backend", "answers", "licence of the weights"),
        [
            # A model may be a path of this machine.
            (posixpath.basename(model) if posixpath.isabs(model) else model, revision, backend, rows, licence_of(model))
            for backend, model, revision, rows in models
        ],
    )
    yield "## Questions\n"
    prompts = "SELECT task, prompt, count(*) AS n FROM data GROUP BY ALL ORDER BY n DESC, task, prompt"
    found = dataset.tuples(f"{prompts} LIMIT {MAX_PROMPTS}")
    yield from _table(("task", "prompt", "answers"), found)
    ((kinds,),) = dataset.tuples(f"SELECT count(*) FROM ({prompts})")
    if kinds > len(found):
        yield f"These are the {len(found)} most frequent of {kinds:,} questions.\n"
    yield from _how_made(dataset)
    yield "## Errors\n"
    errors = dataset.tuples(
        f"SELECT stage, error, count(*) AS n FROM errors GROUP BY ALL ORDER BY n DESC, stage, error LIMIT {MAX_ERRORS}"
    )
    if errors:
        yield "The config `errors` has one row for each request that failed, with the reason.\n"
        yield from _table(("stage", "error", "requests"), errors)
    else:
        yield "No request failed.\n"
    yield "## Columns\n"
    yield from _table(("column", "type"), [(field.name, str(field.type)) for field in schema])


def _how_made(dataset: Dataset) -> Iterator[str]:
    records = dataset.records()
    if not records:
        return
    yield "## How it was made\n"
    last = records[-1]
    versions = ", ".join(f"{name} {version}" for name, version in (last.get("versions") or {}).items())
    sampling = ", ".join(f"{name} {value}" for name, value in (last.get("sampling") or {}).items())
    runs = f"{len(records):,} run{'s' if len(records) > 1 else ''}"
    yield f"{runs} of `moondream-beam annotate`; the last one with {versions}. Sampling: {sampling}.\n"
    sources = set()
    for options in (record.get("options") or {} for record in records):
        given = [*(options.get("inputs") or []), *(options.get("manifest") or [])]
        # Paths and buckets are of no use to readers, and may be private.
        sources |= {uri for uri in given if scheme_of(uri) == HUB}
    if sources:
        yield "Pictures from " + ", ".join(f"`{uri}`" for uri in sorted(sources)) + ".\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown, and an empty line."""
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    # Markdown and HTML in a prompt must not change the page.
    plain = re.sub(r"([\\`*_{}\[\]<>|#!~$&])", r"\\\1", " ".join(str(value).split()))
    return plain if len(plain) <= 200 else f"{plain[:199].rstrip(chr(92))}..."
