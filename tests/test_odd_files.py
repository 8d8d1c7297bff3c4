"""Files that are odd, damaged or hostile: each is read, or refused in words, and nothing hangs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from DDA import files, sources, tree
from DDA.image_adapt.adapter import Adapter

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


@pytest.mark.parametrize("name", ["images.npz", "images.npy", "cifar.tar.gz", "folder/image.png"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_every_reader_of_a_source_refuses_what_is_no_regular_file_at_once(tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make_odd(path, kind)

    with pytest.raises(files.BadFile, match=rf"{path} is a .*, not a file"):
        if path.suffix == ".png":
            sources.open_source(path.parent).read(path.name)
        else:
            sources.open_source(path)


def test_an_odd_file_is_a_failure_of_its_own_and_the_rest_goes_on(prior, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    kinds = [kind for kind in ODD if kind not in ("folder", "link to a pipe")]
    for kind in kinds:
        make_odd(folder / f"{kind}.png", kind)

    report = Adapter(prior, speed="one-shot").folder(folder, tmp_path / "out", quiet=True)

    assert report.done == 1 and set(report.failed) == {f"{kind}.png" for kind in kinds}
    assert report.failed["pipe.png"] == "pipe.png is a named pipe, not a file; leave it out"
    assert report.failed["loop.png"] == "it is a broken link"


def test_folders_in_which_the_system_shows_itself_are_named_and_not_entered(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "system").symlink_to("/proc/self")
    (tmp_path / "loop").symlink_to("loop")

    images, others, _ = tree.list_images(tmp_path)

    assert images == ["a.png"] and sorted(others) == ["loop", "system/"]
    assert list(tree.walk(Path("/proc"))) == ["./"]


def test_a_folder_that_is_closed_to_us_is_named(tmp_path, monkeypatch):
    def closed(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(files.BadFile, match=rf"{tmp_path}/? cannot be looked into; permit it"):
        tree.list_images(tmp_path)
