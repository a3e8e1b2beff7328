"""Failures are grouped by message for the report."""

from __future__ import annotations

from support.data.outputs import publish
from support.data.rows import failure

from moondream_beam.transforms.dataset.error_groups import choose_failed, error_groups
from moondream_beam.transforms.dataset.reader import Dataset


def broken(name, message, **values):
    plain = {"key": name, "uri": f"/photos/{name}", "stage": "decode", "error": "UndecodableError", "retryable": False}
    return failure(filename=name, message=message, **{"id": f"{name} {message}", **plain, **values})


def groups_of(folder, *rows):
    publish(folder, rows)
    with Dataset(str(folder)) as dataset:
        return error_groups(dataset), choose_failed(dataset, 3)


def test_messages_that_differ_in_numbers_and_names_only_are_one_group_with_examples(tmp_path):
    cut = [broken(f"{n}.jpg", f"{n}.jpg: {n} bytes of /photos/{n}.jpg are missing") for n in (1, 22, 333, 4)]
    gone = [broken("gone.jpg", "no such file", stage="fetch", error="FileNotFoundError", retryable=True)]
    (first, second), _ = groups_of(tmp_path, *cut, *gone)
    assert (first.rows, first.pictures, first.retryable, first.stage) == (4, 4, 0, "decode")
    assert first.message == "1.jpg: 1 bytes of /photos/1.jpg are missing"
    assert [example[0] for example in first.examples] == ["1.jpg", "22.jpg", "333.jpg"]
    assert second.examples == (("gone.jpg", "query", "Why?", "no such file"),)
    assert (second.stage, second.error, second.retryable) == ("fetch", "FileNotFoundError", 1)


def test_the_same_message_at_another_stage_is_another_group(tmp_path):
    rows = [broken("a.jpg", "no", stage=stage, id=stage) for stage in ("fetch", "decode", "decode ")]
    found, _ = groups_of(tmp_path, *rows)
    assert [group.rows for group in found] == [1, 1, 1]


def test_of_each_group_some_pictures_are_chosen(tmp_path):
    many = [broken(f"cut{number}.jpg", "image is cut off") for number in range(9)]
    _, chosen = groups_of(tmp_path, *many, broken("a.jpg", "gone"), broken("b.jpg", "no picture"))
    assert len(chosen) == 3 and {"a.jpg", "b.jpg"} < set(chosen)


def test_an_output_without_failures_has_no_group(tmp_path):
    publish(tmp_path, [failure()])
    (part,) = (tmp_path / "errors").glob("*.parquet")
    part.unlink()
    with Dataset(str(tmp_path)) as dataset:
        assert error_groups(dataset) == [] and choose_failed(dataset, 3) == []
