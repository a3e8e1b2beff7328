"""Names of kept columns in the output: each differs from all other columns by more than the case of its letters.

DuckDB and Spark find columns by names in any case: of two columns ``width`` and ``WIDTH``, DuckDB reads the first, and
Spark refuses the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

PREFIX = "manifest_"


class KeptName(NamedTuple):
    """A column ``source`` of the input that is kept under ``name``.

    ``clash`` is the other column because of which ``name`` is not ``source``; it is empty if the user chose the name.
    """

    source: str
    name: str
    clash: str = ""

    def note(self) -> str:
        """Return the line that says why the column has another name, or "" if the user chose the name."""
        return self.clash and (
            f"column {self.source} is kept as {self.name}, because the rows have a column {self.clash}; to choose "
            f"another name, give {self.source}=NAME"
        )


def name_columns(keep: Sequence[str], taken: Iterable[str]) -> list[KeptName]:
    """Return the columns to keep, in their order, with their names in the output.

    Args:
        keep: for each column ``SOURCE``, or ``SOURCE=NAME`` to rename it. The last ``=`` separates the two.
        taken: the names of the other columns of the rows. A source with such a name, in any case, gets ``PREFIX``.

    Raises:
        ValueError: if a name is empty, or a given name is taken or given twice.
    """
    asked = [_parse(text) for text in keep]
    used = {name.casefold(): name for name in taken}
    for source, name in asked:
        if name and (clash := used.get(name.casefold())):
            raise ValueError(f"column {source} can't be kept as {name}: the rows have a column {clash}; rename it")
        if name:
            used[name.casefold()] = name
    found = []
    for source, name in asked:
        if not name:
            name = _free_name(source, used)
            clash = "" if name == source else used[source.casefold()]
            used[name.casefold()] = name
            found.append(KeptName(source, name, clash))
        else:
            found.append(KeptName(source, name))
    return found


def _parse(text: str) -> tuple[str, str]:
    """Return the source and the given name; the name is empty if none is given."""
    source, equals, name = text.rpartition("=")
    if not equals:
        source, name = text, ""
    source, name = source.strip(), name.strip()
    if not source or (equals and not name):
        raise ValueError(f"kept column {text!r}: give the name of a column, or SOURCE=NAME to rename it")
    return source, name


def _free_name(source: str, used: Iterable[str]) -> str:
    """Return ``source``, or if that name is used in any case, the first free name made of ``PREFIX`` and ``source``."""
    name, number = source, 1
    while name.casefold() in used:
        name = f"{PREFIX}{source}" if number == 1 else f"{PREFIX}{source}_{number}"
        number += 1
    return name
