"""Sources of images: a folder, or a data set in its published files, seen as a tree of images.

Every source has

* ``path``, and ``classes``, the class names in order, or None;
* ``names``, the relative paths that its images have in a tree, sorted by key;
* ``list(cell)``, the images and the other files below a folder;
* ``folders(folder)``, the names of the folders in a folder;
* ``is_adapted(folder, save_dir)``, whether that is a tree of adapted copies;
* ``read(name)``, the image as RGB, and ``pixels(name)``, the same as uint8 (H,W,3);
* ``encoded(name)``, the bytes of its file, or None where there are only pixels;
* ``digest(name)``, a SHA-256 of what is read;
* ``where(name)``, the place of an image for messages;
* ``left_out``, what is left out of it, in words, or nothing.

Nothing that a file says is executed, and no name that it says leads out of the tree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from DDA import files, images, tree
from DDA.sources import archives
from DDA.sources import labels as lists
from DDA.sources.arrays import npy, npz, official_arrays
from DDA.sources.cifar import archive, cifar_folder
from DDA.sources.copies import copies_in_shards
from DDA.sources.digits import DIGITS, digits
from DDA.sources.folder import Folder, listed_folder
from DDA.sources.globs import is_pattern, matches
from DDA.sources.imagenet import imagenet, tiny_imagenet
from DDA.sources.labels import splits_of as splits_of
from DDA.sources.named import Named
from DDA.sources.tables import is_table, open_tables

FORMATS = (
    "a folder of images, with class folders or a labels.csv, one image, a zip, or a pattern such "
    "as 'photos/*.jpg'; adapted copies, or a webdataset, in shards (.tar); parquet, or a folder "
    "that Hugging Face's datasets saved; CIFAR-10 or CIFAR-100 (python or binary, archive or "
    "folder); a folder with labels.npy and one <corruption>.npy each (CIFAR-10-C), or one such "
    "file; an .npy or .npz of images; the word digits"
)
ARCHIVES = (".tar.gz", ".tgz", ".tar")

Source = Folder | Named


class _Asked(NamedTuple):
    """The arguments of `open_source` beside the path."""

    classes: Sequence[str] | None
    severity: int | None
    labels: Path | None
    upright: bool


def open_source(
    path: str | Path,
    classes: Sequence[str] | None = None,
    severity: int | None = None,
    *,
    upright: bool = False,
    labels: Path | None = None,
) -> Source:
    """Open the source at ``path``, which has one of FORMATS.

    classes: names for labels that come without. severity: that of the images in a file of a
    corruption that holds one. upright: whether image files are turned as their EXIF data say.
    labels: a CSV file that lists image files and their labels. Raises FileNotFoundError where
    nothing is there, and ValueError for a file that is damaged, unknown or asks to execute code.
    """
    path, asked = Path(path), _Asked(classes, severity, labels, upright)
    if str(path) == DIGITS and not path.exists():
        source = digits(classes)
    elif path.is_dir():
        source = _folder(path, asked)
    elif path.exists():
        source = _file(path, asked)
    elif is_pattern(path):
        source = _matching(path, asked)
    else:
        raise FileNotFoundError(f"`source` {path} does not exist; expected {FORMATS}")
    return source


def _folder(path: Path, asked: _Asked) -> Source:
    classes, severity, labels, upright = asked
    source = None
    if labels is None:
        source = copies_in_shards(path, classes) or cifar_folder(path, classes)
        source = source or official_arrays(path, classes, severity)
    source = source or _of_files(path, path, _data_files(path), asked)
    if source is None:
        source = listed_folder(path, classes, labels, upright=upright)
    return source or Folder(path, classes=classes, upright=upright)


def _data_files(path: Path) -> list[str]:
    """Return the data files of a folder that holds these alone, or in folders of its splits.

    Such a folder holds no images and no other folders.
    """
    is_saved = (path / "dataset_dict.json").is_file()  # Hugging Face's folder of several splits
    splits = {*lists.TRAIN, *lists.TEST, "data"}
    names: list[str] = []
    folders = [""]
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(path / folder) as entries:
            for entry in entries:  # as few as tell that it is another folder: it may hold millions
                if entry.name.startswith("."):
                    continue
                if not tree.is_folder(entry):
                    if entry.name.lower().endswith(tree.SUFFIXES):
                        return []
                    names.append(f"{folder}{entry.name}")
                elif folder or not (is_saved or entry.name.lower() in splits):
                    return []
                else:
                    folders.append(f"{entry.name}/")
    return sorted(names)


def _of_files(path: Path, folder: Path, names: Sequence[str], asked: _Asked) -> Source | None:
    """Open data files of one kind; return None where there are none. path: what the user gave."""
    tars = [name for name in names if name.endswith(".tar")]
    if tars:
        rest = (asked.classes, asked.labels)
        return archives.shards(path, folder, tars, *rest, upright=asked.upright)
    named = [name for name in names if is_table(name)]
    if named and asked.labels is None:
        return open_tables(path, folder, named, asked.classes, upright=asked.upright)
    return None


def _file(path: Path, asked: _Asked) -> Source:
    classes, severity, labels, upright = asked
    suffix, source = path.suffix.lower(), None
    if suffix in (".zip", ".tar"):
        source = archives.archive(path, classes, labels, upright=upright)
    elif suffix in (".npz", ".npy") and labels is None:
        source = (npz if suffix == ".npz" else npy)(path, classes, severity)
    elif suffix in tree.SUFFIXES:
        source = _images(path, {path.name: path}, asked)
    else:
        source = _of_files(path, path.parent, [path.name], asked)
    if source is None and path.name.endswith(ARCHIVES) and labels is None:
        source = archive(path, classes)
    if source is None and labels is not None:
        raise ValueError(f"`labels` {labels}: {path} has labels of its own; leave it out")
    if source is None:
        raise ValueError(f"`source` {path} is no source of images; expected {FORMATS}")
    return source


def _images(path: Path, named: dict[str, Path], asked: _Asked) -> Folder:
    """Open image files that the user names himself, with the labels of a list if one is given."""
    placed = lists.Labelled({name: name for name in named}, asked.classes, "")
    if asked.labels is not None:
        placed = lists.by_lists(named, {}, asked.classes, path, asked.labels)
    files = {name: named[file] for name, file in placed.names.items()}
    return Folder(path, files, placed.classes, placed.left_out, upright=asked.upright)


def _matching(path: Path, asked: _Asked) -> Source:
    """Open the images that a pattern matches. Raises FileNotFoundError where there are none."""
    folder, names = matches(path)
    images = [name for name in names if Path(name).suffix.lower() in tree.SUFFIXES]
    if images:
        return _images(path, {name: folder / name for name in images}, asked)
    source = _of_files(path, folder, names, asked)
    if source is None:
        instead = tree.found_instead(folder, names) if names else ""
        raise FileNotFoundError(f"`source` {path} matches no image{instead}")
    return source


def exists(path: str | Path) -> bool:
    """Tell whether there is anything at the path of a source, which may be a pattern."""
    return str(path) == DIGITS or Path(path).exists() or is_pattern(path)


def open_official(
    path: str | Path,
    classes: Sequence[str] | None = None,
    labels: Path | None = None,
    severity: int | None = None,
    orientation: str | None = None,
) -> Source:
    """Open a source as `open_source` does, or unpacked ImageNet or Tiny-ImageNet.

    The images of these two get the names that they have in a tree of ours. A folder with
    classes.txt is such a tree already. Class folders name the classes of any other folder.
    labels: the official list of a flat ImageNet val folder, or a CSV file as in `open_source`.
    orientation: apply or ignore (default: ignore for these two, else that of `is_upright`).
    """
    path = Path(path)
    is_list = labels is not None and lists.is_list(labels)
    if path.is_dir() and tree.read_classes(path) is None and not is_list:
        source = tiny_imagenet(path) or imagenet(path, classes, labels)
        if source is not None:
            source.upright = orientation == "apply"
            return source
    upright = is_upright(path, orientation)
    source = open_source(path, classes, severity, upright=upright, labels=labels)
    if isinstance(source, Folder) and source.classes is None:
        source.by_folders = True
    return source


def is_upright(path: Path, orientation: str | None = None) -> bool:
    """Tell whether the images of a source are turned as their EXIF data say.

    By default one's own photographs are, and those of a tree of ours, which has classes.txt, are
    not: there nothing is left to turn, or the data set is read as it was published.
    """
    own = not (path / tree.CLASSES).is_file()
    return orientation == "apply" or (orientation is None and own)


def found_instead(source: Source, cells: Sequence[str] = (".",)) -> str:
    """Return what a source has instead of images in some cells, as the end of a message."""
    others: list[str] = []
    for cell in cells:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            others += source.list(cell)[1]
    return tree.found_instead(source.path, others, source.names)


def size_of(source: Source, name: str) -> tuple[int, int]:
    """Return the width and the height of an image; of a file only the header is decoded."""
    place = source.where(name)
    if isinstance(place, Path):
        return images.size_of(place)
    data = source.encoded(name)
    return source.read(name).size if data is None else images.size_of(Path(name), data)


def read_pixels(source: Source, name: str) -> np.ndarray:
    """Return an image, uint8 (H,W,3). Raises BadFile that names it where it is damaged."""
    try:
        return source.pixels(name)
    except Exception as error:  # PIL and its plugins raise many types for damaged files
        raise files.BadFile(
            f"{source.where(name)} cannot be read ({error}); remove it or make it anew"
        ) from None
