"""Image files that lie in archives: zip, and tar as webdataset has it.

Nothing is unpacked to the disk. An archive is listed once, and each image is read from its place.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from DDA import files, images, tree

LARGEST = 1 << 28  # bytes; image files are smaller
MOST_DEFLATED = 1032  # the most bytes that zlib can store in one byte
SHORTEST = 30  # bytes before the name of a member of a zip
BLOCK = 512  # bytes of a header of tar, of which the sizes of members are multiples
MOST_EXTENDED = 1 << 20  # bytes of a tar header's long name or other additions


class Member(NamedTuple):
    """A file in an archive.

    start: the place of its bytes, or in a zip that of its header. size: the bytes that it has, and
    packed those that it takes in the archive. check: the CRC-32 of its bytes, or None in a tar.
    """

    archive: Path
    name: str
    start: int
    size: int
    packed: int
    is_deflated: bool = False
    check: int | None = None

    @property
    def where(self) -> str:
        """Return the place of the file, for messages."""
        return f"{self.archive}: {tree.shown(self.name)[1:-1]}"

    def read(self, file: BinaryIO | None = None) -> bytes:
        """Return the bytes of the file. file: the archive, where it is open. Raises BadFile."""
        if file is None:
            with files.open_regular(self.archive) as opened:
                return self.read(opened)
        _check_size(self)
        with files.parsing(self.where, "file in an archive"):
            file.seek(self.start)
            if self.check is None:
                return self._whole(file.read(self.size), self.size)
            head = self._whole(file.read(SHORTEST), SHORTEST)
            if not head.startswith(b"PK\3\4"):
                raise files.BadFile(f"{self.where} is not where the archive says; get it again")
            lengths = (int.from_bytes(head[place : place + 2], "little") for place in (26, 28))
            file.seek(sum(lengths), 1)
            data = self._whole(file.read(self.packed), self.packed)
            if self.is_deflated:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
            if len(data) != self.size or zlib.crc32(data) != self.check:
                raise files.BadFile(f"{self.where} is damaged; get the archive again")
            return data

    def _whole(self, data: bytes, size: int) -> bytes:
        if len(data) < size:
            raise files.BadFile(f"{self.where} is cut off; get the archive again")
        return data


class Packed:
    """Image files in archives, as a part of a source.

    upright: whether images are turned as their EXIF data say.
    """

    def __init__(self, members: Sequence[Member], *, upright: bool = False):
        self._members, self._upright = members, upright

    def read(self, row: int) -> Image.Image:
        """Return an image as RGB."""
        member = self._members[row]
        return images.read_rgb(Path(member.name), upright=self._upright, data=member.read())

    def pixels(self, row: int) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        return np.asarray(self.read(row))

    def encoded(self, row: int) -> bytes | None:
        """Return the bytes of an image's file; None where its pixels are turned."""
        member = self._members[row]
        data = member.read()
        is_turned = self._upright and images.is_turned(Path(member.name), data)
        return None if is_turned else data


def clean_name(name: str, archive: Path) -> str | None:
    """Return the name of a member without ./ before it; None where it is hidden or a folder.

    Raises BadFile for a name that leads out of the archive.
    """
    while name.startswith("./"):
        name = name[2:]
    parts = name.split("/")
    is_hidden = any(part.startswith(".") and part != ".." for part in parts)
    if not name or name.endswith("/") or (is_hidden and ".." not in parts):
        return None
    return tree.check_name(name, archive)


def _check_size(member: Member) -> None:
    """Raise BadFile where a member declares more bytes than an image has or than fit into it."""
    most = MOST_DEFLATED * (member.packed + 1) if member.is_deflated else member.packed
    if member.size > min(most, LARGEST):
        raise files.BadFile(
            f"{member.where} declares {member.size:,} bytes in {member.packed:,} of the archive; "
            f"such files have at most {LARGEST:,}, and the archive may be damaged"
        )


# ------------------------------------------------------------------------------------------ zip


def zip_members(path: Path) -> list[Member]:
    """Return the files in a zip, without hidden ones. Raises BadFile for what cannot be read."""
    with files.parsing(path, "zip"), files.open_regular(path) as file:
        whole = file.seek(0, 2)
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
        members = [member for info in listed if (member := _zip_member(path, info))]
    if sum(member.packed for member in members) > whole:
        raise files.BadFile(
            f"{path} declares files of more packed bytes than it has; it is damaged, get it again"
        )
    return members


def _zip_member(path: Path, info: zipfile.ZipInfo) -> Member | None:
    """Return a file in a zip; None for folders, and for hidden files."""
    name = clean_name(info.filename, path)
    if name is None:
        return None
    is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
    place = (info.header_offset, info.file_size, info.compress_size)
    member = Member(path, name, *place, is_deflated, info.CRC)
    if not name.lower().endswith(tree.SUFFIXES):
        return member
    if info.flag_bits & 1:
        raise files.BadFile(f"{member.where} is encrypted; unpack the zip and name the folder")
    if not is_deflated and info.compress_type != zipfile.ZIP_STORED:
        raise files.BadFile(
            f"{member.where} is packed in a way that is not read here; unpack the zip and name the "
            "folder"
        )
    _check_size(member)
    return member


# ------------------------------------------------------------------------------------------ tar


def is_gzip(path: Path) -> bool:
    """Tell whether a file is packed by gzip, whatever its name is."""
    with files.open_regular(path) as file:
        return file.read(2) == b"\x1f\x8b"


def tar_members(path: Path) -> list[Member]:
    """Return the files in a tar that is not packed, without hidden ones and links.

    Only the headers are read: Python's tarfile takes 40 microseconds for each, which is too long
    for millions of members.
    """
    with files.parsing(path, "tar archive"), files.open_regular(path) as file:
        if is_gzip(path):
            raise files.BadFile(
                f"{path} is packed by gzip, in which no image can be found without all before it; "
                "unpack it with gunzip"
            )
        whole = file.seek(0, 2)
        members = [
            Member(path, name, start, size, size)
            for raw, start, size in _tar_headers(file, whole, path)
            if (name := clean_name(raw, path)) is not None
        ]
    for member in members:
        if member.name.lower().endswith(tree.SUFFIXES):
            _check_size(member)
    return members


def _tar_headers(file: BinaryIO, whole: int, path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the place and the size of each regular file in a tar of ``whole`` bytes."""
    place = 0
    extended: dict[str, bytes] = {}  # what the headers before say of the next file
    while True:
        file.seek(place)
        block = file.read(BLOCK)
        if len(block) < BLOCK or not block.strip(b"\0"):
            if place == 0 or block.strip(b"\0"):
                raise files.BadFile(f"{path} is cut off, or no tar archive; get it again")
            return
        _check_sum(block, place, path)
        kind, start = block[156:157], place + BLOCK
        size = int(extended["size"]) if "size" in extended else _number(block[124:136])
        if not 0 <= size <= whole - start:
            raise files.BadFile(
                f"{path} declares a file of {size:,} bytes at {place:,}, but has {whole:,} in all; "
                "it is cut off or damaged, get it again"
            )
        place = start + -(-size // BLOCK) * BLOCK
        if kind in b"xgLK":
            extended |= _extension(file, kind, size, path)
            continue
        is_sparse = any(name.startswith("GNU.sparse") for name in extended)
        if kind in (b"0", b"\0", b"7") and not is_sparse:
            yield _tar_name(block, extended), start, size
        extended = {}


def _check_sum(block: bytes, place: int, path: Path) -> None:
    """Raise BadFile where a header is damaged: its sum counts its own eight bytes as spaces."""
    if _number(block[148:156]) != 256 + sum(block) - sum(block[148:156]):
        raise files.BadFile(f"{path} is damaged at byte {place:,}, or no tar archive; get it again")


def _number(field: bytes) -> int:
    """Return a number of a tar header, in octal digits or in binary."""
    if field[0] == 0o200:
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _tar_name(block: bytes, extended: dict[str, bytes]) -> str:
    name = extended.get("path")
    if name is None:
        name = block[:100].split(b"\0")[0]
        prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
        name = prefix + b"/" + name if prefix else name
    return name.decode("utf-8", "surrogateescape")


def _extension(file: BinaryIO, kind: bytes, size: int, path: Path) -> dict[str, bytes]:
    """Return what a header says of the next file: a long name (L), or entries of its own (x)."""
    if size > MOST_EXTENDED:
        raise files.BadFile(f"{path} has a header of {size:,} bytes; it is damaged, get it again")
    data = file.read(size)
    if kind == b"L":
        return {"path": data.split(b"\0")[0]}
    if kind != b"x":  # the names of links, and what holds for all files, tell nothing of these
        return {}
    entries = {}
    while data:
        length = int(re.match(rb"(\d{1,9}) ", data)[1])
        name, _, value = data[:length].partition(b" ")[2].partition(b"=")
        entries[name.decode("utf-8", "replace")] = value[:-1]
        data = data[max(1, length) :]
    return entries
