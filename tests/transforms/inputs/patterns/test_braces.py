"""Braces in patterns: what they stand for, and a file of the very name wins."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.lists.table_files import list_manifests
from moondream_beam.transforms.inputs.patterns import braces
from moondream_beam.transforms.inputs.patterns.braces import expand_braces
from moondream_beam.transforms.inputs.patterns.unmatched import first_unmatched

PATTERNS = [
    "set-{000000..000009}.tar",
    "set-{8..11}.tar",
    "set-{08..11}.tar",
    "{a,b}/{0..2}.jpg",
    "{train,val,test-{1..3}}/x",
    "x{1,}y",
    "{c..a}",
    "{0..10..3}",
    "{10..0..5}",
    "{-2..2}",
    "{a..e..2}",
    "{a{b,c}}",
    "{}",
    "{a}",
    "a{b",
    "a}b",
    "{a,b",
    "a,b",
    "{1..}",
    "{..3}",
    "{1..a}",
    "{{a,b},c}",
    "x{a,b}{c,d}y",
    "plain.jpg",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_braces_stand_for_what_they_do_in_bash(pattern: str) -> None:
    script = f"printf '%s\\n' {pattern}"
    bash = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert expand_braces(pattern) == bash


def test_too_many_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(braces, "MAX_EXPANDED", 1000)
    assert len(expand_braces("{1..1000}")) == 1000
    for pattern in ("{1..1001}", "{0..9}" * 9, "{0..99999999999999999999}"):
        with pytest.raises(ValueError, match="more than 1,000 names"):
            expand_braces(pattern)


def tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as file:
        for name in names:
            file.addfile(tarfile.TarInfo(name), io.BytesIO())


def read(pattern: object) -> tuple[list[str], list[str]]:
    """Return the names of the pictures, and the problems."""
    refs = collect(lambda pipeline: pipeline | ReadImages(str(pattern)))
    return sorted(ref.uri for ref in refs if not ref.problem), [ref.problem for ref in refs if ref.problem]


def test_each_archive_of_a_numbered_set_is_read_and_a_missing_one_is_a_failure(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        tar(tmp_path / f"set-{number:06}.tar", "a.jpg")
    pictures, problems = read(f"{tmp_path}/set-{{000000..000003}}.tar")
    assert pictures == [f"{tmp_path}/set-{number:06}.tar#a.jpg" for number in (0, 1, 3)]
    assert len(problems) == 1 and "set-000002.tar: no such file" in problems[0]


def test_alternatives_may_be_folders_and_globs_and_a_glob_may_match_nothing(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "train/b.png", "val/c.jpg", "test/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert read(f"{tmp_path}/{{train,val}}") == (
        [f"{tmp_path}/{n}" for n in ("train/a.jpg", "train/b.png", "val/c.jpg")],
        [],
    )
    assert read(f"{tmp_path}/*/*.{{png,gif}}") == ([f"{tmp_path}/train/b.png"], [])
    assert read(f"{tmp_path}/{{train/../test,none}}")[0] == [f"{tmp_path}/test/d.jpg"]


def test_a_file_of_the_very_name_wins(tmp_path: Path) -> None:
    for name in ("{a,b}.jpg", "a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    assert read(f"{tmp_path}/{{a,b}}.jpg") == ([f"{tmp_path}/{{a,b}}.jpg"], [])


def test_a_pattern_of_which_nothing_exists_is_unmatched(tmp_path: Path) -> None:
    tar(tmp_path / "set-1.tar", "a.jpg")
    assert first_unmatched([f"{tmp_path}/set-{{0..9}}.tar"]) is None
    assert first_unmatched([f"{tmp_path}/set-{{2..9}}.tar"]).pattern == f"{tmp_path}/set-{{2..9}}.tar"


def test_braces_in_buckets(bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of("s3")
    for name in ("a/1.jpg", "b/2.jpg", "c/3.jpg", "odd/{1,2}.jpg", "odd/1.jpg"):
        bucket.put(name, b"x")
    pictures, problems = read(f"{bucket.root}/{{a,b,gone}}")
    assert pictures == [f"{bucket.root}/a/1.jpg", f"{bucket.root}/b/2.jpg"] and "gone: no such file" in problems[0]
    assert read(f"{bucket.root}/odd/{{1,2}}.jpg") == ([f"{bucket.root}/odd/{{1,2}}.jpg"], [])


def test_braces_in_the_name_of_a_manifest(tmp_path: Path) -> None:
    for name in ("a.csv", "c.csv", "deep/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(list_manifests(f"{tmp_path}/{{c,a}}.csv")) == [f"{tmp_path}/c.csv", f"{tmp_path}/a.csv"]
    assert list(list_manifests(f"{tmp_path}/{{*,deep/*}}.csv"))[-1] == f"{tmp_path}/deep/d.csv"
    with pytest.raises(FileNotFoundError, match=r"b\.csv: no such file"):
        list(list_manifests(f"{tmp_path}/{{a..c}}.csv"))
    # A loop of links does not multiply the manifests.
    (tmp_path / "deep" / "again").symlink_to("..")
    assert list(list_manifests(f"{tmp_path}/**/d.csv")) == [f"{tmp_path}/deep/d.csv"]


def test_braces_in_urls_are_plain() -> None:
    assert read("https://photos.example/{a,b}.jpg") == (["https://photos.example/{a,b}.jpg"], [])
