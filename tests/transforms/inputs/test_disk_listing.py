"""Links to folders, loops of links, and folders that can't be listed: a walked folder and a glob agree."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.running.beam_runs import collect

from moondream_beam.transforms.core.records import UNLISTED, ImageRef
from moondream_beam.transforms.images.formats import EXTENSIONS
from moondream_beam.transforms.inputs.disk_listing import DEAD_LINK, LOOP, list_first_level, list_folder, list_glob
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set with a picture of its own, beside a store with two folders."""
    for name in ("set/own/3.jpg", "store/cats/1.jpg", "store/dogs/2.jpg", "store/dogs/old/5.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "set"


def read(pattern: object) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Return the names of the pictures, and what is left out as (kind, example, count)."""
    refs: list[ImageRef] = collect(lambda pipeline: pipeline | ReadImages(str(pattern)))
    skipped = [(ref.skipped.kind, ref.filename, ref.skipped.count) for ref in refs if ref.skipped]
    return sorted(ref.filename for ref in refs if not ref.skipped), sorted(skipped)


def test_linked_folders_are_part_of_a_set_for_a_walk_and_for_a_glob(root: Path) -> None:
    (root / "cats").symlink_to("../store/cats")
    (root / "dogs").symlink_to(root.parent / "store" / "dogs")
    (root / "own" / "link.jpg").symlink_to("3.jpg")
    (root / "own" / "again").symlink_to("../cats")
    names = ["cats/1.jpg", "dogs/2.jpg", "dogs/old/5.jpg", "own/3.jpg", "own/again/1.jpg", "own/link.jpg"]
    assert read(root) == read(f"{root}/**/*.jpg") == read(f"{root}/**") == (names, [])
    assert read(f"{root}/*/*.jpg") == ([name for name in names if name.count("/") == 1], [])


def test_a_set_of_links_only_has_pictures(root: Path) -> None:
    only = root.parent / "only"
    only.mkdir()
    (only / "cats").symlink_to("../store/cats")
    assert read(only) == (["cats/1.jpg"], [])


@pytest.mark.parametrize("target", [".", "..", "../..", "own", "../set/own"])
def test_a_link_to_a_folder_that_holds_it_is_counted_and_each_picture_is_found_once(root: Path, target: str) -> None:
    (root / "own" / "again").symlink_to(f"../{target}" if "own" in target else target)
    expected = (["own/3.jpg"], [(LOOP, "own/again", 1)])
    assert read(root) == expected
    assert read(f"{root}/**/*.jpg") == expected
    assert read(f"{root}/**/**/*.jpg") == expected


def test_links_that_lead_to_each_other_end_where_they_lead_back(root: Path) -> None:
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / "1.jpg").touch()
    (root / "b" / "2.jpg").touch()
    (root / "a" / "to_b").symlink_to("../b")
    (root / "b" / "to_a").symlink_to("../a")
    names = ["a/1.jpg", "a/to_b/2.jpg", "b/2.jpg", "b/to_a/1.jpg", "own/3.jpg"]
    expected = (names, [(LOOP, "a/to_b/to_a", 1), (LOOP, "b/to_a/to_b", 1)])
    assert read(root) == expected
    assert read(f"{root}/**/*.jpg") == expected


def test_many_links_back_to_the_set_end_at_once(root: Path) -> None:
    for number in range(30):
        (root / "own" / f"again{number}").symlink_to("..")
    names, skipped = read(f"{root}/**/*.jpg")
    assert names == ["own/3.jpg"] and len(skipped) == 30
    assert read(root) == (names, skipped)


def test_a_link_to_itself_is_no_folder(root: Path) -> None:
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "self").symlink_to("self")
    assert read(root) == (["own/3.jpg", "self.jpg"], [(DEAD_LINK, "self", 1)])
    assert read(f"{root}/**/*.jpg") == (["own/3.jpg", "self.jpg"], [(DEAD_LINK, "self", 1)])


def test_a_link_that_leads_nowhere_is_counted_unless_it_has_the_name_of_a_picture(root: Path) -> None:
    (root / "unmounted").symlink_to("/no/such/disk")
    (root / "gone.jpg").symlink_to("/no/such/disk/gone.jpg")
    expected = (["gone.jpg", "own/3.jpg"], [(DEAD_LINK, "unmounted", 1)])
    assert read(root) == read(f"{root}/**/*.jpg") == expected


def test_hidden_folders_behind_links_are_left_out_without_a_count(root: Path) -> None:
    (root / ".cats").symlink_to("../store/cats")
    assert read(root) == read(f"{root}/**/*.jpg") == (["own/3.jpg"], [])


@pytest.fixture
def too_deep(root: Path) -> Iterator[Path]:
    """A folder so deep that its path is longer than the system takes: scanning it fails, also for root."""
    name, above = "x" * 200, os.getcwd()
    os.chdir(root)
    for _ in range(25):
        os.mkdir(name)
        os.chdir(name)
    os.chdir(above)
    yield root
    shutil.rmtree(root / name, ignore_errors=True)


def test_a_folder_that_can_not_be_listed_is_counted_with_the_reason(too_deep: Path) -> None:
    for pattern in (too_deep, f"{too_deep}/**/*.jpg"):
        names, ((kind, example, count),) = read(pattern)
        assert names == ["own/3.jpg"] and count == 1
        assert kind == f"{UNLISTED} (File name too long)" and example.startswith("xxx")


def test_the_plain_list_has_a_problem_for_a_folder_that_can_not_be_listed(too_deep: Path) -> None:
    found = {ref.filename[:9]: ref.problem for ref in list_images(str(too_deep))}
    assert found["own/3.jpg"] == "" and "File name too long" in found["x" * 9]


def test_a_folder_that_vanishes_between_listing_and_scanning_is_counted(root: Path) -> None:
    (found,) = list_first_level(str(root), EXTENSIONS)
    shutil.rmtree(root / "own")
    (ref,) = list_folder(found, EXTENSIONS)
    assert ref.skipped.kind == f"{UNLISTED} (No such file or directory)" and ref.filename == "own"


def test_the_folder_of_a_pattern_that_can_not_be_listed_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    for pattern in (str(root), f"{root}/*", f"{root}/**/*.jpg"):
        with pytest.raises(PermissionError, match="set"):
            list(list_first_level(pattern, EXTENSIONS))


@pytest.mark.skipif(os.getuid() == 0, reason="root may list every folder")
def test_a_folder_without_permission_is_counted(root: Path) -> None:
    (root / "own").chmod(0)
    try:
        for pattern in (root, f"{root}/**/*.jpg", f"{root}/*/*.jpg", f"{root}/*/3.jpg"):
            names, ((kind, example, _),) = read(pattern)
            assert (names, kind, example) == ([], f"{UNLISTED} (Permission denied)", "own")
    finally:
        (root / "own").chmod(0o755)


def test_a_glob_matches_what_python_matches(root: Path) -> None:
    for name in ("a.jpg", "A.JPG", "b[1].jpg", "own/a.jpg", "own/deep/a.jpg", ".x/a.jpg", "own/.h.jpg", "own/deep/b"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for pattern in (
        "*",
        "*.jpg",
        "**",
        "**/*",
        "**/a.jpg",
        "*/deep/*",
        "**/deep/**",
        "[!a]*",
        ".x/*",
        "**/.h*",
        "b[[]1].jpg",
        "*/a.jpg",
        "o?n/**/b",
        "**/deep",
        "own*/*",
    ):
        expected = {path for path in glob.glob(f"{root}/{pattern}", recursive=True) if os.path.isfile(path)}
        found = [ref.uri for ref in list_glob(f"{root}/{pattern}")]
        assert (pattern, set(found)) == (pattern, expected)
        assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("pattern", "files", "left_out"),
    [
        ("**", ["gone.jpg", "own/3.jpg", "unmounted"], []),
        ("**/*", ["gone.jpg", "own/3.jpg", "unmounted"], []),
        ("**/un*", ["unmounted"], []),
        ("**/*.jpg", ["gone.jpg", "own/3.jpg"], ["unmounted"]),
        ("**/own/*", ["own/3.jpg"], ["unmounted"]),
    ],
)
def test_a_link_that_leads_nowhere_is_a_file_of_a_glob_or_left_out_but_never_both(
    root: Path, pattern: str, files: list[str], left_out: list[str]
) -> None:
    (root / "unmounted").symlink_to("/no/such/disk")
    (root / "gone.jpg").symlink_to("/no/such/disk/gone.jpg")
    assert read(f"{root}/{pattern}") == (files, [(DEAD_LINK, name, 1) for name in left_out])
