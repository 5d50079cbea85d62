"""Files are whole or not there."""

from __future__ import annotations

import os

import pytest

from ovdet.errors import InputError
from ovdet.files import atomic_write, atomic_writer, check_place, file_sha256, make_folder, new_folder


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_file_is_written_with_its_folders_and_usual_rights(tmp_path, mask):
    path = tmp_path / "new" / "folder" / "file.bin"
    before = os.umask(mask)
    try:
        atomic_write(path, b"abc")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"abc"
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert os.listdir(path.parent) == ["file.bin"]


def test_the_mask_of_the_process_is_let_be(tmp_path, monkeypatch):
    """All threads share it: what others create meanwhile would get other rights."""
    monkeypatch.setattr(os, "umask", None)
    atomic_write(tmp_path / "file.bin", b"")


@pytest.mark.parametrize("name", ["写" * 80 + ".png", "x" * 255], ids=["wide", "plain"])
def test_names_as_long_as_the_file_system_takes(tmp_path, name):
    atomic_write(tmp_path / name, b"abc")
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(InputError, match="File name too long"):
        atomic_write(tmp_path / (name * 4), b"abc")
    assert os.listdir(tmp_path) == [name]


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    atomic_write(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_place_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a place to write to"):
        atomic_write(tmp_path / "file" / "below", b"")


def test_pieces_and_a_block_that_fails(tmp_path):
    path = tmp_path / "file.bin"
    with atomic_writer(path) as stream:
        stream.write(b"ab")
        stream.write(b"c")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    with pytest.raises(ZeroDivisionError), atomic_writer(path) as stream:
        stream.write(b"d")
        raise ZeroDivisionError
    assert path.read_bytes() == b"abc"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_folders_that_were_made_go_with_a_block_that_fails(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("new/folder", "there"):
        with pytest.raises(ZeroDivisionError), new_folder(tmp_path / name):
            assert (tmp_path / name).is_dir()
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["there"]  # which nobody made here
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "new/folder"):
        (tmp_path / "new/file").write_text("")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "new") == ["file"]
    with pytest.raises(ZeroDivisionError), atomic_writer(tmp_path / "other/folder/file"):
        raise ZeroDivisionError
    assert not (tmp_path / "other").exists()


def test_a_place_is_checked_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert check_place(tmp_path / "new/folder") == tmp_path / "new/folder" and os.listdir(tmp_path) == ["file"]
    for path, kind, message in (
        ("", {}, "expected a file or a folder"),
        (tmp_path / "file/below", {}, "expected a place"),
        (tmp_path / "file", {"is_folder": True}, "expected a folder to write to, .*file is a file"),
        (tmp_path, {}, "expected a file to write to, .* is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            check_place(path, **kind)
    assert check_place(tmp_path / "file") and check_place(tmp_path, is_folder=True)


def test_a_folder_that_cannot_be_made_and_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(InputError, match="expected a place to write to, got .*below: Not a directory"):
        make_folder(tmp_path / "file" / "below")
    assert file_sha256(tmp_path / "file").startswith("ba7816bf")
    with pytest.raises(InputError, match=r"expected a readable file, got .*: Is a directory"):
        file_sha256(tmp_path)
