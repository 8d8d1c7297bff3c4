"""CIFAR-10 and CIFAR-100 as they are published.

They are pickles or binary files, in a folder or an archive.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from DDA import files, tree
from DDA.sources.arrays import Arrays, Rows, as_labels

BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
# each form of pickles: the file that names the classes, the entry of the names, the entry of the
# labels in the other files, and these files
PYTHON = (
    ("batches.meta", "label_names", "labels", BATCHES),
    ("meta", "fine_label_names", "fine_labels", ["train", "test"]),
)
# each binary form: the file that names the classes, the other files, and the bytes before an image
BINARY = (("batches.meta.txt", BATCHES, 1), ("fine_label_names.txt", ["train", "test"], 2))
LARGEST = 1 << 28  # bytes; every published file is smaller
MOST = 1 << 29  # bytes; every published archive, unpacked, is smaller

# a function that returns the content of a file of a data set, or None where it is absent
Opener = Callable[[str], "bytes | None"]


def cifar_folder(path: Path, classes: Sequence[str] | None) -> Arrays | None:
    """Open the unpacked files in a folder; return None for any other folder."""

    def content(name: str) -> bytes | None:
        return files.read_regular(path / name, LARGEST) if (path / name).is_file() else None

    return _python(path, content, classes) or _binary(path, content, classes)


def archive(path: Path, classes: Sequence[str] | None) -> Arrays:
    """Open CIFAR's archive as it is downloaded.

    Nothing is unpacked to disk, and only CIFAR's own files are read.
    """
    wanted = {name for meta, *_, parts in PYTHON for name in (meta, *parts)}
    for meta, parts, _ in BINARY:
        wanted |= {meta, *(f"{part}.bin" for part in parts)}
    contents: dict[str, bytes] = {}
    with (
        files.parsing(path, "tar archive"),
        files.open_regular(path) as file,
        _unpacked(file) as unpacked,
        tarfile.open(fileobj=_Bounded(unpacked, path), mode="r:") as members,
    ):
        for member in members:
            name = member.name.rsplit("/", 1)[-1]
            is_plain = member.isfile() and not member.issparse()
            if is_plain and name in wanted and member.size < LARGEST:
                contents[name] = members.extractfile(member).read()
    source = _python(path, contents.get, classes) or _binary(path, contents.get, classes)
    if source is None:
        raise ValueError(
            f"{path} holds neither CIFAR-10 nor CIFAR-100; unpack other archives and name the "
            "folder"
        )
    return source


def _unpacked(file: BinaryIO) -> BinaryIO:
    """Return the bytes of a tar archive, which may be packed by gzip."""
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.open(file) if is_packed else file


class _Bounded:
    """A tar archive of which no more is read than the archives of CIFAR hold.

    A few bytes of gzip can stand for gigabytes, in a member or in its header.
    """

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path = file, path
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        self._check(size, self._file.tell() + size)
        return self._file.read(size)

    def seek(self, place: int) -> int:
        self._check(0, place)
        return self._file.seek(place)

    def _check(self, size: int, end: int) -> None:
        if size > LARGEST or end > MOST:
            raise files.BadFile(
                f"{self._path} holds more than CIFAR-10 or CIFAR-100 does ({MOST:,} bytes); unpack "
                "other archives and name the folder"
            )


def _python(path: Path, content: Opener, classes: Sequence[str] | None) -> Arrays | None:
    """Open cifar-10-batches-py (data_batch_1 … test_batch, batches.meta) or cifar-100-python."""
    for meta, names, labels, parts in PYTHON:
        if content(meta) is None:
            continue
        batches = {
            part: unpickle(data, f"{path}: {part}")
            for part in parts
            if (data := content(part)) is not None
        }
        named = unpickle(content(meta), f"{path}: {meta}").get(names)
        if not isinstance(named, list):
            raise files.BadFile(f"{path}: {meta} has no {names}; download it again")
        known = [_text(name, f"{path}: {meta}") for name in named]
        values = {part: (batch.get("data"), batch.get(labels)) for part, batch in batches.items()}
        return _cifar(path, classes or known, values, parts)
    return None


def _binary(path: Path, content: Opener, classes: Sequence[str] | None) -> Arrays | None:
    """Open cifar-10-batches-bin (records of 1 + 3072 bytes) or cifar-100-binary (2 + 3072 bytes).

    The two bytes are the coarse and the fine label; the fine one is read.
    """
    for meta, parts, head in BINARY:
        if content(meta) is None:
            continue
        batches = {}
        for part in parts:
            data = content(f"{part}.bin")
            if data is None:
                continue
            if not data or len(data) % (head + 3072):
                raise files.BadFile(
                    f"{path}: {part}.bin has {len(data)} bytes, no multiple of {head + 3072}; "
                    "download it again"
                )
            records = np.frombuffer(data, np.uint8).reshape(-1, head + 3072)
            batches[part] = (records[:, head:], records[:, head - 1])
        known = _text(content(meta), f"{path}: {meta}").split()
        return _cifar(path, classes or known, batches, parts)
    return None


def _cifar(path: Path, classes: Sequence[str], batches: dict, parts: Sequence[str]) -> Arrays:
    """Return the layout of the published commands: clean/cifar_train and clean/cifar_test.

    The rows of a split are counted over all its batches.
    """
    missing = [part for part in parts if part not in batches]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; download it again")
    source = Arrays(path, classes)
    for split in ("train", "test"):
        chosen = [batches[part] for part in batches if ("test" in part) == (split == "test")]
        for data, _ in chosen:
            is_bytes = isinstance(data, np.ndarray) and data.dtype == np.uint8
            if not is_bytes or data.ndim != 2 or data.shape[1] != 3072:
                raise files.BadFile(
                    f"{path} holds no CIFAR images of 3 x 32 x 32 bytes; download it again"
                )
        planes = np.concatenate([data for data, _ in chosen]).reshape(-1, 3, 32, 32)
        pixels = planes.transpose(0, 2, 3, 1)
        labels = np.concatenate([as_labels(values, f"{path}") for _, values in chosen])
        source.add(f"clean/cifar_{split}", Rows(lambda pixels=pixels: pixels), len(pixels), labels)
    return source


# -------------------------------------------------------------------------------------- pickles


def unpickle(data: bytes, where: str) -> dict[str, Any]:
    """Return a pickled dictionary of plain values and arrays of whole numbers, with keys as text.

    Raises BadFile for anything else.
    """
    with files.parsing(where, "CIFAR file"):
        try:
            value = _PlainValues(data).load()
        except _Refused as refused:
            raise files.BadFile(f"{where} is no CIFAR file: {refused}") from None
        if not isinstance(value, dict):
            raise files.BadFile(f"{where} holds no dictionary, as CIFAR files do")
        return {
            _text(key, where): item.array if isinstance(item, _Array) else item
            for key, item in value.items()
        }


def _text(value: Any, where: str) -> str:
    with files.parsing(where, "CIFAR file with names as text"):
        return value.decode() if isinstance(value, bytes) else str(value)


class _Refused(ValueError):
    """A pickle asks for something that CIFAR's files do not hold; the message says for what."""


class _PlainValues(pickle._Unpickler):
    """Read plain values, and arrays into stand-ins of our own.

    No code of numpy sees the content of the file before it is checked.

    It is the unpickler in Python, because the one in C takes the numbers of its memo on trust and
    can be made to fill the memory.
    """

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="bytes")
        stand_ins = {
            "dtype": _Dtype,
            "ndarray": _NdarrayName,
            "_reconstruct": _reconstruct,
            "_frombuffer": _frombuffer,
            "scalar": _scalar,
        }
        modules = (
            "numpy",
            "numpy.core.multiarray",
            "numpy._core.multiarray",
            "numpy.core.numeric",
            "numpy._core.numeric",
        )
        self._stand_ins = {
            (module, name): value for module in modules for name, value in stand_ins.items()
        }
        self._stand_ins["_codecs", "encode"] = _encode

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._stand_ins:
            raise _Refused(f"it asks for {tree.shown(f'{module}.{name}')[1:-1]}, which is refused")
        return self._stand_ins[module, name]

    def _build(self) -> None:
        """Give a stand-in its state.

        The state of anything else would be written into classes and functions, so it is refused.
        """
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Dtype | _Array):
            raise _Refused(
                f"it gives a state to a {type(self.stack[-1]).__name__}, which is refused"
            )
        self.stack[-1].__setstate__(state)

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: _build}  # noqa: RUF012


class _NdarrayName:
    """A stand-in for the class numpy.ndarray, which a pickle names and never needs."""


class _Dtype:
    """A stand-in for numpy.dtype. It takes whole numbers of 1 to 8 bytes, and no objects."""

    def __init__(self, name: str | bytes, *_: object):
        text = name.decode() if isinstance(name, bytes) else name
        if not re.fullmatch(r"[<>|=]?[iu][1248]", text):
            raise _Refused(
                f"an array in it holds {tree.shown(text)}, which is no type of whole numbers"
            )
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple) -> None:
        _, order, *inner = state[:5]
        if inner != [None, None, None]:
            raise _Refused("an array in it holds parts, which is no type of whole numbers")
        if order in ("<", b"<", ">", b">"):
            text = order if isinstance(order, str) else order.decode()
            self.dtype = self.dtype.newbyteorder(text)


class _Array:
    """A stand-in for a numpy array, made of bytes, a checked type and a checked shape."""

    array: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, in_columns, data = state
        self.fill(data, dtype, shape, "F" if in_columns else "C")

    def fill(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
        sides_fit = type(shape) is tuple and all(type(side) is int and side >= 0 for side in shape)
        if not (type(data) in (bytes, bytearray) and isinstance(dtype, _Dtype) and sides_fit):
            raise TypeError("an array's bytes, type or shape are none")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise ValueError("an array's shape is not that of its bytes")
        numbers = np.frombuffer(data, dtype.dtype)
        self.array = numbers.reshape(shape, order="F" if order == "F" else "C")
        return self


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    return _Array().fill(data, dtype, shape, order)


def _scalar(dtype: _Dtype, data: bytes) -> int:
    return int(_Array().fill(data, dtype, (), "C").array)


def _encode(text: str, _: object) -> bytes:
    """Return bytes as Python 3 writes them for Python 2."""
    if type(text) is not str:
        raise TypeError("no text")
    return text.encode("latin1")
