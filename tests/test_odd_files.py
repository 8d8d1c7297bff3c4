"""Files that are odd, damaged or hostile: each is read, or refused in words, and nothing hangs."""

from __future__ import annotations

import os
import socket

import pytest

from DDA import files

ODD = ("pipe", "link to a pipe", "socket", "device", "folder", "loop", "broken link")


def make_odd(path, kind):
    """Make what is no regular file at ``path``."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif kind == "socket":
        folder = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:  # its address has at most 107 bytes
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to("nothing")


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_never_opened(tmp_path, kind, monkeypatch):
    path = tmp_path / "file"
    make_odd(path, kind)

    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises((files.BadFile, FileNotFoundError)) as caught:
        files.open_regular(path)

    words = {"link to a pipe": "named pipe", "loop": "back to itself", "broken link": "a link to"}
    assert f"{path} is a" in f"{caught.value}" and words.get(kind, kind) in f"{caught.value}"


def test_regular_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("file")

    assert files.read_regular(tmp_path / "link") == b"bytes"
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        files.open_regular(tmp_path / "nothing")


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    seen = os.stat(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(os, "stat", lambda _: seen)

    assert not files.read_regular(tmp_path / "pipe")
