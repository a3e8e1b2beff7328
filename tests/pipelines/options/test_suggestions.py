"""A mistake on the command line is told together with what was meant, and ``~`` is the home folder in every option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moondream_beam.pipelines.options.suggestions import quote_hint

Command = Callable[..., tuple[int, str, str]]
GOOD = ("annotate", "pictures", "--model", "tiny", "--output", "out")


@pytest.fixture(autouse=True)
def here(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work beside the pictures, in the folder that is also the home folder."""
    monkeypatch.chdir(pictures.parent)
    monkeypatch.setenv("HOME", str(pictures.parent))
    return pictures.parent


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("anotate", "pictures"), "did you mean annotate?"),
        (("annotate", "pictures", "--ouput=out"), "did you mean --output in place of --ouput?"),
        (("annotate", "pictures", "-output", "out"), "did you mean --output in place of -output?"),
        ((*GOOD, "--modle", "tiny"), "did you mean --model?"),
        ((*GOOD, "--max_failure_rate=1"), "did you mean --max-failure-rate?"),
        ((*GOOD, "--temp-location=gs://b"), "did you mean --temp_location?"),
        ((*GOOD, "--dtype", "float23"), "did you mean float32?"),
        ((*GOOD, "--caption", "shrot"), "did you mean short?"),
        ((*GOOD, "--model", "tniy"), "did you mean tiny?"),
        ((*GOOD, "--query", "Is", "it", "red?", "--caption"), ": --query 'Is it red?'"),
        ((*GOOD, "--output=my", "out"), ": --output='my out'"),
        (("export", "out", "--to", "jsnol", "new"), "did you mean jsonl?"),
        (("export", "out", "--to", "jsonl", "new", "--exsting", "add"), "did you mean --existing?"),
    ],
)
def test_a_misspelling_gets_the_name_that_was_meant(words: tuple[str, ...], meant: str, command: Command) -> None:
    status, stdout, stderr = command(*words)
    assert (status, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert meant in line


def test_a_name_that_is_like_none_gets_no_suggestion(command: Command) -> None:
    for words in ((*GOOD, "--zebra"), ("zebra",), (*GOOD, "--caption", "zebra")):
        status, _, stderr = command(*words)
        assert status == 2 and "did you mean" not in stderr


@pytest.mark.parametrize("words", [("my", "photos"), ("my", "photos/*.png")])
def test_a_path_whose_spaces_are_not_quoted_is_named_in_quotes(
    words: tuple[str, ...], here: Path, command: Command
) -> None:
    (here / "pictures").rename(here / "my photos")
    status, _, stderr = command("annotate", *words, "--model", "tiny", "--output", "out")
    assert status == 2 and f"input my: no such file or folder; did you mean '{' '.join(words)}'?" in stderr


def test_a_path_that_exists_is_not_taken_for_a_part_of_a_value() -> None:
    assert quote_hint(("--output", "out", "pictures"), "pictures") == ""
    assert quote_hint(("--dedup", "photos"), "photos") == ""


def test_a_missing_folder_and_a_folder_without_a_picture_are_two_messages(here: Path, command: Command) -> None:
    (here / "empty").mkdir()
    (here / "notes").mkdir()
    (here / "notes" / "a.txt").touch()
    rest = ("--model", "tiny", "--output", "out")
    assert "input gone: no such file or folder" in command("annotate", "gone", *rest)[2]
    assert "input empty: no picture in it or its subfolders: " in command("annotate", "empty", *rest)[2]
    assert "input notes: no picture in it or its subfolders, but 1 x files" in command("annotate", "notes", *rest)[2]


def test_a_tilde_in_each_option_is_the_home_folder(here: Path, command: Command) -> None:
    (here / "list.csv").write_text("url\n~/pictures/a.png\n")
    (here / "names.csv").write_text("url\nb\n")
    (here / "ask.txt").write_text("Is it red?\n")
    rest = ("--model=tiny", "--prompts=~/ask.txt", "--no-report")
    assert command("annotate", "~/pictures/c.webp", "--output=~/one", *rest)[0] == 0
    assert command("annotate", "--manifest=~/list.csv", "--output=~/one", *rest)[0] == 0
    assert command("annotate", "--manifest=~/names.csv", "--root=~/pictures", "--output=~/one", *rest)[0] == 0
    assert "3 rows in data/" in command("status", "~/one")[1]
    assert command("export", "~/one", "--to", "jsonl", "~/new.jsonl")[0] == 0
    assert (here / "new.jsonl").is_file() and not (here / "~").exists()
    status, _, stderr = command("annotate", "pictures", "--output", "out", "--model=~/weights")
    assert status == 2 and f"model {here}/weights: no such folder" in stderr


def test_files_of_other_programs_in_the_output_are_never_touched(here: Path, command: Command) -> None:
    out = here / "out"
    theirs = ["README.md", "report.html", "table.parquet", "runs/notes.json", "_temporary/0/part"]
    for name in theirs:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    status, stdout, stderr = command(*GOOD, "--caption", "short", "--max-failure-rate", "1")
    assert status == 0 and "README.md is not from moondream-beam and was kept" in stdout
    assert "report.html was edited, or another program wrote it, so it was kept" in stderr
    assert {name: (out / name).read_text() for name in theirs} == dict.fromkeys(theirs, "{}")


@pytest.mark.parametrize("content", ["table", "text"])
def test_a_run_is_refused_where_parquet_of_another_program_is_in_data(
    content: str, here: Path, command: Command
) -> None:
    path = here / "out" / "data" / "x.parquet"
    path.parent.mkdir(parents=True)
    if content == "table":
        pq.write_table(pa.table({"label": [1]}), path)
    else:
        path.write_text("label\n1\n")
    before = path.read_bytes()
    status, _, stderr = command(*GOOD, "--caption", "short")
    assert status == 2 and str(here / "out") in stderr and "another output" in stderr
    assert "another program wrote them" in stderr or str(path) in stderr
    assert path.read_bytes() == before and {each.name for each in (here / "out").rglob("*")} == {"data", "x.parquet"}
