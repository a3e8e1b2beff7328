"""Check the inputs of the options, and return what to annotate. Neither Beam nor PyTorch is imported for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...models.tasks import Query, Task
from ...transforms.core.prompt_templates import column_template, named_columns, unescape_braces
from ...transforms.core.records import ColourProfiles, check_colour_profiles
from ...transforms.images.fetch import Fetcher
from ...transforms.inputs.json_beside import check_json_columns
from ...transforms.inputs.lists.addresses import path_hint
from ...transforms.inputs.lists.saved_datasets import find_saved_split, is_saved_dataset
from ...transforms.inputs.lists.table_files import is_table, list_manifests
from ...transforms.inputs.manifest_columns import Columns, check_columns
from ...transforms.inputs.patterns.patterns import absolute_pattern
from ...transforms.inputs.patterns.unmatched import first_unmatched
from ...transforms.io.containers.location import COLUMNAR
from ...transforms.io.object_stores.base import pin_commit
from ...transforms.io.object_stores.hub_path import PREFIX, HubPath
from ...transforms.io.uris import HUB, scheme_of
from ...transforms.output.files import check_output_path
from ...transforms.output.reader import latest_uris, published_columns
from ...transforms.output.run_record import read_records
from ..options.inputs import DEFAULT_URI_COLUMN
from ..options.suggestions import space_hint
from ..options.tasks import with_reasoning, with_schema


@dataclass(frozen=True)
class Inputs:
    """What to annotate.

    Attributes:
        patterns: paths, globs and URLs of pictures.
        manifests: paths of manifests.
        tasks: what to ask of each picture. With a manifest, a prompt may name columns.
        columns: the columns of the manifests to use and to keep.
        fetch: reads the bytes of a picture.
        colour_profiles: how the ICC profile of a picture is used.
    """

    patterns: tuple[str, ...]
    manifests: tuple[str, ...]
    tasks: tuple[Task, ...]
    columns: Columns
    fetch: Fetcher
    colour_profiles: ColourProfiles


def build_inputs(args: argparse.Namespace) -> Inputs:
    """Return the inputs of the options, after a check that they exist.

    Raises:
        ValueError: if no input is given, an input matches no picture, a column does not exist, or options conflict.
        OSError: if an input cannot be read.
        RuntimeError: if the client for a bucket is not installed.
    """
    if not args.inputs and not args.manifest:
        raise ValueError("no input: give a file, a folder, a glob, a URL or a --manifest")
    _pin_datasets(args)
    # `load_from_disk` of `datasets` takes the folder too, and a folder of pictures has no such files.
    args.manifest += [folder for folder in args.inputs if is_saved_dataset(folder)]
    args.inputs = [folder for folder in args.inputs if not is_saved_dataset(folder)]
    for table in filter(is_table, args.inputs):
        raise ValueError(f"input {table}: this is a table; give it as --manifest, with --uri-column or --image-column")
    if (nothing := first_unmatched(args.inputs)) is not None:
        hint = space_hint(args.inputs, nothing.pattern) or path_hint(nothing.pattern)
        raise ValueError(f"input {nothing.pattern}: {hint or nothing.reason}")
    how = (Fetcher(args.allow_private_addresses), check_colour_profiles(args.colour_profiles))
    tasks: list[Task] = list(args.tasks or ())
    if args.prompt_column:
        tasks.append(Query(column_template(args.prompt_column)))
    asked = with_schema(with_reasoning(tasks or [Query()], args), args)
    if not args.manifest:
        _reject_manifest_options(args)
    if not args.manifest and not args.keep_columns and not args.prompt_column:
        if args.skip_empty_prompts:
            raise ValueError("--skip-empty-prompts needs a --manifest, --keep-columns or --prompt-column: add one")
        return Inputs(tuple(args.inputs), (), asked, Columns(DEFAULT_URI_COLUMN), *how)
    manifests = _find_tables(args)
    columns = _build_columns(args, manifests, asked)
    named = named_columns(columns.tasks)
    if named and args.inputs and manifests:
        raise ValueError(
            f"a prompt names column {named[0]}, and input {args.inputs[0]} has no columns: give manifests only"
        )
    asked = columns.tasks if named else tuple(map(unescape_braces, columns.tasks))
    return Inputs(tuple(args.inputs), tuple(manifests), asked, columns, *how)


def _build_columns(args: argparse.Namespace, manifests: Sequence[str], tasks: tuple[Task, ...]) -> Columns:
    """Return the columns of the options, after a check that the manifests have them, or the JSON beside the pictures.

    Raises:
        ValueError: if a column does not exist, or options conflict.
        OSError: if a manifest cannot be read.
    """
    if args.uri_column and args.image_column:
        raise ValueError("--uri-column and --image-column exclude each other: give one of the two")
    note: tuple[str, ...] = ()
    if not args.uri_column and not args.image_column and (found := find_image_column_of(manifests)):
        args.image_column, note = found, (f"the pictures are in column {found}; to choose another, add --image-column",)
    keep = [name.strip() for name in args.keep_columns.split(",") if name.strip()]
    for name in keep:
        if keep.count(name) > 1:
            raise ValueError(f"--keep-columns names {name} twice: name it once")
    published = published_columns(check_output_path(args.output)) if keep and "output" in args else {}
    if not manifests:
        beside = Columns(DEFAULT_URI_COLUMN, tasks=tasks, skip_empty_prompts=args.skip_empty_prompts)
        return check_json_columns(args.inputs, beside, keep, published)
    uri = args.uri_column or (None if args.image_column else DEFAULT_URI_COLUMN)
    columns = Columns(
        uri,
        args.filename_column,
        tasks,
        image=args.image_column,
        root=args.root,
        skip_empty_prompts=args.skip_empty_prompts,
    )
    columns = check_columns(manifests, columns, keep, published=published)
    return replace(columns, notes=(*note, *columns.notes))


def _find_tables(args: argparse.Namespace) -> list[str]:
    """Return the manifests, with the files of a split in place of a dataset of the hub or a saved dataset.

    These files are an attribute ``tables`` of the arguments, so that the record of the run has their commit.

    Raises:
        ValueError: if there is no such config or split, or a manifest is no dataset.
        RuntimeError: if the hub can't be reached.
    """
    if not args.split and not args.config:
        return list(args.manifest)
    tables: list[str] = []
    for manifest in args.manifest:
        found = find_tables(manifest, args.split, args.config)
        if "output" in args and manifest.startswith(PREFIX):
            _check_commit(manifest, HubPath.parse(found[0]), check_output_path(args.output))
        tables += found
    args.tables = tables
    return tables


def find_tables(manifest: str, split: str | None, config: str | None) -> list[str]:
    """Return the manifests that a manifest with ``split`` or ``config`` stands for; without both, itself.

    Raises:
        ValueError: if there is no such config or split, or the manifest is no dataset.
        RuntimeError: if the hub can't be reached.
    """
    if not split and not config:
        return [manifest]
    if manifest.startswith(PREFIX):
        # Imported here, because pyarrow takes long to import.
        from ...transforms.inputs.lists.hub_datasets import find_split

        return find_split(absolute_pattern(manifest), config, split)
    if config or not split:
        raise ValueError(f"--config is for hf://datasets/OWNER/NAME, not {manifest}: leave it out")
    return [find_saved_split(absolute_pattern(manifest), split)]


def find_image_column_of(manifests: Sequence[str]) -> str | None:
    """Return the only column of pictures in the first manifest, if it is Parquet or Arrow and has no column ``url``.

    Raises:
        ValueError: if it has several such columns, or a manifest has no valid name.
        OSError: if it can't be read.
    """
    paths = (path for manifest in manifests for path in list_manifests(absolute_pattern(manifest)))
    if (first := next(paths, "")) and not first.lower().endswith(COLUMNAR):
        return None
    # Imported here, because pyarrow takes long to import, and CSV needs none.
    from ...transforms.inputs.lists.hub_datasets import find_image_column

    return find_image_column(first, unless=DEFAULT_URI_COLUMN) if first else None


def _pin_datasets(args: argparse.Namespace) -> None:
    """Add the commit to each URI of the Hugging Face hub in the arguments, so that the record of the run has it.

    Raises:
        ValueError: if a dataset or revision does not exist, or if the output has rows of the dataset at other commits
            only: all its pictures would be annotated again.
        RuntimeError: if the hub can't be reached.
    """

    def pin(uri: str) -> str:
        pinned = pin_commit(uri) if scheme_of(uri) == HUB else uri
        if pinned != uri and "output" in args:
            _check_commit(uri, HubPath.parse(pinned), check_output_path(args.output))
        return pinned

    args.inputs, args.manifest = list(map(pin, args.inputs)), list(map(pin, args.manifest))
    args.root = args.root and pin(args.root)


def _check_commit(given: str, now: HubPath, output: str) -> None:
    """Raise ValueError if an output has the dataset of a URI, and only at other commits.

    Looked at are the records of runs and, because a run that was killed has none, a row of the latest files.
    """
    paths = [HubPath.parse(uri) for uri in latest_uris(output) if uri.startswith(PREFIX)]
    earlier = [path.revision for path in paths if path.repository == now.repository]
    for options in (record.get("options") or {} for record in read_records(output)):
        uris = [*(options.get("inputs") or []), *(options.get("manifest") or []), options.get("root") or ""]
        uris += options.get("tables") or []
        paths = [HubPath.parse(uri) for uri in uris if uri.startswith(PREFIX)]
        earlier += [path.revision for path in paths if path.repository == now.repository]
    if earlier and now.revision not in earlier:
        old = now._replace(revision=earlier[-1]).uri
        raise ValueError(
            f"{given}: the dataset has changed since the last run: give {old} to continue with the commit of that run, "
            f"or {now.uri} to annotate all pictures of the new commit"
        )


def _reject_manifest_options(args: argparse.Namespace) -> None:
    """Raise ValueError if an option about columns of a manifest is given."""
    for option in ("uri_column", "image_column", "filename_column", "root", "split", "config"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} needs a --manifest: give one, or leave the option out")
