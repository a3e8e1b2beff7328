"""A disk without room is told before it is filled, and after."""

import errno
import shutil

import pytest

from moondream_beam.models.moondream.checkpoints.disk_space import is_full, refuse_full_disk


def test_what_fits_is_let_through(tmp_path):
    refuse_full_disk(tmp_path, 1)


def test_of_a_folder_that_is_not_there_yet_the_disk_is_asked(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RuntimeError, match=r"the weights take .* GB, and the disk of .*/not/yet has .* GB left"):
        refuse_full_disk(tmp_path / "not" / "yet", 2 * free + 10**9)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_behind_other_errors(code):
    def fill():
        try:
            raise OSError(code, "full")
        except OSError as error:
            raise RuntimeError("broken off") from error

    with pytest.raises(RuntimeError) as caught:
        fill()
    assert is_full(caught.value)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "closed"), ValueError("no")])
def test_other_errors_are_not_a_full_disk(error):
    assert not is_full(error)
