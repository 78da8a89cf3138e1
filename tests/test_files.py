"""Files appear whole or not at all, and as readable as the user's other files."""

import os
import stat

import pytest

from ssd.errors import InputError
from ssd.files import results_folder, same_file, sole_writer, whole_file, write_text


def mode(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with whole_file(target) as temporary:
        temporary.write_text("text")
        assert not target.exists()
        assert temporary.name.endswith("-a.txt")
    assert target.read_text() == "text"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_users_umask_decides_who_may_read(tmp_path, umask):
    earlier = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
        same_file(tmp_path / "a.txt", tmp_path / "b.txt")
    finally:
        assert os.umask(earlier) == umask  # as it was: other threads write files too
    assert mode(tmp_path / "a.txt") == mode(tmp_path / "b.txt") == 0o666 & ~umask


def test_a_second_name_replaces_an_earlier_file(tmp_path):
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    same_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_results_folder_is_made_and_left_empty(tmp_path):
    folder = results_folder(tmp_path / "a" / "b")
    assert folder.is_dir() and not os.listdir(folder)


def test_one_process_at_a_time_writes_to_a_folder(tmp_path):
    refused = pytest.raises(InputError, match="another run is writing there")
    with sole_writer(tmp_path, "another run"), refused, sole_writer(tmp_path, "another run"):
        pass
    with sole_writer(tmp_path, "another run"):
        pass


def test_a_file_is_no_results_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="this is a file, a folder is needed"):
        results_folder(tmp_path / "taken")
