"""A folder of images as a source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from DDA import files, images, tree
from DDA.sources import labels as lists
from DDA.sources.named import below, folders_in


class Folder:
    """A folder of images.

    files: the file of each image by its name in the tree, where the names differ from those on
    disk. upright: whether images are turned as their EXIF data say. left_out: what is left out of
    the images on disk, in words. by_folders: whether class folders tell the classes where nothing
    else does; the folder is listed when these are asked for.
    """

    by_folders = False

    def __init__(
        self,
        path: Path,
        files: dict[str, Path] | None = None,
        classes: Iterable[str] | None = None,
        left_out: str = "",
        *,
        upright: bool = False,
    ):
        self.path, self.left_out, self.upright = path, left_out, upright
        self._classes = (
            tree.read_classes(path) if classes is None else tree.check_classes(classes, path)
        )
        for name in files or ():
            tree.check_name(name, path)
        self._files = files
        self._names: list[str] | None = None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Return the class names in order, or None."""
        if self._classes is None and self.by_folders:
            self._classes = lists.class_folders(self.names)
        return self._classes

    @property
    def names(self) -> list[str]:
        """Return the names of all images, sorted by key."""
        if self._names is None:
            if self._files is None:
                self._names = tree.list_images(self.path)[0]
            else:
                self._names = tree.unique(self.path, self._files)
        return self._names

    def list(
        self, cell: str = ".", *, leave_out: Path | None = None
    ) -> tuple[list[str], list[str]]:
        """Return the images below a folder of the tree, and the other files.

        `tree.list_images` says which files these are.
        """
        if self._files is not None:
            return below(self.names, cell), []
        return tree.list_images(self.path, cell, leave_out=leave_out)[:2]

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        if self._files is not None:
            return folders_in(self.names, folder)
        with os.scandir(self.path / folder) as entries:
            names = [entry.name for entry in entries if tree.is_folder(entry)]
        return sorted(name for name in names if not name.startswith("."))

    def is_adapted(self, folder: str, save_dir: Path | None) -> bool:
        """Tell whether a folder is a tree of adapted images or holds ``save_dir``."""
        place = self.path / folder
        within = save_dir is not None and save_dir.resolve().is_relative_to(place.resolve())
        return within or (place / tree.SETTINGS).is_file()

    def where(self, name: str) -> Path:
        """Return the file of an image."""
        return self.path / name if self._files is None else self._files[name]

    def read(self, name: str) -> Image.Image:
        """Return an image as RGB."""
        return images.read_rgb(self.where(name), upright=self.upright)

    def pixels(self, name: str) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        return np.asarray(self.read(name))

    def encoded(self, name: str) -> bytes | None:
        """Return the bytes of an image's file; None where its pixels are turned."""
        path = self.where(name)
        return None if self.upright and images.is_turned(path) else files.read_regular(path)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of an image's file."""
        return files.sha256(self.where(name))


def listed_folder(
    path: Path,
    classes: Sequence[str] | None,
    labels: Path | None,
    *,
    upright: bool,
) -> Folder | None:
    """Open a folder of images with a list of their labels; return None for any other folder.

    The list lies in the folder or in those of its splits, under one of the names LISTS, or it is
    ``labels``. Each image gets its name in the folder of its class.
    """
    others = [] if labels is not None else _lists_in(path)
    contents = {name: partial(files.read_regular, path / name, lists.MOST_BYTES) for name in others}
    if labels is None and not any(lists.is_list(path / name) for name in contents):
        return None
    names = tree.list_images(path)[0]
    if not names:
        return None
    if classes is None:
        classes = tree.read_classes(path)
    placed = lists.by_lists(names, contents, classes, path, labels)
    if placed is None:
        return None
    named = {name: path / file for name, file in placed.names.items()}
    return Folder(path, named, placed.classes, placed.left_out, upright=upright)


def _lists_in(path: Path) -> list[str]:
    """Return the lists of labels in a folder and in those of its splits."""
    folders = ("", *(f"{split}/" for split in (*lists.TRAIN, *lists.TEST)))
    names = [f"{folder}{name}" for folder in folders for name in lists.LISTS]
    return [name for name in names if (path / name).is_file()]
