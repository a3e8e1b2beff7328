"""Check the inputs of the options, and return what to annotate. Neither Beam nor PyTorch is imported for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from ...models.tasks import Query, Task
from ...transforms.core.prompt_templates import column_template, named_columns, unescape_braces
from ...transforms.core.records import ColourProfiles, check_colour_profiles
from ...transforms.images.fetch import Fetcher
from ...transforms.inputs.lists.addresses import path_hint
from ...transforms.inputs.lists.table_files import is_table
from ...transforms.inputs.manifest_columns import Columns, check_columns
from ...transforms.inputs.unmatched import first_unmatched
from ...transforms.output.files import check_output_path
from ...transforms.output.reader import published_columns
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
    for table in filter(is_table, args.inputs):
        raise ValueError(f"input {table}: this is a table; give it as --manifest, with --uri-column or --image-column")
    if (nothing := first_unmatched(args.inputs)) is not None:
        hint = space_hint(args.inputs, nothing.pattern) or path_hint(nothing.pattern)
        raise ValueError(f"input {nothing.pattern}: {hint or nothing.reason}")
    how = (Fetcher(args.allow_private_addresses), check_colour_profiles(args.colour_profiles))
    tasks: list[Task] = list(args.tasks or ())
    if args.manifest and args.prompt_column:
        tasks.append(Query(column_template(args.prompt_column)))
    asked = with_schema(with_reasoning(tasks or [Query()], args), args)
    if not args.manifest:
        _reject_manifest_options(args)
        return Inputs(tuple(args.inputs), (), asked, Columns(DEFAULT_URI_COLUMN), *how)
    if args.uri_column and args.image_column:
        raise ValueError("--uri-column and --image-column exclude each other: give one of the two")
    uri = args.uri_column or (None if args.image_column else DEFAULT_URI_COLUMN)
    columns = Columns(uri, args.filename_column, asked, image=args.image_column, root=args.root)
    keep = [name.strip() for name in args.keep_columns.split(",") if name.strip()]
    for name in keep:
        if keep.count(name) > 1:
            raise ValueError(f"--keep-columns names {name} twice: name it once")
    published = published_columns(check_output_path(args.output)) if keep and "output" in args else {}
    columns = check_columns(args.manifest, columns, keep, published=published)
    named = named_columns(columns.tasks)
    if named and args.inputs:
        raise ValueError(
            f"a prompt names column {named[0]}, and input {args.inputs[0]} has no columns: give manifests only"
        )
    asked = columns.tasks if named else tuple(map(unescape_braces, columns.tasks))
    return Inputs(tuple(args.inputs), tuple(args.manifest), asked, columns, *how)


def _reject_manifest_options(args: argparse.Namespace) -> None:
    """Raise ValueError if an option about columns of a manifest is given."""
    options: Sequence[str] = ("uri_column", "image_column", "filename_column", "prompt_column", "root", "keep_columns")
    for option in options:
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} needs a --manifest: give one, or leave the option out")
