"""The wheel and the sdist hold the package, all of it and nothing else, and work without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TINY = {f"models/tiny/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md")}
MEBIBYTE = 2**20

IMPORT_ALL = """
import importlib, pkgutil, sys, moondream_beam
assert moondream_beam.__file__.startswith(sys.argv[1]), moondream_beam.__file__
for module in pkgutil.walk_packages(moondream_beam.__path__, "moondream_beam."):
    importlib.import_module(module.name)
"""


def package_files() -> set[str]:
    """What users are to get, relative to the package."""
    page = (path for path in (ROOT / "pipelines/page").iterdir() if path.suffix in (".html", ".css", ".js"))
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
def archives(tmp_path_factory) -> dict[str, Path]:
    """An sdist of a copy of the repository, and a wheel of that sdist."""
    clone, dist = tmp_path_factory.mktemp("clone") / "any-name", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info"))
    # The same command with which Beam packs the folder of --setup_file.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, clone)
    return {"sdist": next(dist.glob("*.tar.gz")), "wheel": next(dist.glob("*.whl"))}


def test_the_wheel_holds_exactly_the_package(archives):
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {f"moondream_beam/{name}" for name in package_files()}


def test_the_sdist_holds_the_package_and_what_builds_it(archives):
    with tarfile.open(archives["sdist"]) as sdist:
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
