"""What is read from the published files of an output."""

from __future__ import annotations

from support.data.rows import failure

from moondream_beam.transforms.output import reader
from moondream_beam.transforms.output.reader import ErrorKind, count_errors


def broken(name: str, message: str, retryable: bool = False):
    return failure(uri=f"/photos/{name}", filename=name, message=message, retryable=retryable)


def test_errors_with_the_same_message_but_for_the_name_are_one_kind_and_the_commonest_is_first():
    failures = [
        broken("a.jpg", "a.jpg: image file is truncated"),
        broken("b.jpg", "server is busy", retryable=True),
        broken("c.jpg", "c.jpg: image file is truncated"),
        broken("d.jpg", "/photos/d.jpg is gone"),
        broken("e.jpg", "/photos/e.jpg is gone", retryable=True),
        broken("f.jpg", "f.jpg: image file is truncated"),
    ]
    assert count_errors(failures) == [
        ErrorKind(3, "a.jpg: image file is truncated", "a.jpg", 0),
        ErrorKind(2, "/photos/d.jpg is gone", "d.jpg", 1),
        ErrorKind(1, "server is busy", "b.jpg", 1),
    ]


def test_errors_whose_messages_differ_in_numbers_only_are_one_kind():
    failures = [broken(f"{count}.jpg", f"truncated ({count} bytes not processed)") for count in (1, 70, 8)]
    assert count_errors(failures) == [ErrorKind(3, "truncated (1 bytes not processed)", "1.jpg", 0)]


def test_without_failures_there_is_no_kind():
    assert count_errors([]) == []


def test_the_number_of_kinds_is_bounded(monkeypatch):
    monkeypatch.setattr(reader, "MAX_ERROR_KINDS", 2)
    failures = [broken("a.jpg", f"line {letter} is broken") for letter in "abcbab"]
    assert [kind.rows for kind in count_errors(failures)] == [3, 2]
