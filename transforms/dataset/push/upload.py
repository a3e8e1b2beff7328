"""Upload files to a dataset on the Hugging Face hub, in several commits that a later push continues."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from ...io.object_stores.hub import hub_api, hub_token
from ...output.layout import CARD_NAME, DATA, EMPTY_PART, ERRORS, REPORT_NAME, run_of_part
from .card import is_replaceable

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
MESSAGE = "Upload with moondream-beam"


class Repository:
    """A dataset on the hub that an output is pushed to.

    Raises:
        ValueError: if ``HF_TOKEN`` is not set, the name is not valid, the token may not write there, the dataset is
            public although ``private`` is given, or it has Parquet files that no run wrote.
        RuntimeError: if the hub can't be reached.
    """

    def __init__(self, name: str, *, private: bool) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name}: give the name of the dataset on the hub as OWNER/NAME")
        if not hub_token():
            page = f"{constants.ENDPOINT}/settings/tokens"
            raise ValueError(f"{name}: HF_TOKEN is not set: set it to a token with write access, see {page}")
        self.name, self.url = name, f"{constants.ENDPOINT}/datasets/{name}"
        self._api: HfApi = hub_api()
        with _startup_errors(self.url):
            self._api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
            info = self._api.dataset_info(name)
            self.files = {each.rfilename for each in info.siblings or ()}
        if private and not info.private:
            raise ValueError(f"{self.url} exists and is public: make it private there, or leave out --private")
        for path in self._tables():
            if run_of_part(os.path.basename(path)) is None and os.path.basename(path) != EMPTY_PART:
                raise ValueError(f"{self.url} has {path}, which annotate did not write: choose another name")

    def upload(self, folder: Path) -> None:
        """Upload the files below a folder. Files that are there already are not uploaded again.

        Raises:
            RuntimeError: if the upload fails.
        """
        with self._errors():
            self._api.upload_folder(repo_id=self.name, repo_type="dataset", folder_path=folder, commit_message=MESSAGE)

    def finish(self, card: str, report: bytes | None, names: Collection[str]) -> bool:
        """Add card and report, and delete the Parquet files of earlier pushes that are not in ``names``, in one commit.

        Returns:
            False if there is a card that others have written or edited. It stays as it is.

        Raises:
            RuntimeError: if the commit fails.
        """
        with self._errors():
            there = self._read_card()
            replaces = is_replaceable(there)
            files = {CARD_NAME: card.encode()} if replaces and there != card else {}
            if report is not None:
                files[REPORT_NAME] = report
            added = [CommitOperationAdd(name, content) for name, content in files.items()]
            deleted = [CommitOperationDelete(name) for name in sorted(self._tables() - set(names))]
            if added or deleted:
                self._api.create_commit(
                    self.name, [*added, *deleted], repo_type="dataset", commit_message=f"{MESSAGE}: card"
                )
        return replaces

    def _read_card(self) -> str:
        """Return the text of the card, or "" if there is none."""
        if CARD_NAME not in self.files:
            return ""
        try:
            path = self._api.hf_hub_download(self.name, CARD_NAME, repo_type="dataset", force_download=True)
        except EntryNotFoundError:
            return ""
        return Path(path).read_text(encoding="utf-8", errors="replace")

    def _tables(self) -> set[str]:
        return {
            path for path in self.files if path.startswith((f"{DATA}/", f"{ERRORS}/")) and path.endswith(".parquet")
        }

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # The client passes on any error of its HTTP libraries.
            raise RuntimeError(
                f"the upload to {self.url} stopped: {_first_line(error)}; run the same command again to continue"
            ) from error


@contextlib.contextmanager
def _startup_errors(url: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{url}: {_first_line(error)}; give another name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (400, 401, 403, 404):
            cure = "give HF_TOKEN write access to this owner, or another name"
            raise ValueError(f"{url} can't be written to (HTTP status {status}): {cure}") from error
        raise RuntimeError(f"{url} fails (HTTP status {status}): run the same command again later") from error
    except Exception as error:
        cure = "check the network, and run the same command again"
        raise RuntimeError(f"{url} can't be reached ({type(error).__name__}): {cure}") from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error, without the token."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line.replace(str(hub_token()), "HF_TOKEN")
