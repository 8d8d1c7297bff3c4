"""Sources of images in arrays: .npy and .npz files, and CIFAR-10-C as it is published."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from DDA import files, tree
from DDA.sources.named import Named, folders_in

CIFAR_C = tree.CORRUPTIONS + tree.EXTRA_CORRUPTIONS  # <corruption>.npy
# the arrays of images in npz files that go by a split, each with its labels and its folder: as this
# project writes them, as keras does, and as MedMNIST does
SPLITS = {
    "train_x": ("train_y", "clean/cifar_train"),
    "test_x": ("test_y", "clean/cifar_test"),
    "x_train": ("y_train", "clean/train"),
    "x_test": ("y_test", "clean/test"),
    "train_images": ("train_labels", "clean/train"),
    "val_images": ("val_labels", "clean/val"),
    "test_images": ("test_labels", "clean/test"),
}
SEVERITIES = 5  # the number of severities in an official file


class Arrays(Named):
    """Images in arrays, in parts that are folders of the tree.

    severity: the severity of files that hold one, as `open_source` takes it.
    """

    def __init__(
        self, path: Path, classes: Sequence[str] | None = None, severity: int | None = None
    ):
        super().__init__(path, classes)
        self._severity = severity
        self._folders: set[str] = set()

    def __reduce__(self) -> tuple:
        """Let another process read the same files, instead of sending it the pixels."""
        from DDA.sources import open_source

        return open_source, (self.path, self.classes, self._severity)

    def add(self, folder: str, part: Rows | Jpegs, count: int, labels: Any = None) -> None:
        """Add a part of ``count`` images under ``folder``.

        They are named <class>_<row> where labels are given, else <row>. labels: class indices
        (N,), or anything that `as_labels` takes. Raises BadFile for names that lead elsewhere and
        for wrong labels, and ValueError where the class names are missing.
        """
        if folder != ".":
            tree.check_name(folder, self.path)
        if labels is not None:
            labels = as_labels(labels, f"{self.path}: {folder}")
            if len(labels) != count:
                raise files.BadFile(
                    f"{self.path}: {folder} has {count} images and {len(labels)} labels"
                )
            if self.classes is None:
                raise ValueError(
                    f"{self.path}: {folder} has labels, but nothing tells the class names; give "
                    "`classes`"
                )
            if count and labels.max() >= len(self.classes):
                raise files.BadFile(
                    f"{self.path}: {folder} has the label {labels.max()}, but there are "
                    f"{len(self.classes)} classes"
                )
        self.check_count(count)
        if count:
            self._folders.add(folder)
        prefix = f"{folder}/" if folder != "." else ""
        for row in range(count):
            name = f"{row:05}" if labels is None else f"{self.classes[labels[row]]}_{row:05}"
            self._places[f"{prefix}{name}{part.suffix}"] = (part, row)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder; few are looked at, whatever they hold."""
        return folders_in({f"{name}/" for name in self._folders - {"."}}, folder)


class Rows:
    """Pixels uint8 (N,H,W,3) or (N,H,W), which are loaded when the first image is read."""

    suffix = ".png"

    def __init__(self, load: Callable[[], np.ndarray]):
        self._load = load
        self._pixels: np.ndarray | None = None

    def read(self, row: int) -> Image.Image:
        """Return an image as RGB."""
        return Image.fromarray(self.pixels(row))

    def pixels(self, row: int) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        if self._pixels is None:
            self._pixels = self._load()
        pixels = np.ascontiguousarray(self._pixels[row])
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

    def encoded(self, row: int) -> None:
        """Return None: there are only pixels."""
        return None


class Jpegs:
    """JPEG files in one array of bytes: file i is ``data[offsets[i]:offsets[i+1]]``."""

    suffix = ".jpg"

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self._data, self._offsets = data, offsets

    def read(self, row: int) -> Image.Image:
        """Return an image as RGB."""
        with Image.open(io.BytesIO(self.encoded(row)), formats=["JPEG"]) as image:
            return image.convert("RGB")

    def pixels(self, row: int) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        return np.asarray(self.read(row))

    def encoded(self, row: int) -> bytes:
        """Return the bytes of an image's file."""
        return self._data[self._offsets[row] : self._offsets[row + 1]].tobytes()


# --------------------------------------------------------------------------------------- labels


def as_labels(values: Any, where: str) -> np.ndarray:
    """Return class indices int64 (N,) of an array (N,) or (N,1), or of a flat list of numbers.

    Whole numbers in floating point are accepted. Raises BadFile for labels that are one-hot, text,
    negative, fractional or too large for an index.
    """
    expected = "expected one class index for each image, 0, 1, 2, …"
    if isinstance(values, list):
        # numpy would multiply out a list in a list
        if not all(type(value) is int for value in values):
            raise files.BadFile(f"{where} has labels that are no numbers; {expected}")
        if any(abs(value) > 2**31 for value in values):
            raise files.BadFile(
                f"{where} has the label {tree.shown(max(values, key=abs))}; {expected}"
            )
        values = np.array(values, np.int64)
    if not isinstance(values, np.ndarray):
        raise files.BadFile(f"{where} has no labels; {expected}")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        one_hot = "one-hot rows or scores" if values.ndim == 2 else "an array"
        raise files.BadFile(
            f"{where} has labels of the shape {values.shape}, {one_hot}; {expected}: "
            "labels.argmax(1)"
        )
    if values.dtype.kind not in "iuf":
        raise files.BadFile(f"{where} has labels that are no numbers ({values.dtype}); {expected}")
    invalid = values[~((values >= 0) & (values < 2**31) & (values == np.floor(values)))]
    if len(invalid):
        raise files.BadFile(f"{where} has the label {invalid[0]}; {expected}")
    return values.astype(np.int64)


def _classes_of(labels: np.ndarray, where: str) -> tuple[str, ...]:
    """Return the class names of labels that come without names.

    They are those of CIFAR-10 for 10 classes, and those of CIFAR-100 for 100 classes.
    """
    largest = int(labels.max(initial=-1))
    known = {9: "cifar10", 99: "cifar100"}
    if largest in known:
        return tree.class_list(known[largest])
    raise ValueError(
        f"{where} has labels up to {largest} but no class names; give `classes`, a file with one "
        "name a line"
    )


# ---------------------------------------------------------------------------- headers and files


class Header(NamedTuple):
    """The shape and the type that an array's header declares."""

    shape: tuple[int, ...]
    dtype: np.dtype


def _header(file: Any, where: str, size: int) -> Header:
    """Return the header of an open .npy file.

    size: the bytes of the file, header and numbers. Raises BadFile where the header declares more
    numbers than there are bytes, or Python objects, whose loading executes code.
    """
    with files.parsing(where, "npy file of numbers"):
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.hasobject:
            raise files.BadFile(
                f"{where} is no npy file of numbers: it holds Python objects, whose loading "
                "could execute code; save an array of numbers"
            )
        if min(shape, default=0) < 0:
            raise files.BadFile(f"{where} declares the shape {tree.shown(shape)}; get it again")
        declared = math.prod(shape) * max(1, dtype.itemsize)
        if declared > size or max(shape, default=0) > size:  # a side of 0 makes the product 0
            declared = max(declared, *shape)
            raise files.BadFile(
                f"{where} declares {declared:,} bytes of numbers, but holds {size:,} in all; it "
                "is cut off or damaged, get it again"
            )
    return Header(shape, dtype)


def _load_npy(path: Path) -> np.ndarray:
    """Map an .npy file instead of reading it, because CIFAR-10-C has 15 files of 150 MB."""
    with files.parsing(path, "npy file of numbers"):
        with files.open_regular(path) as file:
            _header(file, f"{path}", path.stat().st_size)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _check_images(shape: tuple[int, ...], dtype: np.dtype, where: str) -> int:
    """Return the number N of images uint8 (N,H,W,3) or (N,H,W).

    Raises BadFile for an array of any other shape or type.
    """
    has_channels = len(shape) == 4 and shape[-1] == 3
    if dtype != np.uint8 or 0 in shape[1:] or not (len(shape) == 3 or has_channels):
        raise files.BadFile(
            f"{where} is {dtype} {shape}, but images are uint8 (N,H,W,3) or (N,H,W)"
        )
    return shape[0]


# ----------------------------------------------------------------------------------- CIFAR-10-C


def official_arrays(
    path: Path, classes: Sequence[str] | None, severity: int | None
) -> Arrays | None:
    """Open CIFAR-10-C or CIFAR-100-C; return None for any other folder.

    Such a folder holds labels.npy, and files <corruption>.npy with equally many rows for each
    severity 1..5.
    """
    corruptions = [path / f"{name}.npy" for name in CIFAR_C if (path / f"{name}.npy").is_file()]
    if not corruptions:
        return None
    if not (path / "labels.npy").is_file():
        raise ValueError(
            f"{path} holds {corruptions[0].name}, but labels.npy is missing; download it too"
        )
    return _corruptions(path, corruptions, path / "labels.npy", classes, severity)


def npy(path: Path, classes: Sequence[str] | None, severity: int | None) -> Arrays:
    """Open one file of images, or of one corruption where labels.npy lies beside it."""
    labels = path.with_name("labels.npy")
    if path.stem in CIFAR_C and labels.is_file():
        return _corruptions(path, [path], labels, classes, severity)
    source = Arrays(path, classes, severity)
    pixels = _load_npy(path)
    count = _check_images(pixels.shape, pixels.dtype, f"{path}")
    source.add(".", Rows(lambda: _load_npy(path)), count)
    return source


def _corruptions(
    path: Path,
    corruptions: list[Path],
    labels_file: Path,
    classes: Sequence[str] | None,
    severity: int | None,
) -> Arrays:
    labels = as_labels(_load_npy(labels_file), f"{labels_file}")
    source = Arrays(path, classes or _classes_of(labels, f"{labels_file}"), severity)
    for file in corruptions:
        pixels = _load_npy(file)
        rows = _check_images(pixels.shape, pixels.dtype, f"{file}")
        for folder, first, each in _severity_parts(f"{file}", rows, labels, severity):
            part = slice(first, first + len(each))
            images = Rows(lambda file=file, part=part: _load_npy(file)[part])
            source.add(f"{file.stem}/{folder}", images, len(each), each)
    return source


def _severity_parts(
    where: str, rows: int, labels: np.ndarray, severity: int | None
) -> list[tuple[int, int, np.ndarray]]:
    """Return severity, first row and labels of each part of a file of a corruption.

    rows: the number of images in the file. A file holds five severities where the five blocks of
    its labels are equal, or where there is one label for each row of a severity. Any other file
    holds one severity, which is ``severity``. Raises BadFile where that is None, and where the
    numbers of images and labels do not fit.
    """
    each = rows // SEVERITIES
    blocks = labels.reshape(SEVERITIES, -1) if len(labels) % SEVERITIES == 0 else None
    repeated = blocks is not None and (blocks == blocks[0]).all()
    if rows % SEVERITIES == 0 and (len(labels) == each or (len(labels) == rows and repeated)):
        return [(number + 1, number * each, labels[:each]) for number in range(SEVERITIES)]
    if len(labels) == rows:
        of_one = labels
    elif repeated and len(blocks[0]) == rows:
        of_one = blocks[0]
    else:
        raise files.BadFile(
            f"{where} has {rows} images and labels.npy {len(labels)} labels; expected "
            f"{SEVERITIES} severities of equally many"
        )
    if severity is None:
        why = "whose five blocks differ" if len(labels) == rows else "for as many of each severity"
        counts = f"{rows} images and labels.npy {len(labels)} labels, {why}"
        raise files.BadFile(
            f"{where} has {counts}: the file seems to hold one severity. Tell which, `severity` 5 "
            "for example; where nothing takes a severity, write it as a tree first "
            "(make_data.py prepare)"
        )
    return [(severity, 0, of_one)]


# ------------------------------------------------------------------------------------------ npz


class _Archive:
    """The arrays of an npz file.

    The size that each declares is compared with the file before the array is read. Members that
    are no arrays are left out.
    """

    MOST_DEFLATED = 1032  # the most bytes that zlib can store in one byte
    # arrays beyond this size are not taken where they are packed to less than a hundredth, as are
    # files that are made to fill the memory
    MOST_UNPACKED = 1 << 30

    def __init__(self, path: Path):
        self.path = path
        with self._opened(f"{path}", "npz file of arrays") as data:
            members = {info.filename: info for info in data.zip.infolist()}
            packed = sum(info.compress_size for info in members.values())
            if packed > path.stat().st_size:
                raise files.BadFile(
                    f"{path} declares arrays of {packed:,} packed bytes, more than the file has; "
                    "it is damaged, get it again"
                )
            arrays = [name for name in data.files if f"{name}.npy" in members]
            self.headers = {name: self._declared(data, name) for name in arrays}

    @contextlib.contextmanager
    def _opened(self, where: str, expected: str) -> Iterator[Any]:
        with (
            files.parsing(where, expected),
            files.open_regular(self.path) as file,
            np.load(file, allow_pickle=False) as data,
        ):
            yield data

    def _declared(self, data: Any, name: str) -> Header:
        tree.check_name(name, self.path)
        info = data.zip.getinfo(f"{name}.npy")
        where, whole = f"{self.path}: {tree.shown(name)}", self.path.stat().st_size
        most = self.MOST_DEFLATED * (info.compress_size + 1)
        if info.compress_size > whole or info.file_size > most:
            raise files.BadFile(
                f"{where} declares {info.file_size:,} bytes in a file of {whole:,}; it is "
                "damaged, get it again"
            )
        if info.file_size > max(self.MOST_UNPACKED, 100 * info.compress_size):
            raise files.BadFile(
                f"{where} has {info.file_size:,} bytes, packed to {info.compress_size:,}, as files "
                "do that are made to fill the memory; if it is a real array, save it as .npy"
            )
        with data.zip.open(info) as file:
            return _header(file, where, info.file_size)

    def read(self, name: str) -> np.ndarray:
        """Return an array by its name."""
        with self._opened(f"{self.path}: {tree.shown(name)}", "array of numbers") as data:
            return data[name]


def npz(path: Path, classes: Sequence[str] | None, severity: int | None) -> Arrays:
    """Open an npz file, whose arrays are known by their names.

    Those of SPLITS go with their labels, <corruption> (S,N,H,W,3) with labels, and jpeg with
    offsets.
    """
    archive = _Archive(path)
    large = {
        name: header
        for name, header in archive.headers.items()
        if len(header.shape) >= (3 if name in SPLITS else 4)
    }
    of_splits = [labels for labels, _ in SPLITS.values()]
    known = ("labels", *of_splits, "y", "classes", "jpeg", "offsets")
    small = {name: archive.read(name) for name in known if name in archive.headers.keys() - large}
    named = next((name for name in known[:-3] if name in small), None)
    labels = None if named is None else as_labels(small[named], f"{path}: {named}")
    if classes is None and labels is not None:
        _check_known(large, small, path)
        classes = _named_classes(small, labels, path)
    source = Arrays(path, classes, severity)
    whole = lru_cache(maxsize=1)(archive.read)  # one array may hold several severities

    def rows(name: str, index: int | None = None) -> Rows:
        return Rows(lambda: whole(name) if index is None else whole(name)[index])

    if {"jpeg", "offsets"} <= small.keys():
        jpegs = _jpegs(small["jpeg"], small["offsets"], path)
        source.add("clean/cifar_train", jpegs, len(small["offsets"]) - 1, labels)
    for name, (shape, dtype) in large.items():
        count = _check_images(
            shape[1:] if len(shape) == 5 else shape, dtype, f"{path}: {tree.shown(name)}"
        )
        if len(shape) == 5:
            for number in range(shape[0]):
                source.add(f"{name}/{number + 1}", rows(name, number), count, labels)
        elif name in SPLITS:
            of_split, folder = SPLITS[name]
            source.add(folder, rows(name), count, small.get(of_split))
        else:
            folder = _folder(name, severity, is_alone=len(large) == 1)
            own = labels if labels is not None and len(labels) == count else None
            source.add(folder, rows(name), count, own)
    if not source.names:
        raise files.BadFile(
            f"{path} holds no images: {_listing(archive.headers)}; images are uint8 (N,H,W,3), or "
            f"(N,H,W) under one of the names {', '.join(SPLITS)}"
        )
    return source


def _folder(name: str, severity: int | None, *, is_alone: bool) -> str:
    """Return the folder of an array of images by its name.

    Corruptions, sequences and what is clean have a severity, and nothing else has: a folder 0 could
    be taken for a class.
    """
    number = severity if severity is not None and name in CIFAR_C else 0
    if is_alone and not number:
        return "."
    has_severity = name in (*CIFAR_C, "clean") or "_seq" in name
    return f"{name}/{number}" if has_severity else name


def _listing(headers: dict[str, Header]) -> str:
    """Return the names, types and shapes of some arrays, for a message."""
    most = 8
    lines = [f"{tree.shown(name)} {dtype} {shape}" for name, (shape, dtype) in headers.items()]
    rest = f", … ({len(lines)} in all)" if len(lines) > most else ""
    return f"it holds {', '.join(lines[:most])}{rest}" if lines else "it holds no arrays"


def _check_known(large: dict[str, Header], small: dict[str, np.ndarray], path: Path) -> None:
    """Raise ValueError where labels up to 9 or 99 need not be those of CIFAR.

    keras and MedMNIST give many data sets under the same names: MNIST has labels up to 9 too.
    """
    for name in (name for name in large if name in SPLITS and "cifar" not in SPLITS[name][1]):
        if "classes" not in small and large[name].shape[1:] != (32, 32, 3):
            raise ValueError(
                f"{path}: {name} has labels but no class names; give `classes`, a file with one "
                "name a line"
            )


def _named_classes(small: dict[str, np.ndarray], labels: np.ndarray, path: Path) -> Sequence[str]:
    if "classes" not in small:
        return _classes_of(labels, f"{path}")
    names = small["classes"]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise files.BadFile(
            f"{path}: classes is {names.dtype} {names.shape}, but class names are text, one for "
            "each index"
        )
    with files.parsing(f"{path}: classes", "list of names"):
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _jpegs(data: np.ndarray, offsets: np.ndarray, path: Path) -> Jpegs:
    """Return JPEG files that lie end to end in one array.

    Raises BadFile where the offsets lead out of the bytes.
    """
    is_bytes = data.dtype == np.uint8 and data.ndim == 1
    if not (is_bytes and offsets.dtype.kind in "iu" and offsets.ndim == 1 and len(offsets)):
        raise files.BadFile(
            f"{path}: jpeg and offsets are {data.dtype} {data.shape} and {offsets.dtype} "
            f"{offsets.shape}, but files end to end are uint8 (bytes,) with offsets (N+1,) of "
            "whole numbers"
        )
    is_inside = int(offsets[0]) >= 0 and int(offsets[-1]) <= len(data)
    if not (is_inside and (offsets[1:] >= offsets[:-1]).all()):
        raise files.BadFile(
            f"{path}: offsets do not rise from 0 to the {len(data):,} bytes of jpeg; get it again"
        )
    return Jpegs(data, offsets.astype(np.int64))
