"""The containers' recipes are as hadolint would have them, and bring what the tests were made with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("docker/Dockerfile*"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_is_clean(recipe):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--no-color", recipe], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_has_the_versions_of_the_constraints(recipe):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    text = recipe.read_text()
    assert re.search(r"^FROM apache/beam_python3\.\d+_sdk:(.+)$", text, re.MULTILINE)[1] == pins["apache-beam"]
    assert all(version == pins["torch"] for version in re.findall(r"torch==(\S+)", text))


def test_there_is_one_with_a_gpu_and_one_without():
    assert [recipe.name for recipe in RECIPES] == ["Dockerfile", "Dockerfile.cpu"]
