"""What the documents promise holds: snippets run, commands parse, targets and files exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from apache_beam.yaml.main import run as run_yaml
from PIL import Image

from moondream_beam.pipelines.cli import build_parser, main
from moondream_beam.pipelines.commands.annotate import beam_options
from moondream_beam.transforms.images.formats import EXTENSIONS

ROOT = Path(__file__).parents[2]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("*.md", "docs/**/*.md", "models/**/*.md")
    for path in sorted(ROOT.glob(folder))
]
# Fences within lists are indented.
FENCE = re.compile(r"^ *```(.*)\n((?:.*\n)*?) *```$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: ``line`` is where its text starts, ``kind`` what stands behind the fence."""

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = (ROOT / page).read_text()
    for fence in FENCE.finditer(text):
        yield Block(page, text[: fence.start(2)].count("\n") + 1, fence[1].strip(), textwrap.dedent(fence[2]))


def commands(script: str) -> Iterator[list[str]]:
    """The commands of a shell script as words; ``&&`` separates two."""
    for line in script.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if words := shlex.split(command, comments=True):
                yield words


BLOCKS = [block for page in PAGES for block in blocks(page)]
SNIPPETS = [block for block in BLOCKS if block.kind in ("python", "python out")]
SCRIPTS = [block for block in BLOCKS if block.kind in ("sh", "sh run")]
COMMANDS = [words for block in SCRIPTS for words in commands(block.text)]


@pytest.fixture
def somewhere(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with three pictures in ``photos``."""
    monkeypatch.chdir(tmp_path)
    # What `datasets` remembers of another output of the same name is not true of this one.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    Path("photos").mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (64, 48), colour).save(f"photos/{colour}.jpg")
    return tmp_path


def run_about_an_output(block: Block) -> None:
    """Run a snippet in a process of its own, in a folder with ``out``: captions of two lengths, and boxes."""
    if "pyspark" in block.text and shutil.which("java") is None:
        pytest.skip("Spark needs Java: install openjdk-17-jre-headless")
    tasks = ("--caption", "short", "--caption", "normal", "--detect", "circle")
    assert main(["annotate", "photos", "--output", "out", "--model", "tiny", "--no-report", *tasks]) == 0
    subprocess.run([sys.executable, "-c", block.text], check=True)


def links(page: str) -> Iterator[tuple[str, str]]:
    """The files of this repository that a page links to, each with the heading that is meant, or ""."""
    text = FENCE.sub("", (ROOT / page).read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, heading = target.partition("#")
            yield os.path.normpath(Path(page).parent / path) if path else page, heading


def headings(page: str) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", (ROOT / page).read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_each_link_to_a_file_and_to_a_heading_leads_there(page):
    for path, heading in links(page):
        assert (ROOT / path).exists(), f"{page} links to {path}, which does not exist"
        assert not heading or heading in headings(path), f"{page} links to {path}#{heading}, which does not exist"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_says_what_it_is(block):
    assert block.kind in ("python", "sh", "python out", "sh run", "text", "yaml", "yaml run"), (
        "a block of another kind is tested by nobody"
    )


@pytest.mark.parametrize("block", SNIPPETS, ids=str)
def test_a_python_snippet_runs(block, somewhere):
    if block.kind == "python out":
        run_about_an_output(block)
        return
    # Empty lines in front, so that a traceback shows the line of the page.
    code = compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec")
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("block", [block for block in SCRIPTS if block.kind == "sh run"], ids=str)
def test_a_script_marked_run_runs(block, somewhere):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True, env={**os.environ, "PATH": path})


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "yaml run"], ids=str)
def test_a_pipeline_in_yaml_marked_run_runs(block, somewhere):
    run_yaml(["--yaml_pipeline", block.text, "--runner=FnApiRunner"])
    assert list(somewhere.glob("**/*-00000-of-00001"))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind.startswith("yaml")], ids=str)
def test_yaml_can_be_read(block):
    assert all(isinstance(document, dict | list) for document in yaml.safe_load_all(block.text))


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "moondream-beam"], ids=shlex.join)
def test_a_moondream_beam_command_parses(words):
    args, for_beam = build_parser().parse_known_args(words[1:])
    beam_options(args, for_beam)


def test_readme_has_a_thousand_words_at_most():
    # As ``wc -w`` counts them. What does not fit belongs in docs/.
    assert len((ROOT / "README.md").read_text().split()) <= 1000


def test_a_target_of_make_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    quoted = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)`", (ROOT / page).read_text())}
    run = {target for words in COMMANDS if words[0] == "make" for target in words[1:]}
    assert {"demo", "test", "lint"} <= quoted | run <= targets


def test_the_architecture_names_every_module_once_and_no_ghost():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    lines = re.findall(r"^([\w-]*[./][\w./-]*|Makefile|LICENSE)  ", text, re.MULTILINE)
    named = set(lines)
    assert {name for name in named if not (ROOT / name).exists() or lines.count(name) > 1} == set()
    modules = {
        path.relative_to(ROOT).as_posix()
        for floor in ("models", "transforms", "pipelines")
        for path in (ROOT / floor).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules - named == set()


def test_the_endings_that_a_folder_takes_are_all_named():
    text = (ROOT / "docs/annotate.md").read_text()
    (named,) = re.findall(r"with these endings, in any case: ([^:]*)\. The same endings", text)
    assert sorted(re.findall(r"`(\.\w+)`", named)) == sorted(EXTENSIONS)


# Other Pythons lay the same words out otherwise.
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="docs/cli.md is made with Python 3.11")
def test_the_page_of_the_command_is_what_its_help_says():
    made = subprocess.run([sys.executable, ROOT / "docs/cli.py"], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert (ROOT / "docs/cli.md").read_text() == made, "run python docs/cli.py > docs/cli.md"
