"""The wheel and the sdist hold the package, all of it and nothing else, and work without the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = {f"models/tiny/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md")}
MEBIBYTE = 2**20

IMPORT_ALL = """
import importlib, pkgutil, sys, moondream_beam
assert moondream_beam.__file__.startswith(sys.argv[1]), moondream_beam.__file__
for module in pkgutil.walk_packages(moondream_beam.__path__, "moondream_beam."):
    importlib.import_module(module.name)
"""

# What people import and call; the rest comes in as it is wanted, and may want an extra.
IMPORT_DOORS = """
import sys, moondream_beam, moondream_beam.pipelines.cli
assert moondream_beam.__file__.startswith(sys.argv[1]), moondream_beam.__file__
"""
# All that Beam's stager would send to the workers, a file a line.
STAGE = """
import sys
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.portability.stager import Stager
for made in Stager.create_job_resources(PipelineOptions(["--setup_file=./setup.py"]), sys.argv[1]):
    name = api.ArtifactStagingToRolePayload.FromString(made.role_payload).staged_name
    print(name, api.ArtifactFilePayload.FromString(made.type_payload).path, sep="=")
"""
YAML = """
providers: [{include: PROVIDERS}]
pipeline:
  transforms:
    - {type: ReadImages, config: {path: photos}}
    - {type: AnnotateToParquet, input: ReadImages, config: {output: out, model: tiny, tasks: [{caption: short}]}}
"""


def package_files() -> set[str]:
    """What users are to get, relative to the package."""
    folder = ROOT / "pipelines/display/report_page"
    page = (path for path in folder.iterdir() if path.suffix in (".html", ".css", ".js"))
    modules = (path for floor in ("models", "transforms", "pipelines") for path in (ROOT / floor).rglob("*.py"))
    return {
        "__init__.py",
        "py.typed",
        "pipelines/providers.yaml",
        *TINY,
        *(path.relative_to(ROOT).as_posix() for path in (*modules, *page)),
    }


def run(*command: str | Path, **kwargs) -> str:
    """Run a command to its end and return what it printed; where it fails, show that."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A copy of the repository, as anybody has it."""
    clone = tmp_path_factory.mktemp("clone") / "any-name"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info"))
    return clone


@pytest.fixture(scope="module")
def archives(clone, tmp_path_factory) -> dict[str, Path]:
    """An sdist of it, a wheel of that sdist, and the sdist that Beam makes for ``--setup_file=./setup.py``."""
    dist, sent = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("staged")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, clone)
    made = [line.split("=") for line in run(sys.executable, "-c", STAGE, sent, cwd=clone).splitlines() if "=" in line]
    staged = {name: Path(path) for name, path in made}
    return {
        "sdist": next(dist.glob("*.tar.gz")),
        "wheel": next(dist.glob("*.whl")),
        "staged": staged["workflow.tar.gz"],
    }


@pytest.fixture
def worker(archives, tmp_path) -> Path:
    """The Python of an environment with what Beam staged, and with nothing else."""
    home, wheels = tmp_path / "worker", tmp_path / "wheels"
    run(sys.executable, "-m", "venv", "--without-pip", home)
    pip, alone = [sys.executable, "-m", "pip"], ["--no-index", "--no-deps"]
    # A worker's pip fetches setuptools to build it; here that of the tests does so.
    run(*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", wheels, archives["staged"])
    run(*pip, "--python", home / "bin" / "python", "install", *alone, next(wheels.glob("*.whl")))
    return home / "bin" / "python"


def test_the_wheel_holds_exactly_the_package(archives):
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {f"moondream_beam/{name}" for name in package_files()}


@pytest.mark.parametrize("kind", ["sdist", "staged"])
def test_the_sdist_holds_the_package_and_what_builds_it(kind, archives):
    with tarfile.open(archives[kind]) as sdist:
        inside = {member.name.split("/", 1)[1] for member in sdist.getmembers() if member.isfile()}
    builders = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "PKG-INFO", "setup.cfg"}
    assert {name for name in inside if ".egg-info/" not in name} == package_files() | builders


def test_the_embedded_model_stays_below_eight_mebibytes(archives):
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        tiny = [
            entry.file_size for entry in wheel.infolist() if entry.filename.startswith("moondream_beam/models/tiny")
        ]
    assert 0 < sum(tiny) <= 8 * MEBIBYTE


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_runs_where_only_the_archive_was_installed(kind, archives, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", target, archives[kind])

    # The target stands before the development install on the path.
    installed = {"cwd": elsewhere, "env": {**os.environ, "PYTHONPATH": str(target)}}
    run(sys.executable, "-c", IMPORT_ALL, target, **installed)
    assert "annotate" in run(target / "bin" / "moondream-beam", "--help", **installed)


def test_an_empty_environment_lacks_nothing_of_what_was_staged_but_its_dependencies(worker):
    package = site_of(worker) / "moondream_beam"
    run(worker, "-m", "compileall", "-q", package)
    there = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.suffix not in (".pyc", "")}
    assert there == package_files()
    # The names of the package import their modules when they are first asked for.
    done = subprocess.run([worker, "-c", "from moondream_beam import *"], stderr=subprocess.PIPE, text=True)
    (lacking,) = re.findall(r"^ModuleNotFoundError: No module named '(\w+)'$", done.stderr, re.MULTILINE)
    assert lacking in {path.name for path in required(worker)}


def test_what_was_staged_annotates_where_only_its_dependencies_are(worker, tmp_path):
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (photos := elsewhere / "photos").mkdir()
    for index, seed in zip(range(3), TEST_SEEDS, strict=False):
        draw(seed).image.save(photos / f"{index}.png")
    alone = {"cwd": elsewhere, "env": {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}}

    provide(worker)
    run(worker, "-c", IMPORT_DOORS, site_of(worker), **alone)
    # Two processes, as Beam's workers are to find all of it too.
    words = ("photos", "--output", "out", "--model", "tiny", "--caption", "short", "--workers", "2")
    assert "ledger   3 requests" in run(worker.parent / "moondream-beam", "annotate", *words, **alone)
    rows = [row for path in elsewhere.glob("out/data/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 3 and all(row["caption"] for row in rows)
    assert (elsewhere / "out" / "report.html").is_file()

    provide(worker, "yaml")
    source = YAML.replace("PROVIDERS", str(site_of(worker) / "moondream_beam/pipelines/providers.yaml"))
    run(worker, "-m", "apache_beam.yaml.main", "--runner=FnApiRunner", "--yaml_pipeline", source, **alone)
    assert len(list(elsewhere.glob("out/runs/*.json"))) == 2


def site_of(python: Path) -> Path:
    """Where an environment has its packages."""
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    return site


def provide(python: Path, extra: str = "") -> None:
    """Give an environment all that ours requires in it, as pip would, by links to what is installed here."""
    for path in required(python, extra):
        link = site_of(python) / path.relative_to(sysconfig.get_path("purelib"))
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(path)


def required(python: Path, extra: str = "") -> set[Path]:
    """The packages and modules of all distributions that ours requires, at any remove."""
    (ours,) = distributions(name="moondream-beam", path=[str(site_of(python))])
    asked, names = wanted_by(ours, extra), set[tuple[str, str]]()
    while asked:
        wanted = asked.pop()
        for name in {(wanted.name, extra) for extra in ("", *wanted.extras)} - names:
            names.add(name)
            asked += wanted_by(distribution(wanted.name), name[1])
    site, paths = Path(sysconfig.get_path("purelib")), set()
    for other in {name for name, _ in names}:
        for file in distribution(other).files or ():
            if file.parts[0] not in ("..", "__pycache__"):
                # What several share, such as google, is a folder without a module of its own.
                shared = file.parts[1:] and not (site / file.parts[0] / "__init__.py").exists()
                paths.add(site.joinpath(*file.parts[: 2 if shared else 1]))
    return paths


def wanted_by(one: Distribution, extra: str) -> list[Requirement]:
    """What a distribution requires here, with or without an extra."""
    found = map(Requirement, one.requires or ())
    return [wanted for wanted in found if wanted.marker is None or wanted.marker.evaluate({"extra": extra})]
