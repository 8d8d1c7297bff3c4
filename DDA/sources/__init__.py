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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from DDA import files, images, tree
from DDA.sources.arrays import Arrays, npy, npz, official_arrays
from DDA.sources.cifar import archive, cifar_folder
from DDA.sources.digits import DIGITS, digits
from DDA.sources.folder import Folder
from DDA.sources.imagenet import imagenet, tiny_imagenet

FORMATS = (
    "a folder of images; CIFAR-10 or CIFAR-100 (python or binary, archive or folder); a folder "
    "with labels.npy and one <corruption>.npy each (CIFAR-10-C), or one such file; an .npy or "
    ".npz of images; the word digits"
)
ARCHIVES = (".tar.gz", ".tgz", ".tar")

Source = Folder | Arrays


def open_source(
    path: str | Path,
    classes: Sequence[str] | None = None,
    severity: int | None = None,
    *,
    upright: bool = False,
) -> Source:
    """Open the source at ``path``, which has one of FORMATS.

    classes: names for labels that come without. severity: that of the images in a file of a
    corruption that holds one. upright: whether image files are turned as their EXIF data say.
    Raises FileNotFoundError where nothing is there, and ValueError for
    a file that is damaged, unknown or asks to execute code.
    """
    path = Path(path)
    if str(path) == DIGITS and not path.exists():
        return digits(classes)
    if not path.exists():
        raise FileNotFoundError(f"`source` {path} does not exist; expected {FORMATS}")
    if path.is_dir():
        return (
            cifar_folder(path, classes)
            or official_arrays(path, classes, severity)
            or Folder(path, classes=classes, upright=upright)
        )
    if path.suffix == ".npz":
        return npz(path, classes, severity)
    if path.suffix == ".npy":
        return npy(path, classes, severity)
    if path.name.endswith(ARCHIVES):
        return archive(path, classes)
    raise ValueError(f"`source` {path} is no source of images; expected {FORMATS}")


def open_official(
    path: str | Path,
    classes: Sequence[str] | None = None,
    labels: Path | None = None,
    severity: int | None = None,
    orientation: str | None = None,
) -> Source:
    """Open a source as `open_source` does, or unpacked ImageNet or Tiny-ImageNet.

    The images of these two get the names that they have in a tree of ours. A folder with
    classes.txt is such a tree already. labels: the official list of a flat ImageNet val folder.
    orientation: apply or ignore (default: ignore for these two, else that of `is_upright`).
    """
    path = Path(path)
    if path.is_dir() and tree.read_classes(path) is None:
        source = tiny_imagenet(path) or imagenet(path, classes, labels)
        if source is not None:
            source.upright = orientation == "apply"
            return source
    return open_source(path, classes, severity, upright=is_upright(path, orientation))


def is_upright(path: Path, orientation: str | None = None) -> bool:
    """Tell whether the images of a source are turned as their EXIF data say.

    By default those of one's own folders are, and those of a tree of ours, which has classes.txt,
    are not: there nothing is left to turn, or the data set is read as it was published.
    """
    own = path.is_dir() and not (path / tree.CLASSES).is_file()
    return orientation == "apply" or (orientation is None and own)


def found_instead(source: Source, cells: Sequence[str] = (".",)) -> str:
    """Return what a source has instead of images in some cells, as the end of a message."""
    others: list[str] = []
    for cell in cells:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            others += source.list(cell)[1]
    return tree.found_instead(source.path, others, source.names)


def size_of(source: Source, name: str) -> tuple[int, int]:
    """Return the width and the height of an image; of a file only the header is read."""
    place = source.where(name)
    return images.size_of(place) if isinstance(place, Path) else source.read(name).size


def read_pixels(source: Source, name: str) -> np.ndarray:
    """Return an image, uint8 (H,W,3). Raises BadFile that names it where it is damaged."""
    try:
        return source.pixels(name)
    except Exception as error:  # PIL and its plugins raise many types for damaged files
        raise files.BadFile(
            f"{source.where(name)} cannot be read ({error}); remove it or make it anew"
        ) from None
