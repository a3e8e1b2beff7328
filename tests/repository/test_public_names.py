"""The front door shows exactly the names on its list, each with a docstring of its own."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

import moondream_beam


def test_the_list_is_sorted_and_names_nothing_twice():
    assert moondream_beam.__all__ == sorted(set(moondream_beam.__all__))


def test_the_list_is_all_that_is_public():
    public = {
        name
        for name, value in vars(moondream_beam).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(moondream_beam.__all__)


@pytest.mark.parametrize("name", moondream_beam.__all__)
def test_every_name_tells_what_it_is(name):
    # Without a docstring, a dataclass or NamedTuple gets its signature for one: that tells nothing.
    doc = getattr(moondream_beam, name).__doc__
    assert doc and not doc.startswith(f"{name}(")


def test_the_front_door_only_imports():
    source = Path(moondream_beam.__file__).read_text()
    _, *statements = ast.parse(source).body
    assert all(isinstance(statement, ast.ImportFrom) for statement in statements[:-1])
    assert ast.unparse(statements[-1]).startswith("__all__ = ")
