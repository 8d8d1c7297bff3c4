"""Images by their names in a tree: what every source that is no plain folder on disk shares."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from DDA import files, tree

MOST_IMAGES = 5_000_000  # their names take about 2 GB


class Part(Protocol):
    """Some images of a source, each known by its row."""

    def read(self, row: int) -> Image.Image:
        """Return an image as RGB."""
        ...

    def pixels(self, row: int) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        ...

    def encoded(self, row: int) -> bytes | None:
        """Return the bytes of an image's file, or None where there are only pixels."""
        ...


class Named:
    """Images that parts hold, each under a name in the tree.

    upright: whether images are turned as their EXIF data say. left_out: what is left out, in words.
    files: the files on disk that hold the images. others: what else they hold, by name.
    """

    def __init__(self, path: Path, classes: Iterable[str] | None = None, *, upright: bool = False):
        self.path, self.upright, self.left_out = path, upright, ""
        self.classes = None if classes is None else tree.check_classes(classes, path)
        self.files = [path] if path.is_file() else sorted(filter(Path.is_file, path.glob("*")))
        self.others: list[str] = []
        self._places: dict[str, tuple[Part, int]] = {}
        self._sorted: list[str] = []

    def put(self, name: str, part: Part, row: int) -> None:
        """Add the image of a row of a part. Raises BadFile for a name that leads elsewhere."""
        tree.check_name(name, self.path)
        if name in self._places:
            raise files.BadFile(
                f"{self.path} holds the image {tree.shown(name)} twice; names must differ"
            )
        self.check_count(1)
        self._places[name] = (part, row)

    def check_count(self, more: int) -> None:
        """Raise BadFile where there are too many images."""
        if len(self._places) + more > MOST_IMAGES:
            raise files.BadFile(
                f"{self.path} has more than {MOST_IMAGES:,} images, the most that one source may "
                "have; split it"
            )

    @property
    def names(self) -> list[str]:
        """Return the names of all images, sorted by key. Raises ValueError for one key twice."""
        if len(self._sorted) < len(self._places):
            self._sorted = tree.unique(self.path, self._places)
        return self._sorted

    def list(
        self, cell: str = ".", *, leave_out: Path | None = None
    ) -> tuple[list[str], list[str]]:
        """Return the names of the images below a folder of the tree, and of the other files."""
        prefix = "" if cell == "." else f"{cell}/"
        return below(self.names, cell), [name for name in self.others if name.startswith(prefix)]

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        return folders_in(self.names, folder)

    def is_adapted(self, folder: str, save_dir: Path | None) -> bool:
        """Return False: there are no trees of adapted images in it."""
        return False

    def where(self, name: str) -> str:
        """Return the place of an image, for messages."""
        return f"{self.path}: {name}"

    def read(self, name: str) -> Image.Image:
        """Return an image as RGB."""
        part, row = self._places[name]
        return part.read(row)

    def pixels(self, name: str) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        part, row = self._places[name]
        return part.pixels(row)

    def encoded(self, name: str) -> bytes | None:
        """Return the bytes of an image's file, or None where there are only pixels."""
        part, row = self._places[name]
        return part.encoded(row)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of an image's file or pixels."""
        return hashlib.sha256(self.encoded(name) or self.read(name).tobytes()).hexdigest()


def below(names: Sequence[str], cell: str) -> list[str]:
    """Return those of the names, sorted by key, that lie below a folder; ``.`` has them all."""
    if cell == ".":
        return list(names)
    first = bisect_left(names, f"{cell}/", key=tree.key_of)
    end = bisect_left(names, f"{cell}0", key=tree.key_of)  # 0 comes after /
    return list(names[first:end])


def folders_in(names: Collection[str], folder: str) -> list[str]:
    """Return the names of the folders in a folder of the tree, sorted."""
    prefix = "" if folder == "." else f"{folder}/"
    rests = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})
