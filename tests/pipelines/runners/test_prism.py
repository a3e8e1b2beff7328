"""The command and own pipelines on Prism: interrupted, without Prism, with a lost worker, and to the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.prism_runner import PrismJobServer
from support.running.drill import draw_pictures
from support.running.launcher import Launcher
from support.running.output_ids import ids
from support.running.prism import PATIENCE, CommandRun, prism_program

PICTURES, BROKEN = 30, 3
TASKS = ("--query", "Is it red?", "--query", "Is it blue?")
ROWS = (PICTURES + BROKEN) * 2
# An own pipeline with Annotate, one in Beam YAML, and one with RunInference, on one Prism after another.
OWN_PIPELINES = """
import sys
import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.yaml.main import run
from moondream_beam import Annotate, Caption, Moondream, MoondreamModelHandler, ReadImages
from moondream_beam.pipelines.beam_yaml import PROVIDERS

program, photos, out = sys.argv[1:]
options = {"runner": "PrismRunner", "prism_location": program}
model = Moondream("tiny", device="cpu", threads=1)

def keep(rows, name):
    rows | f"Write {name}" >> beam.io.WriteToText(f"{out}/{name}", num_shards=1)

with beam.Pipeline(options=PipelineOptions(**options)) as pipeline:
    rows = pipeline | ReadImages(photos) | Annotate([Caption("short")], model)
    keep(rows.annotations | beam.Map(lambda row: row.filename), "annotations")
    keep(rows.failures | beam.Map(lambda row: row.filename), "failures")
    contents = pipeline | beam.Create([f"{photos}/{number}.png" for number in range(3)]) | beam.Map(
        lambda path: open(path, "rb").read()
    )
    handler = MoondreamModelHandler([Caption("short")], model)
    keep(contents | RunInference(handler) | beam.Map(lambda rows: type(rows[0]).__name__), "inferences")

run(["--runner=PrismRunner", f"--prism_location={program}", "--yaml_pipeline", '''
providers: [{include: "%s"}]
pipeline:
  transforms:
    - {type: ReadImages, config: {path: "%s"}}
    - type: Annotate
      input: ReadImages
      config: {model: tiny, device: cpu, tasks: [{caption: short}], error_handling: {output: errors}}
    - {type: WriteToJson, name: rows, input: Annotate, config: {path: "%s/yaml_rows"}}
    - {type: WriteToJson, name: errors, input: Annotate.errors, config: {path: "%s/yaml_errors"}}
''' % (PROVIDERS, photos, out, out)])
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("prism") / "photos", PICTURES, BROKEN)


@pytest.fixture
def launcher(forks: Launcher, tmp_path: Path) -> Launcher:
    forks.begin_log(tmp_path / "asked")
    return forks


@pytest.fixture
def words(photos: Path, tmp_path: Path) -> tuple[Any, ...]:
    """Return the arguments to annotate all pictures on Prism, in shards of about 4."""
    where = ("--runner", "PrismRunner", f"--prism_location={prism_program()}")
    options = ("--model", "tiny", "--shard-size", 4, "--max-failure-rate", 0.5, "--no-report")
    return ("annotate", photos, "--output", tmp_path / "out", *options, *TASKS, *where)


def finish(launcher: Launcher, words: tuple[Any, ...], out: Path) -> None:
    """Run the command to its end: it asks for no row that is there already, and for none after that."""
    before = set(ids(out))
    assert launcher.run(*words) == 0, launcher.said()
    assert len(ids(out)) == ROWS and not before & set(launcher.asked())
    assert sum(pq.read_metadata(path).num_rows for path in out.glob("errors/*.parquet")) == BROKEN * 2
    assert not (out / "_temporary").exists()


@pytest.mark.slow
@pytest.mark.prism
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_publishes_its_answers_ends_in_one_line_and_resumes(tmp_path, words, launcher, number):
    out = tmp_path / "out"
    run = CommandRun(out, *words)
    (prism,) = run.until_at_work()
    os.kill(run.process.pid, number)
    status, lines = run.ended()
    assert status == 128 + number, lines
    assert lines[-1].startswith("interrupted: ") and lines[-1].endswith(": run the same command again to resume")
    # What is above that is what the command prints on the local runner too: no warning, and no traceback.
    assert not [line for line in lines if "WARNING" in line or "Really" in line or "Traceback" in line], lines
    assert not prism.is_running()
    assert ids(out)
    finish(launcher, words, out)


@pytest.mark.slow
@pytest.mark.prism
def test_a_killed_prism_ends_the_job_in_one_line_that_names_it(tmp_path, words, launcher):
    out = tmp_path / "out"
    run = CommandRun(out, *words)
    (prism,) = run.until_at_work()
    prism.kill()
    status, lines = run.ended()
    assert status == 1, lines
    assert lines[-1] == (
        "moondream-beam annotate: stopped: Prism was killed by signal 9. Committed rows are kept. Run the same command"
        " again to resume."
    )
    assert not [line for line in lines if "ERROR" in line or "Traceback" in line], lines
    finish(launcher, words, out)


@pytest.mark.slow
@pytest.mark.parametrize("service", [pytest.param("prism", marks=pytest.mark.prism), "embedded"])
def test_a_killed_worker_of_a_pool_ends_the_job_in_one_line_and_the_same_command_resumes(
    tmp_path, words, pool, launcher, service
):
    (address, process), out = pool, tmp_path / "out"
    if service == "embedded":
        words = (*words[:-3], "--runner", "PortableRunner", "--job_endpoint=embed")
    words = (*words, "--environment_type=EXTERNAL", f"--environment_config={address}")
    command = launcher.start(*words)
    end = time.monotonic() + PATIENCE
    while not list(out.glob("_temporary/*.progress/*")):
        assert time.monotonic() < end and psutil.Process(command).status() != psutil.STATUS_ZOMBIE, launcher.said()
        time.sleep(0.01)
    started = psutil.Process(command).children()
    assert [one.name() for one in started] == ["prism"] * (service == "prism")
    (worker,) = process.children()
    worker.kill()
    assert launcher.ended(command) == 1
    said = launcher.said()
    assert [line for line in said.splitlines() if "stopped" in line] == [
        "moondream-beam annotate: stopped: a worker process was killed or crashed (possibly out of memory). Committed"
        " rows are kept. Run the same command again to resume."
    ]
    assert "ERROR" not in said and "Traceback" not in said
    assert not any(one.is_running() for one in started)
    finish(launcher, words, out)


@pytest.mark.slow
@pytest.mark.prism
def test_own_pipelines_run_on_prism(photos, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("0.png", "1.png", "2.png", "broken0.jpg"):
        (few / name).symlink_to(photos / name)
    (tmp_path / "own.py").write_text(OWN_PIPELINES)
    command = [sys.executable, tmp_path / "own.py", prism_program(), few, tmp_path]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
    # Beam warns that it starts and stops Prism. The package adds no warning, and no error is printed.
    words = ("ERROR", "Traceback", "Fatal Python error", "WARNING:moondream_beam")
    assert not [line for line in done.stdout.splitlines() if any(word in line for word in words)], done.stdout

    def lines(name: str) -> list[str]:
        (path,) = tmp_path.glob(f"{name}-*")
        return sorted(path.read_text().splitlines())

    pictures = ["0.png", "1.png", "2.png"]
    assert lines("annotations") == pictures and lines("failures") == ["broken0.jpg"]
    assert lines("inferences") == ["Annotation"] * 3
    assert sorted(json.loads(line)["filename"] for line in lines("yaml_rows")) == pictures
    assert len(lines("yaml_errors")) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "--runner PrismRunner: the program of Prism is not on this machine: build it with `GOBIN="),
        (("--prism_location=nowhere",), "--prism_location nowhere: there is no such file: build it with"),
        (("--prism_location=broken",), "broken: Prism ended with status 3 (other flags) before it accepted a job: "),
        (("--job_endpoint=localhost:1",), "--job_endpoint localhost:1: no job service answers there"),
        (
            ("--environment_type=EXTERNAL", "--environment_config=localhost:1"),
            "--environment_config localhost:1: no pool of workers answers there",
        ),
    ],
)
def test_without_prism_nothing_is_started_and_one_line_says_how_to_get_it(
    pictures, command, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PrismJobServer, "BIN_CACHE", str(tmp_path / "cache"))
    Path("broken").write_text("#!/bin/sh\necho other flags\nexit 3\n")
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", "PrismRunner")
    status, _, stderr = command(*words, *options)
    assert status == 2 and stderr.count("\n") == 1 and message in stderr
    assert not (tmp_path / "out").exists()
