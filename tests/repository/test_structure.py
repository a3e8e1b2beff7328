"""The house keeps its shape: a floor imports only from below, and files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "moondream_beam"
FLOORS = ("models", "transforms", "pipelines")
MODULES = [path.relative_to(ROOT).as_posix() for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
UNKNOWN_TO = {"models": {"apache_beam", "pyarrow"}, "transforms": {"argparse"}, "pipelines": set()}
MAX_LINES = {"models/moondream/engine/engine.py": 350}


def imports(module: str, tree: ast.Module) -> Iterator[str]:
    """Every name that a module imports, dotted, with the leading dots resolved."""
    home = [PACKAGE, *module.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def import_faults(module: str, tree: ast.Module) -> Iterator[str]:
    """Imports from a floor above, from the front door, or of what the floor must not know."""
    floor = module.split("/")[0]
    below = FLOORS[: FLOORS.index(floor) + 1]
    for name in imports(module, tree):
        top, *rest = name.split(".")
        if top in UNKNOWN_TO[floor]:
            yield f"{floor} must not know {top}"
        elif top == PACKAGE and (not rest or rest[0] not in FLOORS):
            yield f"{name} comes through the front door: import the module that defines it"
        elif top == PACKAGE and rest[0] not in below:
            yield f"{name} lies above {floor}"


def size_faults(module: str, source: str, tree: ast.Module) -> Iterator[str]:
    """A file or a function (its docstring counts, its decorators do not) that has grown too long."""
    lines, limit = len(source.splitlines()), MAX_LINES.get(module, 250)
    if lines > limit:
        yield f"{lines} lines, more than {limit}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 40:
            yield f"{node.name} has {node.end_lineno - node.lineno + 1} lines, more than 40"


def faults(module: str, source: str) -> list[str]:
    """All that is wrong with one module; its path is relative to the root."""
    tree = ast.parse(source)
    silent = [] if ast.get_docstring(tree) else ["no docstring says what it is"]
    return [*silent, *import_faults(module, tree), *size_faults(module, source, tree)]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_the_rules_of_its_floor(module):
    assert faults(module, (ROOT / module).read_text()) == []


def test_the_floors_are_not_empty():
    assert {module.split("/")[0] for module in MODULES} == set(FLOORS)


def test_the_root_holds_no_module_but_setup_and_the_front_door():
    assert {path.name for path in ROOT.glob("*.py")} == {"setup.py", "__init__.py"}


@pytest.mark.parametrize(
    "module, line, fault",
    [
        ("models/x.py", "from ..transforms.records import Annotation", "lies above models"),
        ("models/tiny/x.py", "from ... import transforms", "lies above models"),
        ("transforms/x.py", "from ..pipelines import cli", "lies above transforms"),
        ("transforms/x.py", "import moondream_beam.pipelines.cli", "lies above transforms"),
        ("pipelines/x.py", "from .. import Caption", "through the front door"),
        ("pipelines/x.py", "import moondream_beam", "through the front door"),
        ("models/x.py", "import apache_beam as beam", "must not know apache_beam"),
        ("models/moondream/x.py", "def f():\n    import pyarrow.parquet", "must not know pyarrow"),
        ("transforms/x.py", "from argparse import ArgumentParser", "must not know argparse"),
        ("models/x.py", "\n" * 250, "251 lines, more than 250"),
        ("models/x.py", "def long():\n" + "    pass\n" * 40, "long has 41 lines, more than 40"),
    ],
)
def test_a_planted_fault_is_found(module, line, fault):
    (found,) = faults(module, f'"""Say."""\n{line}')
    assert fault in found


@pytest.mark.parametrize(
    "module, line",
    [
        ("pipelines/x.py", "import argparse\nfrom ..transforms import annotate\nfrom .cli import main"),
        ("transforms/x.py", "import apache_beam\nfrom ..models.tasks import Box"),
        ("models/moondream/x.py", "from ..tasks import Box\nfrom .config import Config"),
        ("models/moondream/engine/engine.py", "\n" * 349),
    ],
)
def test_what_is_allowed_is_not_reported(module, line):
    assert faults(module, f'"""Say."""\n{line}') == []


def test_a_module_without_a_docstring_is_found():
    assert faults("models/x.py", "import torch") == ["no docstring says what it is"]
