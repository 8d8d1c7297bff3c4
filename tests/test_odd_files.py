"""Files that are odd, damaged or hostile: each is read, or refused in words, and nothing hangs."""

from __future__ import annotations

import copy
import gzip
import io
import os
import pickle
import re
import socket
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from DDA import files, images, ledger, sources, tree
from DDA.image_adapt.adapter import Adapter
from DDA.model_adapt import paired
from DDA.sources import arrays, cifar
from DistilledClassifier import making

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
    np.savez_compressed(tmp_path / "a.npz", fog=np.zeros((500, 32, 32, 3), np.uint8))
    refused(tmp_path / "a.npz", r"fog.* has 1,536,128 bytes, packed to .* save it as .npy")

    noise = np.random.default_rng(0).integers(0, 8, (500, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "b.npz", fog=noise)
    assert len(sources.open_source(tmp_path / "b.npz").names) == 500


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
    monkeypatch.setattr(cifar, "LARGEST", 1 << 18)
    monkeypatch.setattr(cifar, "MOST", 1 << 20)
    for members in (
        [(f"data_batch_{i}", 250_000) for i in range(1, 6)],
        [("images", 2_000_000)],
        [(f"{i}", 0) for i in range(3000)],
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


# --------------------------------------------------------------- whatever a parser raises is words


def packed_npz(path):
    """Write an npz file of one array, packed, and return its bytes."""
    pixels = np.random.default_rng(0).integers(0, 9, (4, 8, 8, 3), dtype=np.uint8)
    np.savez_compressed(path, fog=pixels)
    return bytearray(path.read_bytes())


def damaged_npz(path, kind):
    data = packed_npz(path)
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    if kind == "flipped":  # zlib.error or a wrong checksum
        data[local + 80 : local + 90] = b"\xff" * 10
    elif kind == "encrypted":  # RuntimeError
        data[local + 6] |= 1
        data[central + 8] |= 1
    elif kind == "unknown packing":  # NotImplementedError
        data[local + 8] = data[central + 10] = 97
    elif kind == "cut off":
        del data[len(data) // 2 :]
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["flipped", "encrypted", "unknown packing", "cut off"])
def test_whatever_is_wrong_with_an_npz_is_told_in_words(tmp_path, kind):
    path = tmp_path / "a.npz"
    damaged_npz(path, kind)

    with pytest.raises(
        files.BadFile, match=r"a\.npz.* is damaged, or no .*; get it again"
    ) as caught:
        source = sources.open_source(path)
        source.pixels(source.names[0])
    assert "\n" not in f"{caught.value}"


HEADERS = {  # what numpy raises for each, without us
    "{'descr': '|u1', 'fortran_order': False, 'shape': (": "TokenError",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1e3,), }": "ValueError",
    "{'descr': '<M8[ns', 'fortran_order': False, 'shape': (3,), }": "TypeError",
    "{'descr': '|u1', 'fortran_order': False}": "ValueError",
    "(" * 400: "RecursionError or MemoryError",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-3, 8, 8), }": "ValueError",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999, 8, 8), }": "Overflow",
}


@pytest.mark.parametrize("header", HEADERS)
def test_whatever_is_wrong_with_the_header_of_an_npy_is_told_in_words(tmp_path, header):
    path, text = tmp_path / "a.npy", header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(99))
    refused(path, "a.npy (is damaged, or no npy file of numbers|declares)")


LABELS = {
    "texts": np.array(["x", "y"]),
    "dates": np.array(["2020-01-01", "2021-01-01"], "M8[D]"),
    "records": np.zeros(2, [("x", "i4"), ("y", "U3")]),
    "truths": np.array([True, False]),
    "complex": np.array([1j, 2j]),
    "nothing": np.zeros((2, 0)),
    "one number": np.array(3),
    "no numbers": np.array([np.nan, np.inf]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind_are_refused_in_words(tmp_path, kind):
    np.savez(tmp_path / "a.npz", fog=np.zeros((2, 8, 8, 3), np.uint8), labels=LABELS[kind])
    refused(tmp_path / "a.npz", r"a\.npz.* has (the|labels)")


def damaged_tar(path, kind):
    members = [("batches.meta", 700), ("data_batch_1", 9000)]
    data = bytearray(tar_of(path, members).read_bytes())
    if kind == "flipped":
        data[30:60] = b"\xff" * 30
    elif kind == "cut off":
        del data[len(data) // 2 :]
    elif kind == "no archive":
        data = bytearray(b"\x1f\x8bno gzip")
    elif kind == "a wrong size":
        plain = bytearray(gzip.decompress(data))
        plain[124:136] = b"\x80" + b"\xff" * 11
        header = plain[:148] + b" " * 8 + plain[156:512]
        plain[148:156] = f"{sum(header):06o}\0 ".encode()
        data = plain
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["flipped", "cut off", "no archive", "a wrong size", "zeros"])
def test_whatever_is_wrong_with_an_archive_is_told_in_words(tmp_path, kind):
    path = tmp_path / "a.tar.gz"
    damaged_tar(path, kind)
    refused(path, r"a\.tar\.gz(: .*)? (is|holds|has)")


PICKLES = {
    "nothing": b"",
    "cut off": pickle.dumps({b"label_names": [b"cat"]})[:-3],
    "a number": pickle.dumps(3),
    "names that are numbers": pickle.dumps({b"label_names": 3}),
    "names twice": pickle.dumps({b"label_names": [b"cat", b"cat"]}),
    "names that are no text": pickle.dumps({b"label_names": [b"\xff\xfe"]}),
    "keys that are lists": b"\x80\x02}]K\x01s.",
    "an index without an object": b"\x80\x02h\x07.",
    "deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_whatever_is_wrong_with_a_pickle_of_cifar_is_told_in_words(tmp_path, kind):
    (tmp_path / "batches.meta").write_bytes(PICKLES[kind])
    for name in cifar.BATCHES:
        (tmp_path / name).write_bytes(pickle.dumps({b"data": 3, b"labels": [1, {}]}))
    with pytest.raises(files.BadFile, match=rf"{tmp_path}(: )?.*(is|has|holds)") as caught:
        sources.open_source(tmp_path)
    assert "\n" not in f"{caught.value}"


def image_bytes(kind, **options):
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 90).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"])
def test_whatever_pillow_raises_is_told_in_words(tmp_path, kind):
    rng, path = np.random.default_rng(0), tmp_path / f"image.{kind.lower()}"
    for _ in range(60):
        data = np.frombuffer(image_bytes(kind), np.uint8).copy()
        data[rng.integers(0, min(len(data), 200), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(data[: rng.integers(1, len(data))].tobytes())
        try:
            images.read_rgb(path)
        except files.BadFile as error:
            assert re.match("(it|this Pillow|its pixels) ", f"{error}") and f"{error}".isprintable()


def test_members_of_an_npz_that_are_no_arrays_are_left_out(tmp_path):
    np.savez(tmp_path / "a.npz", fog=np.zeros((2, 8, 8, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "Some words")
    assert len(sources.open_source(tmp_path / "a.npz").names) == 2


# ----------------------------------------------------------------------------------------- names

NFC, NFD = "caf\u00e9", "cafe\u0301"  # the same four letters


def test_two_names_that_look_alike_are_refused(tmp_path):
    for name in (NFC, NFD):
        (tmp_path / f"{name}.png").touch()
    with pytest.raises(ValueError, match=r"differ in the Unicode form of their names only"):
        tree.list_images(tmp_path)


def test_a_name_in_another_unicode_form_is_told_as_such(prior, tmp_path):
    for folder, name in (("photos", NFC), ("copies", NFD)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{name}.png")
    with pytest.raises(ValueError, match=r"`keys` .*caf.* another Unicode form of its name"):
        Adapter(prior, speed="one-shot").folder(
            tmp_path / "photos", tmp_path / "out", keys=[NFD], quiet=True
        )
    photos, copies = (sources.open_source(tmp_path / name) for name in ("photos", "copies"))
    with pytest.raises(ValueError, match=r"have no copy: .*caf.* another Unicode form of its name"):
        paired.refuse([NFC], [tree.key_of(name) for name in copies.names], "have no copy", "adapt")
    assert tree.other_form(["other"], map(tree.key_of, photos.names)) == ""


def test_a_file_of_keys_holds_any_name(tmp_path):
    keys = {"a\nb", "a\r\nb", "a\rb", NFD, os.fsdecode(b"\xff"), "x y ", "n" * 250}
    tree.write_keys(tmp_path / "keys.txt", sorted(keys))
    assert tree.read_keys(tmp_path / "keys.txt") == keys
    assert len((tmp_path / "keys.txt").read_bytes().splitlines()) == len(keys)


def test_names_that_are_no_text_or_very_long_are_adapted_and_told(prior, tmp_path):
    names = [os.fsdecode(b"\xff"), "n" * 250, "line\nbreak", NFD]
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(photos / f"{name}.gif")
    broken = os.fsdecode(b"\xfe.png")
    (photos / broken).write_bytes(b"no image")

    report = Adapter(prior, speed="one-shot").folder(photos, tmp_path / "out", quiet=True)

    assert report.done == 4 and set(report.failed) == {broken}
    saved = ledger.read_manifest(tmp_path / "out/manifest.json")
    assert set(saved["failures"]) == {broken}
    assert {tree.key_of(name) for name in tree.list_images(tmp_path / "out")[0]} == set(names)


def test_a_folder_whose_manifest_would_have_too_long_a_name_is_to_be_renamed(prior, tmp_path):
    photos, long = tmp_path / "photos", "é" * 122
    for name in (long, long[:-2]):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(photos / name / "a.png")
    adapter = Adapter(prior, speed="one-shot")
    with pytest.raises(ValueError, match="too long a name .*: rename it, to at most 241 bytes"):
        adapter.folder(photos, tmp_path / "out", corruption=long, quiet=True)
    assert not (tmp_path / "out" / long).exists()
    assert adapter.folder(photos, tmp_path / "out", corruption=long[:-2], quiet=True).done == 1


def test_a_sheet_names_the_image_that_is_damaged(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(image_bytes("PNG")[:90])
    with pytest.raises(files.BadFile, match=r"photos/a.png cannot be read \(it is "):
        making.sheet(tmp_path / "photos", tmp_path / "sheet.png", type="jpeg")
