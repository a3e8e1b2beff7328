"""Where a checkpoint comes from, found by the model's name: embedded, a local path, a bucket or the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..names import OFFICIAL, REPOSITORY_NAME
from .weights import Checkpoint, Traits

# The client of the hub takes 0.2 seconds to import, so each of these is imported for a model of its kind only.
if TYPE_CHECKING:
    from .bucket_checkpoint import BucketModel
    from .hub import HubModel

# Folders of the checkpoints in this package.
EMBEDDED = {"tiny": Path(__file__).parents[2] / "tiny"}


@dataclass(frozen=True)
class LocalModel:
    """A folder or a .safetensors at the same path on every worker. ``path`` is None for the embedded ``name``."""

    name: str
    path: Path | None
    release: str | None
    tokenizer: Path | None
    revision: str
    traits: Traits

    @classmethod
    def plan(cls, name: str, release: str | None, tokenizer: Path | None) -> LocalModel:
        """Return the model at the path ``name``, checked and hashed. For the other parameters see ``Checkpoint.at``.

        Raises:
            ValueError: if the files are not a Moondream, or do not fit each other.
        """
        # Absolute, because a worker runs in another folder. The embedded model has another path on each worker.
        path = None if name in EMBEDDED else Path(os.path.abspath(name))
        checkpoint = Checkpoint.at(path or EMBEDDED[name], release=release, tokenizer=tokenizer)
        traits = Traits.of(checkpoint.config)
        if name in EMBEDDED:
            # Its training has no reasonings.
            traits = traits._replace(supports_reasoning=False)
        return cls(name, path, release, tokenizer, checkpoint.revision, traits)

    def fetch(self) -> None:
        """Do nothing: the files are on this machine."""

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint, checked and hashed again.

        Raises:
            ValueError: if the files do not fit each other any more.
            RuntimeError: if the path does not exist on this worker, or its content changed after the job was planned.
        """
        path = self.path or EMBEDDED[self.name]
        if not path.exists():
            raise RuntimeError(f"model {self.name}: {path} is not on this worker; copy it there, or name a bucket")
        checkpoint = Checkpoint.at(path, release=self.release, tokenizer=self.tokenizer)
        if checkpoint.revision != self.revision:
            raise RuntimeError(f"model {self.name}: the weights changed after planning; run the same command again")
        return checkpoint


# What is known about a checkpoint before its weights are on this machine. Each of them can be pickled.
Source: TypeAlias = "LocalModel | BucketModel | HubModel"


def find_source(name: str, revision: str | None = None, tokenizer: str | None = None) -> Source:
    """Return the source of a model. A path on this machine takes precedence over a repository on the hub.

    ``name``: "tiny", a path, a URL of a bucket, or OWNER/NAME on the hub. ``revision``: a branch, tag or commit on the
    hub; elsewhere the release of the weights. ``tokenizer``: a tokenizer.json, or a folder with one.

    Raises:
        ValueError: if there is no such model, it is not a Moondream that can be read, or "tiny" is given with
            ``revision`` or ``tokenizer``.
        RuntimeError: if the bucket or the hub cannot be reached.
    """
    tokenizer_path = Path(os.path.abspath(tokenizer)) if tokenizer is not None else None
    if name in EMBEDDED:
        if revision is not None or tokenizer is not None:
            raise ValueError(f"model {name}: it has one revision and one tokenizer; omit --revision and --tokenizer")
        return LocalModel.plan(name, None, None)
    if "://" in name:
        from .bucket_checkpoint import BucketModel

        return BucketModel.plan(name, revision, tokenizer_path)
    if os.path.exists(name):
        return LocalModel.plan(name, revision, tokenizer_path)
    if REPOSITORY_NAME.fullmatch(name) and not name.endswith(".safetensors"):
        from .hub import HubModel

        return HubModel.plan(name, revision, tokenizer_path)
    from .hub import similar_model

    raise ValueError(
        f"model {name}: no such folder; give a folder with config.json and model.safetensors, a repository on the hub "
        f"such as {OFFICIAL}, or 'tiny'{similar_model(name, list(EMBEDDED))}"
    )
