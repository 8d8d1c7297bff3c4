"""Files that are odd, damaged or hostile: each is read, or refused in words, and nothing hangs."""

from __future__ import annotations

import copy
import gzip
import io
import os
import socket
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from DDA import files, sources, tree
from DDA.image_adapt.adapter import Adapter
from DDA.sources import arrays, cifar

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


# ------------------------------------------------------------- what a file says of its own size


def npy_of(path, shape, dtype="uint8", content=b""):
    """Write an .npy file with a header that need not be true."""
    with open(path, "wb") as file:
        header = {"shape": shape, "descr": np.dtype(dtype).str, "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(content)


def refused(path, words):
    """Check that a source is refused in words about the file, at once and without memory."""
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(files.BadFile, match=words) as caught:
        sources.open_source(path, classes=["a", "b"])
    assert time.process_time() - started < 2 and tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
    assert f"{path}" in f"{caught.value}" and "\n" not in f"{caught.value}"


SHAPES = [(10**7, 32, 32, 3), (10**12, 1, 1), (10**8, 0, 0), (10**9, 0, 2, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_header_that_declares_more_images_than_there_are_bytes_is_refused(tmp_path, shape):
    npy_of(tmp_path / "a.npy", shape)
    refused(tmp_path / "a.npy", "declares [0-9,]+ bytes of numbers, but holds")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "fog.npy")
    refused(tmp_path / "a.npz", "fog.* declares [0-9,]+ bytes of numbers, but holds")


def test_names_without_bytes_are_refused(tmp_path):
    npy_of(tmp_path / "names.npy", (10**12,), "S0")
    np.save(tmp_path / "fog.npy", np.zeros((2, 4, 4, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(2, int))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "names.npy", "classes.npy")
        archive.write(tmp_path / "fog.npy", "fog.npy")
        archive.write(tmp_path / "labels.npy", "labels.npy")
    refused(tmp_path / "a.npz", "classes.* declares 1,000,000,000,000 bytes")


def test_more_images_than_can_be_named_are_refused(tmp_path):
    count = 10**9
    npy_of(tmp_path / "a.npy", (count, 2, 2))
    os.truncate(tmp_path / "a.npy", 4 * count + 128)  # no block of it is on the disk
    refused(tmp_path / "a.npy", "more than 5,000,000 images")


def test_an_npz_that_is_made_to_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays._Archive, "MOST_UNPACKED", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", fog=np.zeros((1500, 32, 32, 3), np.uint8))
    refused(tmp_path / "a.npz", r"fog.* has 4,608,128 bytes, packed to .* save it as .npy")

    noise = np.random.default_rng(0).integers(0, 8, (1500, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "b.npz", fog=noise)
    assert len(sources.open_source(tmp_path / "b.npz").names) == 1500


def test_members_of_an_npz_that_share_their_bytes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((9, 8, 8, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        [one] = archive.infolist()
        for number in range(20):
            other = copy.copy(one)
            other.filename = f"a{number}.npy"
            archive.filelist.append(other)
        archive._didModify = True
    refused(tmp_path / "a.npz", "more than the file has")


def tar_of(path, members):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, size in members:
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, Zeros())
    return path


class Zeros(io.RawIOBase):
    """A file of zeros without an end."""

    def read(self, size=-1):
        return bytes(size)


def test_no_more_of_an_archive_is_read_than_cifar_has(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "LARGEST", 1 << 20)
    monkeypatch.setattr(cifar, "MOST", 1 << 22)
    for members in (
        [(f"data_batch_{i}", 1_000_000) for i in range(1, 6)],
        [("images", 10_000_000)],
        [(f"{i}", 0) for i in range(10_000)],
    ):
        tar_of(tmp_path / "a.tar.gz", members)
        refused(tmp_path / "a.tar.gz", "holds more than CIFAR-10 or CIFAR-100 does")


def test_the_header_of_a_member_of_an_archive_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "LARGEST", 1 << 20)
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf() + bytes(1 << 21))
    refused(tmp_path / "a.tar.gz", "holds more than CIFAR-10 or CIFAR-100 does")


def test_a_huge_file_of_cifar_is_refused_unread(tmp_path):
    for name in ("meta", "train", "test"):
        (tmp_path / name).touch()
    os.truncate(tmp_path / "meta", 1 << 40)
    with pytest.raises(files.BadFile, match=r"meta has 1,099,511,627,776 bytes; expected at most"):
        sources.open_source(tmp_path)
