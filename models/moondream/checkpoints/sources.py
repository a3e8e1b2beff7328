"""Where a checkpoint comes from: the embedded ones, this machine, a bucket, or the hub; found by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...tasks import Task
from ..network.config import VisionConfig
from ..network.prompts import tasks_of
from .bucket_checkpoint import BucketModel
from .hub import NAME, OFFICIAL, HubModel
from .weights import Checkpoint

# The folder beside this one: the embedded checkpoint.
EMBEDDED = {"tiny": Path(__file__).parents[2] / "tiny"}


class Source(Protocol):
    """What is known of a checkpoint before it is on this machine, and the way to it. Pickles."""

    @property
    def revision(self) -> str:
        """What its content amounts to."""

    @property
    def tasks(self) -> frozenset[type[Task]]:
        """What it can be asked."""

    @property
    def vision(self) -> VisionConfig:
        """How it looks at a picture."""

    def fetch(self) -> object:
        """Bring the files to this machine, if they are not."""

    def checkpoint(self) -> Checkpoint:
        """The checkpoint on this machine, fetched if need be.

        Raises:
            ValueError: the files don't fit each other.
            RuntimeError: they are not there, or not those that the job was planned with.
        """


@dataclass(frozen=True)
class LocalModel:
    """A folder or a file of weights; every worker has it at the same place. ``path`` None: the embedded ``name``."""

    name: str
    path: Path | None
    release: str | None
    tokenizer: Path | None
    revision: str
    tasks: frozenset[type[Task]]
    vision: VisionConfig

    @classmethod
    def plan(cls, name: str, release: str | None, tokenizer: Path | None) -> LocalModel:
        """Read headers and hash the files.

        Raises:
            ValueError: the files are no Moondream 2, or don't fit each other.
        """
        # A worker finds the embedded one in its own package, and a folder from whatever folder it runs in.
        path = None if name in EMBEDDED else Path(os.path.abspath(name))
        checkpoint = Checkpoint.at(path or EMBEDDED[name], release=release, tokenizer=tokenizer)
        config = checkpoint.config
        tasks = tasks_of(config.tokenizer.templates)
        return cls(name, path, release, tokenizer, checkpoint.revision, tasks, config.vision)

    def fetch(self) -> None:
        """Nothing: it is here."""

    def checkpoint(self) -> Checkpoint:
        """The checkpoint, read again.

        Raises:
            ValueError: the files don't fit each other any more.
            RuntimeError: they are not those that the job was planned with.
        """
        path = self.path or EMBEDDED[self.name]
        if not path.exists():
            raise RuntimeError(f"model {self.name}: {path} is not on this worker; name a bucket or a hub repository")
        checkpoint = Checkpoint.at(path, release=self.release, tokenizer=self.tokenizer)
        if checkpoint.revision != self.revision:
            raise RuntimeError(f"model {self.name}: the weights are not those that the job was planned with")
        return checkpoint


def find_source(name: str, revision: str | None = None, tokenizer: str | None = None) -> Source:
    """The source behind a model's name. What is at that path on this machine goes before the hub.

    ``revision``: a branch, tag or commit on the hub; for files elsewhere, the release that they are of.
    ``tokenizer``: a tokenizer.json, or a folder with one.

    Raises:
        ValueError: there is no such model, or it is none that can be read.
        RuntimeError: it is somewhere that can't be reached.
    """
    words = Path(os.path.abspath(tokenizer)) if tokenizer is not None else None
    if name in EMBEDDED:
        if revision is not None or tokenizer is not None:
            raise ValueError(f"model {name}: it is embedded and has one revision and one tokenizer")
        return LocalModel.plan(name, None, None)
    if "://" in name:
        return BucketModel.plan(name, revision, words)
    if os.path.exists(name):
        return LocalModel.plan(name, revision, words)
    if NAME.fullmatch(name) and not name.endswith(".safetensors"):
        return HubModel.plan(name, revision, words)
    raise ValueError(
        f"model {name}: no such folder; give one with config.json and model.safetensors, a repository on the hub "
        f"such as {OFFICIAL}, or 'tiny'"
    )
