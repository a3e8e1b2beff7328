"""The structure of the package: floors, rooms, sizes, and no circle of imports."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "moondream_beam"
FLOORS = ("models", "transforms", "pipelines")
# The rooms of transforms/, from the ground up. A room imports only from rooms of lower levels and from itself.
ROOMS = (
    {"io"},
    {"core"},
    {"images", "output"},
    {"inputs", "monitoring"},
    {"planning"},
    {"dataset", "annotation"},
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
MODULES = [path.relative_to(ROOT).as_posix() for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
# Not findings/, which is one flat list of scripts.
OTHER_FOLDERS = ("tests", "examples", "benchmarks", "docs", "notebooks", "docker")
UNKNOWN_TO = {"models": {"apache_beam", "pyarrow"}, "transforms": {"argparse"}, "pipelines": set()}
MAX_LINES, MAX_FUNCTION_LINES, MAX_ENTRIES = 300, 40, 10


def imports(module: str, tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, with relative imports resolved."""
    home = [PACKAGE, *module.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def import_faults(module: str, tree: ast.Module) -> Iterator[str]:
    """Yield each import from a floor or room above, from the package root, or of a library that the floor excludes."""
    floor, *inner = module.split("/")
    below = FLOORS[: FLOORS.index(floor) + 1]
    for name in imports(module, tree):
        top, *rest = name.split(".")
        if top in UNKNOWN_TO[floor]:
            yield f"{floor} must not import {top}"
        elif top == PACKAGE and (not rest or rest[0] not in FLOORS):
            yield f"{name} comes through the package root: import the module that defines it"
        elif top == PACKAGE and rest[0] not in below:
            yield f"{name} lies above {floor}"
        elif top == PACKAGE and floor == rest[0] == "transforms" and len(inner) > 1 and not is_below(inner[0], rest):
            yield f"{name} does not lie below transforms/{inner[0]}"


def is_below(room: str, imported: list[str]) -> bool:
    """Return whether ``room`` may import ``imported``, a dotted name in transforms/ as a list."""
    other = imported[1] if len(imported) > 1 else ""
    return other == room or LEVELS.get(other, len(ROOMS)) < LEVELS[room]


def size_faults(source: str, tree: ast.Module) -> Iterator[str]:
    """Yield what is too long: the file, or a function (with its docstring, without its decorators)."""
    lines = len(source.splitlines())
    if lines > MAX_LINES:
        yield f"{lines} lines, more than {MAX_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{node.name} has {length} lines, more than {MAX_FUNCTION_LINES}"


def faults(module: str, source: str) -> list[str]:
    """Return all faults of one module, given by its path from the repository root."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["no module docstring"]
    return [*missing, *import_faults(module, tree), *size_faults(source, tree)]


def imported_files(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return for each file (path to source) the files of ``modules`` that it imports, at any depth of its code."""
    graph: dict[str, set[str]] = {}
    for module, source in modules.items():
        graph[module] = set()
        for name in imports(module, ast.parse(source)):
            parts = name.split(".")[1:] if name.startswith(f"{PACKAGE}.") else []
            for end in (len(parts), len(parts) - 1):
                path = "/".join(parts[:end]) + ".py"
                if path in modules and path != module:
                    graph[module].add(path)
    return graph


def find_circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the files of one circle of imports, in order, or an empty list if there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for other in sorted(graph[module]):
                if circle := visit(other, [*path, module]):
                    return circle
            done.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := visit(module, []))), [])


def folders() -> dict[str, set[str]]:
    """Return the entries of each folder of the floors and the tests, of the files that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FLOORS, *OTHER_FOLDERS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    entries: dict[str, set[str]] = {}
    for path in map(Path, listed):
        if (ROOT / path).exists():
            for part, folder in zip(path.parts[1:], path.parents[-2::-1], strict=True):
                entries.setdefault(folder.as_posix(), set()).add(part)
    return entries


@pytest.mark.parametrize("module", MODULES)
def test_a_module_keeps_the_rules_of_its_floor_and_room(module):
    assert faults(module, (ROOT / module).read_text()) == []


def test_no_files_import_each_other_in_a_circle():
    assert find_circle(imported_files({module: (ROOT / module).read_text() for module in MODULES})) == []


def test_a_folder_has_ten_entries_at_most():
    listed = folders()
    assert {"transforms/io", "models", "tests/support/data"} <= listed.keys()
    assert {folder: sorted(names) for folder, names in listed.items() if len(names) > MAX_ENTRIES} == {}


def test_every_room_is_in_the_order():
    assert {module.split("/")[0] for module in MODULES} == set(FLOORS)
    assert {path.parent.name for path in (ROOT / "transforms").glob("*/__init__.py")} == LEVELS.keys()


def test_the_root_holds_no_module_but_setup_and_the_package_itself():
    assert {path.name for path in ROOT.glob("*.py")} == {"setup.py", "__init__.py"}


@pytest.mark.parametrize(
    "module, line, fault",
    [
        ("models/x.py", "from ..transforms.records import Annotation", "lies above models"),
        ("models/tiny/x.py", "from ... import transforms", "lies above models"),
        ("transforms/io/x.py", "from ...pipelines import cli", "lies above transforms"),
        ("transforms/io/x.py", "import moondream_beam.pipelines.cli", "lies above transforms"),
        ("transforms/io/x.py", "from ..core.records import ImageRef", "does not lie below transforms/io"),
        ("transforms/io/http/x.py", "from ...core import records", "does not lie below transforms/io"),
        ("transforms/images/x.py", "from ..output.files import exists", "does not lie below transforms/images"),
        ("transforms/annotation/x.py", "from ..dataset import reader", "does not lie below transforms/annotation"),
        ("pipelines/x.py", "from .. import Caption", "through the package root"),
        ("pipelines/x.py", "import moondream_beam", "through the package root"),
        ("models/x.py", "import apache_beam as beam", "must not import apache_beam"),
        ("models/moondream/x.py", "def f():\n    import pyarrow.parquet", "must not import pyarrow"),
        ("transforms/io/x.py", "from argparse import ArgumentParser", "must not import argparse"),
        ("models/x.py", "\n" * 300, "301 lines, more than 300"),
        ("models/x.py", "def long():\n" + "    pass\n" * 40, "long has 41 lines, more than 40"),
    ],
)
def test_a_planted_fault_is_found(module, line, fault):
    (found,) = faults(module, f'"""Say."""\n{line}')
    assert fault in found


@pytest.mark.parametrize(
    "module, line",
    [
        ("pipelines/x.py", "import argparse\nfrom ..transforms.annotation import annotate\nfrom .cli import main"),
        ("transforms/inputs/x.py", "import apache_beam\nfrom ...models.tasks import Box\nfrom ..images import formats"),
        ("transforms/core/x.py", "from .records import ImageRef\nfrom ..io.uris import basename"),
        ("models/moondream/x.py", "from ..tasks import Box\nfrom .config import Config"),
        ("models/x.py", "\n" * 299),
    ],
)
def test_what_is_allowed_is_not_reported(module, line):
    assert faults(module, f'"""Say."""\n{line}') == []


def test_a_module_without_a_docstring_is_found():
    assert faults("models/x.py", "import torch") == ["no module docstring"]


def test_a_planted_circle_is_found_even_inside_functions():
    circle = {
        "models/a.py": "from .b import x",
        "models/b.py": "def f():\n    from . import c",
        "models/c.py": "from .a import y",
    }
    assert find_circle(imported_files(circle)) == ["models/a.py", "models/b.py", "models/c.py", "models/a.py"]
    assert find_circle(imported_files({**circle, "models/c.py": "import torch"})) == []
