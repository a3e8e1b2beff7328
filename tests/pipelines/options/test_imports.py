"""What a command may import. Each command runs in a process of its own, which lists its modules at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# They take 0.1 to 2 seconds each to import.
HEAVY = {
    "torch", "apache_beam", "scipy", "pandas", "IPython", "numpy", "pyarrow", "duckdb", "huggingface_hub", "grpc",
    "transformers", "boto3", "google", "azure", "jinja2", "fal_client", "httpx",
}  # fmt: skip
# What reading Parquet takes. Of ``report`` and ``export`` also what queries and renders it.
PARQUET = {"numpy", "pyarrow"}
# DuckDB looks for pandas when it gets a table of Arrow.
DATABASE = {*PARQUET, "duckdb", "pandas"}
# Beam imports these by itself, if they are installed.
BY_BEAM = {"pandas", "boto3", "google", "azure", "grpc", "IPython"}
PROGRAM = """
import json, sys
from moondream_beam.pipelines.cli import main
try:
    status = main(sys.argv[2:])
except SystemExit as error:
    status = error.code
open(sys.argv[1], "w").write(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run(tmp_path: Path, *words: str) -> tuple[int, set[str], str]:
    """Run the command; return its exit status, the heavy modules that it imported, and its standard error."""
    listing = tmp_path / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, os.fspath(listing), *words], capture_output=True, text=True, check=True
    )
    status, modules = json.loads(listing.read_text())
    return status, HEAVY & set(modules), done.stderr


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a run over one picture."""
    from moondream_beam.models.tiny.scenes import draw

    folder = tmp_path_factory.mktemp("one")
    (folder / "pictures").mkdir()
    draw(7).image.save(folder / "pictures" / "a.png")
    words = ["annotate", str(folder / "pictures"), "--model", "tiny", "--output", str(folder / "out"), "--no-report"]
    status, modules, _ = run(folder, *words)
    assert status == 0
    # One picture needs torch and Beam, and nothing of the hub, of hosted APIs, or of the rest of Beam.
    assert modules <= {*DATABASE, *BY_BEAM, "torch", "apache_beam", "jinja2"}
    return folder / "out"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        [],
        ["annotat"],
        *([command, "--help"] for command in ("annotate", "estimate", "status", "report", "export", "demo")),
        ["annotate", "a.png"],
        ["annotate", "a.png", "--output", "out", "--workers", "many"],
        ["status"],
        ["status", "out", "--wacth"],
        ["report", "out", "--no-pictures"],
        ["export", "out", "x.jsonl", "--to", "json"],
        ["export", "out", "x.jsonl", "--to", "jsonl", "--wher", "true"],
        ["demo", "--model", "tiny"],
    ],
    ids=" ".join,
)
def test_help_and_words_that_the_parser_refuses_import_nothing_heavy(tmp_path: Path, words: Sequence[str]) -> None:
    status, modules, _ = run(tmp_path, *words)
    assert status == (0 if {"--help", "--version"} & set(words) else 2)
    assert modules == set()


@pytest.mark.parametrize(
    "words, named",
    [
        (["--limit", "0"], "--limit 0"),
        (["--shard-size", "0"], "--shard-size 0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--device", "gpu"], "device gpu"),
        (["--temperature", "-1"], "temperature -1"),
        (["--slice", "4/4"], "slice 4/4"),
        (["--backend", "transformers", "--price", "1/2"], "--price"),
        (["--prompt-template", "{prompt}"], "--prompt-template"),
        (["--gpu", "nvidia-l4"], "--gpu"),
        (["--webhook", "https://a.example"], "--webhook"),
        (["--quary", "What?"], "--quary"),
        (["--manifest", "no-such.csv"], "no-such.csv"),
        (["--uri-column", "link"], "--uri-column"),
        (["no-such-folder"], "no-such-folder"),
        (["pictures.csv"], "pictures.csv"),
        (["--output", "s3:/bucket"], "out"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_in_options_are_found_before_torch_and_beam_are_imported(
    tmp_path: Path, output: Path, words: Sequence[str], named: str
) -> None:
    (tmp_path / "a-file").touch()
    out = ["--output", str(tmp_path / ("a-file" if "--output" in words else "out"))]
    inputs = [] if words[0].startswith(("no-such", "pictures.csv")) else [str(output.parent / "pictures")]
    status, modules, message = run(
        tmp_path, "annotate", *inputs, *(out if "--output" in words else [*words, *out]), "--model", "tiny"
    )
    assert status == 2 and len(message.splitlines()) == 1
    assert (named if "--output" not in words else "a-file") in message
    assert modules <= PARQUET


@pytest.mark.parametrize("words", [["--sample", "0"], ["--num_workers=2"], ["--caption", "brief"]], ids=" ".join)
def test_mistakes_in_options_of_estimate_are_found_early_too(tmp_path: Path, output: Path, words: list[str]) -> None:
    status, modules, message = run(tmp_path, "estimate", str(output.parent / "pictures"), "--model", "tiny", *words)
    assert status == 2 and words[0].partition("=")[0] in message
    assert modules <= PARQUET


def test_status_report_and_export_need_neither_torch_nor_beam(tmp_path: Path, output: Path) -> None:
    status, modules, _ = run(tmp_path, "status", str(output))
    assert status == 0 and modules <= PARQUET
    status, modules, _ = run(tmp_path, "report", str(output))
    assert status == 0 and modules <= {*DATABASE, "jinja2"}
    for to in ("jsonl", "coco", "sidecar", "imagefolder", "webdataset"):
        status, modules, message = run(tmp_path, "export", str(output), str(tmp_path / to), "--to", to)
        # Of an output without boxes, coco has nothing to export.
        assert status == 0 or (to == "coco" and "box" in message)
        assert modules <= DATABASE


def test_the_package_and_its_answers_import_nothing_heavy(tmp_path: Path) -> None:
    program = "import sys, moondream_beam; from moondream_beam import Caption; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert {name.partition(".")[0] for name in names.split()} & HEAVY == set()
