"""The inputs on the command line: where the pictures are, and what a manifest says of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ...models.tasks import Query, Task
from ...transforms.core.prompt_templates import literal, named_columns, template
from ...transforms.core.records import ImageRef
from ...transforms.images.fetch import Fetcher
from ...transforms.inputs.images import ReadImages, first_unmatched
from ...transforms.inputs.manifest import Columns, ReadManifests, check_columns
from ...transforms.inputs.tables import is_table

DEFAULT_URI_COLUMN = "url"


@dataclass(frozen=True)
class Inputs:
    """Pictures by pattern, pictures by manifest, and what is asked of those that a manifest asks nothing of."""

    patterns: tuple[str, ...]
    manifests: tuple[str, ...]
    tasks: tuple[Task, ...]
    columns: Columns
    fetch: Fetcher

    def read(self, pipeline: beam.Pipeline) -> PCollection[ImageRef]:
        """References to all of them."""
        refs = []
        if self.patterns:
            refs.append(pipeline | "Read images" >> ReadImages(*self.patterns))
        if self.manifests:
            refs.append(pipeline | "Read manifests" >> ReadManifests(self.manifests, self.columns))
        return refs[0] if len(refs) == 1 else tuple(refs) | "All inputs" >> beam.Flatten()


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """The patterns and the manifests."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="a file, a folder or a glob, on disk or in a bucket (s3://, gs://, az://, hdfs://), or a URL; quote globs",
    )
    group = parser.add_argument_group("manifests", "lists of pictures; a prompt may then name columns in {braces}")
    group.add_argument(
        "--manifest",
        action="append",
        default=[],
        metavar="FILE",
        help=".csv, .tsv, .jsonl, .ndjson or .parquet, here or in a bucket, or a glob of them; repeatable",
    )
    group.add_argument("--uri-column", metavar="NAME", help=f"where the picture lies ({DEFAULT_URI_COLUMN})")
    group.add_argument(
        "--image-column",
        metavar="NAME",
        help="of Parquet: the picture itself, as bytes or as {bytes, path}, in the place of --uri-column",
    )
    group.add_argument("--filename-column", metavar="NAME", help="what it is called; else the end of its URI")
    group.add_argument("--prompt-column", metavar="NAME", help="a question for each row")
    group.add_argument("--keep-columns", default="", metavar="A,B", help="columns that rows of data/ are to bear")
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let http(s) reach this machine and its private networks",
    )


def inputs_of(args: argparse.Namespace) -> Inputs:
    """The inputs that the options name, each seen to be there.

    Raises:
        ValueError: there is none, one matches nothing, or a column is not there, with the cure.
        OSError: one can't be read.
        RuntimeError: the client for it is not installed.
    """
    if not args.inputs and not args.manifest:
        raise ValueError("no input: give a file, a folder, a glob or a --manifest")
    for table in filter(is_table, args.inputs):
        raise ValueError(
            f"input {table}: a table is no picture; give it as --manifest, with --uri-column or --image-column"
        )
    if (nothing := first_unmatched(args.inputs)) is not None:
        raise ValueError(f"input {nothing}: no picture there; check the path, and quote a glob")
    fetch = Fetcher(args.allow_private_addresses)
    tasks: list[Task] = list(args.tasks or ())
    if not args.manifest:
        _refuse_without_manifest(args)
        return Inputs(tuple(args.inputs), (), tuple(tasks or [Query()]), Columns(DEFAULT_URI_COLUMN), fetch)
    if args.prompt_column:
        tasks.append(Query(template(args.prompt_column)))
    if args.uri_column and args.image_column:
        raise ValueError("a picture lies at its --uri-column or in its --image-column: give one of the two")
    uri = args.uri_column or (None if args.image_column else DEFAULT_URI_COLUMN)
    columns = Columns(uri, args.filename_column, tuple(tasks or [Query()]), image=args.image_column)
    keep = [name.strip() for name in args.keep_columns.split(",") if name.strip()]
    for name in keep:
        if keep.count(name) > 1:
            raise ValueError(f"--keep-columns names {name} twice: once is enough")
    columns = check_columns(args.manifest, columns, keep)
    named = named_columns(columns.tasks)
    if named and args.inputs:
        raise ValueError(f"a prompt names column {named[0]}, which {args.inputs[0]} has not: give manifests only")
    asked = columns.tasks if named else tuple(map(literal, columns.tasks))
    return Inputs(tuple(args.inputs), tuple(args.manifest), asked, columns, fetch)


def _refuse_without_manifest(args: argparse.Namespace) -> None:
    options: Sequence[str] = ("uri_column", "image_column", "filename_column", "prompt_column", "keep_columns")
    for option in options:
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} is about a --manifest, and there is none")
