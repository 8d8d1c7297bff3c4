"""Images in tables: parquet, and the folders that Hugging Face's datasets saves (arrow).

A row has an image, as the bytes of its file, and perhaps a label. pyarrow reads both formats.
"""

from __future__ import annotations

import json
import mmap
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from DDA import files, images, tree
from DDA.sources import labels as lists
from DDA.sources.named import MOST_IMAGES, Named

SUFFIXES = (".parquet", ".arrow")
# the columns that hold the label and the image, the usual ones first
LABELS = ("label", "labels", "fine_label", "class", "class_name", "target", "category")
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
# how the files of images begin, for their suffixes
MAGIC = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}
CACHED = 1 << 29  # bytes of row groups of a parquet file that are kept for the next images
# row groups beyond this size are not taken where the file has less than a hundredth of it
MOST_UNPACKED = 1 << 30


class Columns(NamedTuple):
    """The columns of a table: its images and its labels, if any, and the names of the classes."""

    image: str
    label: str | None
    classes: tuple[str, ...] | None


def is_table(name: str) -> bool:
    """Tell whether a file is a table by its name; datasets leaves cache-….arrow beside its own."""
    return name.lower().endswith(SUFFIXES) and not Path(name).name.startswith("cache-")


def open_tables(
    path: Path,
    folder: Path,
    names: Sequence[str],
    classes: Sequence[str] | None,
    *,
    upright: bool,
) -> Named:
    """Open the images in tables as one source: <split>/<class>/<row>, counted within a split.

    names: of the tables, below ``folder``. path: what the user gave.
    """
    opened = [_open(folder / name) for name in names]
    columns = [table.columns() for table in opened]
    own = next((each.classes for each in columns if each.classes is not None), None)
    known = _usable(own, classes or tree.read_classes(folder), path)
    places: dict[str, tuple[Encoded, int]] = {}
    labels: dict[str, str] = {}
    counts: dict[str, int] = {}
    for name, table, each in zip(names, opened, columns, strict=True):
        split = lists.split_of(name)
        prefix, first = "" if split is None else f"{split}/", counts.get(split, 0)
        part = Encoded(table, each.image, upright=upright)
        rows = [f"{prefix}{row:05}{part.suffix}" for row in range(first, first + table.rows)]
        places |= {row: (part, number) for number, row in enumerate(rows)}
        labels |= _labels(table, each.label, rows, known)
        counts[split] = first + table.rows
    placed = lists.Labelled({name: name for name in places}, known, "")
    if labels:
        placed = lists.with_labels(places, labels, known, path)
    source = Named(path, placed.classes, upright=upright)
    for name, row in placed.names.items():
        source.put(name, *places[row])
    if not source.names:
        raise files.BadFile(f"{path} holds no images: its tables have no rows")
    source.left_out, source.files = placed.left_out, [folder / name for name in names]
    return source


def _usable(
    own: Sequence[str] | None, given: Sequence[str] | None, path: Path
) -> Sequence[str] | None:
    """Return the class names that the tables tell, else those that are given.

    Names that cannot be those of folders give way to as many given ones.
    """
    if own is None:
        return given
    try:
        return tree.check_classes(own, path)
    except files.BadFile as error:
        if given is not None and len(given) == len(own):
            return given
        raise files.BadFile(f"{error}; give `classes`, {len(own)} names in its order") from None


def _labels(
    table: _Table, column: str | None, rows: Sequence[str], classes: Sequence[str] | None
) -> dict[str, str]:
    """Return the label of each row that has one, as text. Test images often have the label -1."""
    if column is None:
        return {}
    values = table.values(column)
    if len(values) != len(rows):
        raise files.BadFile(
            f"{table.path} declares {len(rows):,} rows, but has {len(values):,} labels; get it "
            "again"
        )
    labels = {}
    for row, value in zip(rows, values, strict=True):
        if value is None or value == -1:
            continue
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise files.BadFile(
                f"{table.path}: {column} has the label {tree.shown(value)}, which is neither a "
                "number nor a name"
            )
        if isinstance(value, int) and classes is not None:
            if not 0 <= value < len(classes):
                raise files.BadFile(
                    f"{table.path}: {column} has the label {value}, but there are {len(classes)} "
                    "classes"
                )
            value = classes[value]  # noqa: PLW2901 - the name that the number stands for
        labels[row] = str(value)
    return labels


class Encoded:
    """Image files in a column of a table, as a part of a source.

    All have the suffix of the first one. upright: whether images are turned as their EXIF data say.
    """

    def __init__(self, table: _Table, column: str, *, upright: bool):
        self._table, self._column, self._upright = table, column, upright
        first = table.first(column) if table.rows else None
        self.suffix = _suffix(first or b"") or ".png"

    def read(self, row: int) -> Image.Image:
        """Return an image as RGB."""
        return images.read_rgb(Path(self.suffix), upright=self._upright, data=self._data(row))

    def pixels(self, row: int) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        return np.asarray(self.read(row))

    def encoded(self, row: int) -> bytes | None:
        """Return the bytes of an image's file; None where it is turned or has another suffix."""
        data = self._data(row)
        is_turned = self._upright and images.is_turned(Path(self.suffix), data)
        return None if is_turned or _suffix(data) != self.suffix else data

    def _data(self, row: int) -> bytes:
        data = self._table.cell(self._column, row)
        if not isinstance(data, bytes):
            raise files.BadFile(
                "its row has no image but at most a path; save the data set with its images in it"
            )
        return data


def _suffix(data: bytes) -> str | None:
    return next((suffix for magic, suffix in MAGIC.items() if data.startswith(magic)), None)


# ----------------------------------------------------------------------------- files of pyarrow


def _pyarrow(path: Path) -> ModuleType:
    """Return pyarrow. Raises ValueError where it is not installed."""
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{path} needs pyarrow to be read: pip install diffaud[parquet], or pip install pyarrow"
        ) from None
    return pyarrow


def _open(path: Path) -> _Table:
    return (_Parquet if path.suffix.lower() == ".parquet" else _Arrow)(path)


class _Table:
    """A file of rows and columns. Other processes open it for themselves."""

    rows: int
    schema: Any

    def __init__(self, path: Path):
        self.path = path
        self._pyarrow = _pyarrow(path)
        with files.parsing(path, f"{path.suffix[1:]} table"):
            self.open()
        if not 0 <= self.rows <= MOST_IMAGES:
            raise files.BadFile(
                f"{path} declares {self.rows:,} rows, but a source has at most {MOST_IMAGES:,} "
                "images; split it"
            )

    def __reduce__(self) -> tuple:
        return type(self), (self.path,)

    def open(self) -> None:
        """Find out the rows and the schema."""
        raise NotImplementedError

    def values(self, column: str) -> list:
        """Return the values of a column. Raises BadFile."""
        raise NotImplementedError

    def first(self, column: str) -> bytes | None:
        """Return the first image, and read no more than it needs."""
        return self.cell(column, 0)

    def cell(self, column: str, row: int) -> bytes | None:
        """Return the image of a row. Raises BadFile."""
        raise NotImplementedError

    def columns(self) -> Columns:
        """Return the columns that hold images and labels. Raises BadFile where no images are."""
        kinds = self._features()
        names = self.schema.names
        holders = [name for name in names if self._holds_bytes(name)]
        marked = [name for name in holders if kinds.get(name, {}).get("_type") == "Image"]
        image = next((name for name in (*marked, *IMAGES, *holders) if name in holders), None)
        if image is None:
            listing = ", ".join(
                f"{tree.shown(name)} {self.schema.field(name).type}" for name in names
            )
            raise files.BadFile(
                f"{self.path} has no column of image files: it has {tree.shown(listing, 400)[1:-1]}"
            )
        classed = [name for name in names if kinds.get(name, {}).get("_type") == "ClassLabel"]
        label = next(
            (name for name in (*LABELS, *classed) if name in names and name != image), None
        )
        own = kinds.get(label, {}).get("names")
        is_list = isinstance(own, list) and all(isinstance(name, str) for name in own)
        return Columns(image, label, tuple(own) if is_list and own else None)

    def _holds_bytes(self, name: str) -> bool:
        """Tell whether a column holds bytes, or bytes with paths as datasets has them."""
        types, kind = self._pyarrow.types, self.schema.field(name).type
        if types.is_struct(kind):
            place = kind.get_field_index("bytes")
            kind = kind.field(place).type if place >= 0 else kind
        return types.is_binary(kind) or types.is_large_binary(kind)

    def _features(self) -> Mapping[str, Any]:
        """Return what datasets says of the columns, in the table or beside it; perhaps nothing."""
        text = (self.schema.metadata or {}).get(b"huggingface", b"{}")
        content = _object(text).get("info", {})
        beside = self.path.with_name("dataset_info.json")
        if not content and beside.is_file():
            content = _object(files.read_regular(beside, 1 << 26))
        columns = content.get("features") if isinstance(content, dict) else None
        columns = columns if isinstance(columns, dict) else {}
        return {name: kind for name, kind in columns.items() if isinstance(kind, dict)}


def _object(text: bytes) -> dict[str, Any]:
    """Return an object of JSON; an empty one where the text holds something else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _bytes_of(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


class _Arrow(_Table):
    """A file of arrow, whose batches are looked into where they lie on the disk."""

    def open(self) -> None:
        with files.open_regular(self.path) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        buffer = self._pyarrow.py_buffer(mapped)
        if mapped[:6] == b"ARROW1":
            reader = self._pyarrow.ipc.open_file(buffer)
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        else:
            reader = self._pyarrow.ipc.open_stream(buffer)
            self._batches = list(reader)
        for batch in self._batches:
            batch.validate(full=True)
        self.schema = reader.schema
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)
        self.rows = int(self._ends[-1]) if self._batches else 0

    def values(self, column: str) -> list:
        with files.parsing(self.path, "arrow table"):
            return [value for batch in self._batches for value in batch[column].to_pylist()]

    def cell(self, column: str, row: int) -> bytes | None:
        with files.parsing(self.path, "arrow table"):
            place = int(np.searchsorted(self._ends, row, side="right"))
            batch = self._batches[place]
            return _bytes_of(batch[column][row - int(self._ends[place]) + batch.num_rows].as_py())


class _Parquet(_Table):
    """A parquet file, of which whole row groups are read; the last ones are kept."""

    def open(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()
        with files.open_regular(self.path) as file:
            whole = file.seek(0, 2)
            opened = self._pyarrow.parquet.ParquetFile(file)
            self._metadata, self.schema = opened.metadata, opened.schema_arrow
        groups = [self._metadata.row_group(i) for i in range(self._metadata.num_row_groups)]
        for group in groups:
            self._check(group, whole)
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self.rows = int(self._ends[-1]) if groups else 0

    def _check(self, group: Any, whole: int) -> None:
        """Raise BadFile where a row group declares more than the file can hold.

        What pyarrow says of single columns is not asked for: there it aborts the process where the
        statistics of a column are damaged.
        """
        unpacked = group.total_byte_size
        if min(unpacked, group.num_rows) < 0 or unpacked > max(MOST_UNPACKED, 100 * whole):
            raise files.BadFile(
                f"{self.path} declares rows of {unpacked:,} bytes, but has {whole:,} in all; it is "
                "damaged, or made to fill the memory"
            )

    def values(self, column: str) -> list:
        with files.parsing(self.path, "parquet table"), files.open_regular(self.path) as file:
            opened = self._pyarrow.parquet.ParquetFile(file)
            return opened.read(columns=[column], use_threads=False).column(column).to_pylist()

    def first(self, column: str) -> bytes | None:
        with files.parsing(self.path, "parquet table"), files.open_regular(self.path) as file:
            opened = self._pyarrow.parquet.ParquetFile(file)
            batch = next(opened.iter_batches(1, columns=self._leaves(column), use_threads=False))
            return _bytes_of(batch[column][0].as_py())

    def cell(self, column: str, row: int) -> bytes | None:
        place = int(np.searchsorted(self._ends, row, side="right"))
        with self._lock, files.parsing(self.path, "parquet table"):
            group = self._group(place, column)
            first = int(self._ends[place]) - self._metadata.row_group(place).num_rows
            return _bytes_of(group.column(column)[row - first].as_py())

    def _group(self, place: int, column: str) -> Any:
        """Return the images of a row group."""
        if place not in self._kept:
            with files.open_regular(self.path) as file:
                opened = self._pyarrow.parquet.ParquetFile(file)
                leaves = self._leaves(column)
                group = opened.read_row_group(place, columns=leaves, use_threads=False)
            group.validate(full=True)
            self._kept[place] = group
        self._kept.move_to_end(place)
        while len(self._kept) > 1 and sum(group.nbytes for group in self._kept.values()) > CACHED:
            self._kept.popitem(last=False)
        return self._kept[place]

    def _leaves(self, column: str) -> list[str]:
        """Return the name under which pyarrow reads the bytes of a column alone."""
        is_struct = self._pyarrow.types.is_struct(self.schema.field(column).type)
        return [f"{column}.bytes" if is_struct else column]
