"""Files and folders that cannot be written: each is named, with the reason and what to do."""

import errno
import os

import pytest

from DDA import files

LONG = "x" * 300


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; make room, or write elsewhere"),
        (errno.EDQUOT, "Disk quota exceeded; make room, or write elsewhere"),
        (errno.EROFS, "Read-only file system; write elsewhere, or permit it"),
        (errno.EACCES, "Permission denied; write elsewhere, or permit it"),
        (errno.EIO, "Input/output error; write elsewhere"),
    ],
)
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_file_that_cannot_be_written_is_named_with_the_reason(
    tmp_path, monkeypatch, number, words, exclusive
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError) as fault:
        files.write_json(tmp_path / "settings.json", {}, exclusive=exclusive)
    assert f"{fault.value}" == f"cannot write {tmp_path / 'settings.json'}: {words}"
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long_and_a_file_in_the_place_of_a_folder_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path / LONG, "File name too long; give a shorter name"),
        (tmp_path / "file/x", "Not a directory; write elsewhere, or remove that file"),
        (tmp_path / "none/x", "No such file or directory; write elsewhere"),
    ):
        with pytest.raises(OSError) as fault:
            files.write_bytes(path, b"")
        assert f"{fault.value}" == f"cannot write {path}: {reason}"
    for path in (tmp_path / LONG / "a", tmp_path / "file", tmp_path / "file/x"):
        with pytest.raises(OSError, match=f"^cannot write {path}: "):
            files.make_folder(path)


def test_a_name_that_is_taken_stays_an_error_of_its_own_kind(tmp_path):
    files.write_json(tmp_path / "a", {}, exclusive=True)
    with pytest.raises(FileExistsError, match=f"^cannot write {tmp_path}/a: File exists"):
        files.write_json(tmp_path / "a", {}, exclusive=True)


def test_text_keeps_names_that_are_no_text_as_escapes(tmp_path):
    files.write_text(tmp_path / "a", os.fsdecode(b"caf\xe9 \xc3\xa9"))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "caf\\udce9 é"
