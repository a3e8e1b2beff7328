"""A full disk is detected before a download and in the errors of one."""

import errno
import shutil

import pytest

from moondream_beam.models.moondream.checkpoints.disk_space import check_disk_space, is_disk_full


def test_enough_free_space_raises_nothing(tmp_path):
    check_disk_space(tmp_path, 1)


def test_the_disk_of_a_missing_folder_is_checked(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        RuntimeError, match=r"the weights need .* GB and the disk of .*/not/yet has .* GB left; free disk space"
    ):
        check_disk_space(tmp_path / "not" / "yet", 2 * free + 10**9)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found_in_the_chain_of_causes(code):
    def fill():
        try:
            raise OSError(code, "full")
        except OSError as error:
            raise RuntimeError("broken off") from error

    with pytest.raises(RuntimeError) as caught:
        fill()
    assert is_disk_full(caught.value)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "closed"), ValueError("no")])
def test_other_errors_are_not_a_full_disk(error):
    assert not is_disk_full(error)
