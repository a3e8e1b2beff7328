"""The front door shows exactly the names on its list, each with a docstring of its own, and imports them when asked."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

import moondream_beam

TREE = ast.parse(Path(moondream_beam.__file__).read_text())


def test_the_list_is_sorted_and_names_nothing_twice():
    assert moondream_beam.__all__ == sorted(set(moondream_beam.__all__))


def test_the_list_is_all_that_is_public():
    names = {name for name in dir(moondream_beam) if not name.startswith("_")}
    public = {name for name in names if not isinstance(getattr(moondream_beam, name), ModuleType)}
    assert public == set(moondream_beam.__all__)


@pytest.mark.parametrize("name", moondream_beam.__all__)
def test_every_name_tells_what_it_is(name):
    # Without a docstring, a dataclass or NamedTuple gets its signature for one: that tells nothing.
    doc = getattr(moondream_beam, name).__doc__
    assert doc and not doc.startswith(f"{name}(")


def test_type_checkers_see_each_name_where_it_is_imported_from():
    (checked,) = (statement for statement in TREE.body if isinstance(statement, ast.If))
    assert ast.unparse(checked.test) == "_typing.TYPE_CHECKING" and not checked.orelse
    assert all(isinstance(statement, ast.ImportFrom) for statement in checked.body)
    seen = {
        alias.name: f"{'.' * statement.level}{statement.module}"
        for statement in checked.body
        for alias in statement.names
    }
    assert seen == moondream_beam._ORIGINS
    assert sorted(seen) == moondream_beam.__all__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'Moondreams'"):
        _ = moondream_beam.Moondreams  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="Moondreams"):
        exec("from moondream_beam import Moondreams")
