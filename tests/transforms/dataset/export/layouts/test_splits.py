"""Splits: the same picture is in the same split in every run, and the shares are right."""

from __future__ import annotations

import hashlib
from collections import Counter

import duckdb
import pyarrow
import pytest

from moondream_beam.transforms.dataset.export.layouts.splits import ONE_SPLIT, Splits, parse_splits, split_files

ROWS = [{"key": f"k{number}", "sha256": hashlib.sha256(b"%d" % number).hexdigest()} for number in range(10_000)]


def test_the_shares_are_those_asked_for():
    splits = parse_splits("train=0.9,val=0.07, test=0.03")
    counts = Counter(map(splits.choose, ROWS))
    for name, share in zip(("train", "val", "test"), (0.9, 0.07, 0.03), strict=True):
        assert abs(counts[name] / len(ROWS) - share) < 0.01


def test_the_split_depends_on_the_bytes_of_the_picture_only():
    splits = parse_splits("train=0.5,val=0.5")
    assert [splits.choose({**row, "key": "other"}) for row in ROWS] == [splits.choose(row) for row in ROWS]
    # A frozen value: a picture that was used for training must stay out of val in every version.
    assert [splits.choose(row) for row in ROWS[:8]] == ["val", "train", "train", "val", "val", "train", "val", "train"]


def test_a_smaller_share_moves_no_picture_from_val_to_train():
    small, large = parse_splits("val=0.1,train=0.9"), parse_splits("val=0.2,train=0.8")
    assert {small.choose(row) for row in ROWS if large.choose(row) == "train"} == {"train"}


def test_a_row_without_a_digest_is_divided_by_its_key():
    splits = parse_splits("train=0.5,val=0.5")
    assert {splits.choose({"key": row["key"], "sha256": None}) for row in ROWS} == {"train", "val"}


def test_without_the_option_all_is_train():
    assert {ONE_SPLIT.choose(row) for row in ROWS} == {"train"} and parse_splits("train=1") == Splits()


@pytest.mark.parametrize(
    "text", ["", "train", "train=x", "train=0.5", "train=0.5,train=0.5", "../a=1", "a=1.5,b=-0.5", "a=nan", "a=1,"]
)
def test_a_bad_text_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="--split .*train=0.95,val=0.05"):
        parse_splits(text)


def test_sql_chooses_the_same_split():
    splits = parse_splits("train=0.8,val=0.15,test=0.05")
    listed = pyarrow.Table.from_pylist(ROWS[:2000])
    found = duckdb.sql(f"SELECT {splits.sql()} FROM listed").fetchall()
    assert found == [(splits.choose(row),) for row in ROWS[:2000]] and listed
    assert duckdb.sql(f"SELECT {ONE_SPLIT.sql()} FROM listed LIMIT 1").fetchall() == [("train",)]


def test_one_file_has_a_name_for_each_split():
    assert split_files("/a.b/rows.jsonl", ONE_SPLIT) == {"train": "/a.b/rows.jsonl"}
    named = {"train": "/a.b/rows-train.jsonl", "val": "/a.b/rows-val.jsonl"}
    assert split_files("/a.b/rows.jsonl", parse_splits("train=0.5,val=0.5")) == named
