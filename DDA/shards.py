"""Copies in tar files: a shard holds some images of a cell in the order of their keys.

A shard ``shard-000000.tar`` has the members ``<key>.png`` and, where the label is known,
``<key>.cls`` with its number, as webdataset reads them. Its index ``shard-000000.json`` tells the
place of each image, the size of the shard and its SHA-256. The index is written last: a shard
without one, or of another size, is damaged. Equal images make equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from DDA import files, tree

FORMAT = "webdataset"  # what the settings of a folder say whose copies lie in shards
SIZE = 1000  # images of a shard, where nobody says another number
NAME = re.compile(r"shard-\d{6,}\.tar")
SUFFIX = ".png"
Places = dict[str, tuple[int, int]]


def name_of(cell: str, number: int) -> str:
    """Return the path of a shard of a cell, relative to the root of the tree."""
    name = f"shard-{number:06}.tar"
    return name if cell == "." else f"{cell}/{name}"


@dataclass(frozen=True)
class Index:
    """The record of a shard: its size in bytes, its SHA-256, and the place of each image.

    places: where an image's file begins in the shard, and its number of bytes, by its key.
    """

    bytes: int
    sha256: str
    places: Places

    def read(self, file: BinaryIO, key: str) -> bytes:
        """Return the bytes of an image's file out of an open shard."""
        begin, count = self.places[key]
        return os.pread(file.fileno(), count, begin)


def read_index(path: Path) -> Index:
    """Return the index of a shard, which must have the size that its index says.

    path: of the shard. Raises BadFile and FileNotFoundError.
    """
    beside = path.with_suffix(".json")
    content = files.read_json(beside, "make the shard again")
    with files.parsing(beside, "index of a shard", "make the shard again"):
        size, digest, places = (content[name] for name in ("bytes", "sha256", "places"))
        if not (isinstance(digest, str) and isinstance(places, dict)):
            raise ValueError
        checked = {key: _place(*place, size) for key, place in places.items()}
        if sum(count for _, count in checked.values()) > size:  # they would lie on each other
            raise ValueError
    for key in checked:
        tree.check_name(key, beside)
    with files.open_regular(path) as file:
        actual = os.fstat(file.fileno()).st_size
    if actual != size:
        raise files.BadFile(f"{path} has {actual:,} bytes, and its index says {size:,}")
    return Index(size, digest, checked)


def _place(begin: int, count: int, size: int) -> tuple[int, int]:
    """Return the place of an image, which must lie in its shard. Raises ValueError."""
    whole = type(begin) is int and type(count) is int
    if not whole or begin < 0 or count < 0 or begin + count > size:
        raise ValueError
    return begin, count


@dataclass
class Listed:
    """The shards in some cells of a tree.

    images: key to the relative path of its shard, for each cell. unfinished: relative paths of
    temporaries. damaged: relative paths of damaged shards, with the reason. digests: the SHA-256 of
    the others.
    """

    images: dict[str, dict[str, str]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def merged(self) -> dict[str, str]:
        """Return the key of each image and its shard, of all cells."""
        return {key: path for images in self.images.values() for key, path in images.items()}


def listed(
    root: Path, cells: Iterable[str], *, verify: bool = False, at_root: bool = False
) -> Listed:
    """List the images in the shards of some cells; a missing folder has none.

    verify: read every shard, and compare its SHA-256 with its index. Without it only their sizes
    are compared. at_root: also list the temporaries at the root.
    """
    result = Listed()
    if at_root:
        result.unfinished += [name for name in _names(root) if name.endswith(files.TEMPORARY)]
    with ThreadPoolExecutor(4) as pool:
        for cell in cells:
            names = _names(root / cell)
            prefix = "" if cell == "." else f"{cell}/"
            result.unfinished += [prefix + name for name in names if name.endswith(files.TEMPORARY)]
            paths = [prefix + name for name in names if NAME.fullmatch(name)]
            images = result.images.setdefault(cell, {})
            outcomes = pool.map(lambda path: _checked(root / path, verify), paths)
            for path, outcome in zip(paths, outcomes, strict=True):
                if isinstance(outcome, str):
                    result.damaged[path] = outcome
                else:
                    images.update(dict.fromkeys(outcome.places, path))
                    result.digests[path] = outcome.sha256
    return result


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in tree.entries(folder) or ()) if folder.is_dir() else []


def _checked(path: Path, verify: bool) -> Index | str:
    """Return the index of a shard, or why it is damaged."""
    try:
        index = read_index(path)
        if verify and files.sha256(path) != index.sha256:
            return "its SHA-256 is not the one that its index says"
        return index
    except FileNotFoundError:
        return "it has no index: its writer was stopped"
    except files.BadFile as error:
        return f"{error}"


def remove(path: Path) -> None:
    """Remove a shard and its index, the index first."""
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def read_image(path: Path, key: str) -> bytes:
    """Return the bytes of an image's file from a shard. Raises BadFile, and KeyError."""
    index = read_index(path)
    with files.open_regular(path) as file:
        return index.read(file, key)


def keep(root: Path, path: str, keys: Iterable[str], label_of: LabelOf) -> None:
    """Write a shard again with some of its images only, or remove it where none is to stay."""
    kept = sorted(keys)
    if not kept:
        remove(root / path)
        return
    with Shard(root, path, label_of, kept):
        pass


# -------------------------------------------------------------------------------------- writing

LabelOf = Callable[[str], "int | None"]  # the label of a key, where it is known


class Shard:
    """A shard that is being written; images are added in any order.

    They wait in a file until the end of the block. Then the shard is written in the order of its
    keys and gets its name, also where an error ended the block: what is added is whole. The images
    of an older shard of this name stay, unless they are added anew. Where the disk is full, the
    older shard stays as it is.

    root: of the tree, which must exist. path: of the shard, relative to it. keys: those of the
    images of the older shard that stay (default: all).
    """

    def __init__(self, root: Path, path: str, label_of: LabelOf, keys: Iterable[str] | None = None):
        self.path = root / path
        self._label_of = label_of
        self._older, self._index = _older(self.path)
        self._kept = set(self._index.places if keys is None else keys)
        self._added = Index(0, "", {})
        files.make_folders(root, self.path.parent)
        self._spool = files.temporary(self.path)
        self._open = contextlib.ExitStack()
        self._open.callback(self._spool.unlink, missing_ok=True)
        if self._older is not None:
            self._open.enter_context(self._older)
        with files.writing(self.path):
            self._waiting = self._open.enter_context(self._spool.open("wb+"))

    def __enter__(self) -> Shard:
        return self

    def add(self, key: str, data: bytes) -> None:
        """Add an image's file."""
        with files.writing(self.path):
            self._added.places[key] = self._waiting.seek(0, os.SEEK_END), len(data)
            self._waiting.write(data)

    def __exit__(self, *_: object) -> None:
        """Write the shard, give it its name, and write its index."""
        unfinished = files.temporary(self.path)
        try:
            with files.writing(self.path):
                self._waiting.flush()
                with unfinished.open("wb") as file:
                    content = self._write(_Tar(file))
                    file.flush()
                    os.fsync(file.fileno())
                self.path.with_suffix(".json").unlink(missing_ok=True)
                os.replace(unfinished, self.path)
            text = json.dumps(content, separators=(",", ":")) + "\n"
            files.write_bytes(self.path.with_suffix(".json"), text.encode())
        finally:
            unfinished.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what a full disk did not take
                self._open.close()

    def _write(self, tar: _Tar) -> dict[str, Any]:
        """Write all members, and return the content of the index."""
        places = {}
        for key in sorted(self._kept | self._added.places.keys()):
            if key in self._added.places:
                data = self._added.read(self._waiting, key)
            else:
                data = self._index.read(self._older, key)
            places[key] = tar.add(key + SUFFIX, data), len(data)
            label = self._label_of(key)
            if label is not None:
                tar.add(f"{key}.cls", b"%d" % label)
        tar.end()
        return {"bytes": tar.size, "sha256": tar.digest.hexdigest(), "places": places}


class _Tar:
    """A tar file of members of nobody and of no time; its size and its digest so far."""

    def __init__(self, file: BinaryIO):
        self._file, self.size, self.digest = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Write a member, and return where its data begin."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        header = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        begin = self.size + len(header)
        self._write(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))
        return begin

    def end(self) -> None:
        """Write the two empty blocks that end a tar file, and fill the last record."""
        end = self.size + 2 * tarfile.BLOCKSIZE
        self._write(bytes(end - self.size + -end % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)
        self._file.write(data)


def _older(path: Path) -> tuple[BinaryIO | None, Index]:
    """Return the older shard of a name, open, and its index; a damaged one has no images."""
    try:
        index = read_index(path)
        return files.open_regular(path), index
    except (FileNotFoundError, files.BadFile):
        return None, Index(0, "", {})
