"""The command with a small model of transformers: rows, a second run, and options that are refused."""

import pyarrow.parquet as pq
import pytest
from support.checkpoints.families import save_checkpoint
from support.checkpoints.requests import noise

TRANSFORMERS = ("--backend", "transformers", "--device", "cpu", "--max-tokens", "4")


def rows(out):
    return pq.read_table(out / "data").to_pylist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint("smolvlm", tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        noise(60 + 20 * number, 50, number).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def test_captions_and_queries_have_rows_and_a_second_run_asks_nothing(pictures, checkpoint, tmp_path, command):
    words = (
        *TRANSFORMERS,
        "--model",
        checkpoint,
        "--caption",
        "short",
        "--query",
        "What?",
        "--output",
        tmp_path / "out",
    )
    status, stdout, _ = command("annotate", pictures, *words)
    assert status == 0 and "6 requests = 6 in data/ + 0 in errors/: balances" in stdout
    written = rows(tmp_path / "out")
    assert {row["backend"] for row in written} == {"transformers/cpu/float32"}
    assert {row["model"] for row in written} == {str(checkpoint)}
    assert all(row["revision"].endswith("; images by torchvision") for row in written)
    assert all(row["caption"] and row["output_tokens"] <= 4 for row in written)
    files = sorted((tmp_path / "out" / "data").iterdir())
    status, _, _ = command("annotate", pictures, *words)
    assert status == 0 and sorted((tmp_path / "out" / "data").iterdir()) == files


@pytest.mark.slow
def test_florence_finds_boxes(pictures, tmp_path, command):
    (tmp_path / "model").mkdir()
    folder = save_checkpoint("florence2", tmp_path / "model")
    words = (*TRANSFORMERS, "--model", folder, "--detect", "dog", "--output", tmp_path / "out")
    status, stdout, _ = command("annotate", pictures, *words)
    assert status == 0 and "3 requests = 3 in data/ + 0 in errors/: balances" in stdout
    written = rows(tmp_path / "out")
    assert {(row["task"], row["prompt"], row["backend"]) for row in written} == {
        ("detect", "dog", "transformers/cpu/float32")
    }
    boxes = [box for row in written for box in row["objects"]]
    assert boxes and all(0 < box["x_min"] <= box["x_max"] < 1 for box in boxes)


@pytest.mark.parametrize(
    "words, cure",
    [
        (TRANSFORMERS, "--backend transformers needs a model: add --model with a folder"),
        (
            (*TRANSFORMERS, "--model", "CHECKPOINT", "--detect", "dog"),
            "can't be asked to detect, only for caption",
        ),
        (
            (*TRANSFORMERS, "--model", "CHECKPOINT", "--point", "dog"),
            "can't be asked to point, only for caption",
        ),
        ((*TRANSFORMERS, "--model", "CHECKPOINT", "--send-urls"), "--send-urls is not for --backend transformers"),
        ((*TRANSFORMERS, "--model", "CHECKPOINT", "--prompt-template", "x"), "put {prompt} where the prompt belongs"),
        ((*TRANSFORMERS, "--model", "CHECKPOINT", "--max-pixels", "0"), "max pixels 0: give 1 or more"),
        ((*TRANSFORMERS, "--model", "./no-such-folder"), "no such folder; give a folder, or OWNER/NAME"),
        (("--model", "tiny", "--prompt-template", "{prompt}"), "add --backend transformers"),
        (("--model", "tiny", "--caption-prompt", "short=x"), "add --backend openai, or transformers"),
    ],
)
def test_bad_options_are_one_line_with_the_cure(pictures, checkpoint, tmp_path, command, words, cure):
    given = [checkpoint if word == "CHECKPOINT" else word for word in words]
    status, stdout, stderr = command("annotate", pictures, *given, "--output", tmp_path / "out")
    (line,) = stderr.splitlines()
    assert (status, stdout) == (2, "") and cure in line and not (tmp_path / "out").exists()
