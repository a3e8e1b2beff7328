"""Kept columns have names of their own, whatever the case of their letters."""

from __future__ import annotations

import pytest

from moondream_beam.transforms.core.kept.names import KeptName, name_columns

TAKEN = ("id", "width", "caption")


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        (["split", "URL"], ["split", "URL"]),
        (["id"], ["manifest_id"]),
        (["WIDTH", "width"], ["manifest_WIDTH", "manifest_width_2"]),
        (["text", "TEXT"], ["text", "manifest_TEXT"]),
        (["manifest_id", "id"], ["manifest_id", "manifest_id_2"]),
        (["id", "x=manifest_id"], ["manifest_id_2", "manifest_id"]),
        (["width=original_width", "split"], ["original_width", "split"]),
        (["a=b=c"], ["c"]),
        (["a=x", "a=y"], ["x", "y"]),
        ([" id = sku "], ["sku"]),
    ],
)
def test_each_column_gets_a_free_name(keep: list[str], names: list[str]) -> None:
    found = name_columns(keep, TAKEN)
    assert [one.name for one in found] == names
    assert len({name.casefold() for name in (*TAKEN, *names)}) == len(TAKEN) + len(names)


def test_the_last_equals_sign_separates_the_names() -> None:
    assert name_columns(["a=b=c"], TAKEN) == [KeptName("a=b", "c")]


def test_the_user_reads_why_a_name_changed_and_how_to_choose_another() -> None:
    changed, chosen, same = name_columns(["WIDTH", "ID=sku", "split"], TAKEN)
    for word in ("WIDTH is kept as manifest_WIDTH", "a column width", "WIDTH=NAME"):
        assert word in changed.note()
    assert chosen.note() == same.note() == ""


@pytest.mark.parametrize("keep", [["a=ID"], ["a=x", "b=X"], ["=x"], ["a="], [""]])
def test_a_name_that_is_taken_or_empty_is_refused(keep: list[str]) -> None:
    with pytest.raises(ValueError, match="kept"):
        name_columns(keep, TAKEN)
