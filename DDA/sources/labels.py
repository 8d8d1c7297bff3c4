"""Labels of one's own images: class folders, lists in CSV files, and files beside the images."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from DDA import files, tree

# the folders of splits, and words in the names of files that tell one
TRAIN = ("train", "training")
TEST = ("test", "val", "valid", "validation")
SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join((*TRAIN, *TEST))})(?:[-_.]|$)")
# the lists that are looked for in a folder, and the usual names of their columns
LISTS = ("labels.csv", "metadata.csv")
FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_name", "path", "image_id", "id")
LABEL_COLUMNS = ("label", "class", "class_name", "target", "category")
WANTED = (
    f"first line names columns, one of {', '.join(FILE_COLUMNS)} and one of "
    f"{', '.join(LABEL_COLUMNS)}"
)
MOST_BYTES = 1 << 28  # of a list of labels
LABEL_MOST = 200  # characters of a label


class Labelled(NamedTuple):
    """Images with labels: the old name of each by its new one, and the class names if known.

    left_out: what is left out, in words, or nothing.
    """

    names: dict[str, str]
    classes: Sequence[str] | None
    left_out: str


def splits_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the folders of a tree that hold its training and its test images.

    These are the entries ``train`` and ``test``; each may have several folders, or none. names: of
    a source's images, where ``clean/`` may come first.
    """
    folders = {name.removeprefix("clean/").partition("/")[0] for name in names if "/" in name}
    splits = {"train": (*TRAIN, "cifar_train"), "test": (*TEST, "cifar_test")}
    return {split: [known for known in each if known in folders] for split, each in splits.items()}


def split_of(path: str) -> str | None:
    """Return the split that the path of a data file tells, if any.

    Its first folder or its own name tells it, as in train-00000-of-00002.parquet.
    """
    first = path.partition("/")[0].lower()
    if first in (*TRAIN, *TEST):
        return first
    match = SPLIT.search(path.rpartition("/")[2].lower())
    return None if match is None else match[1]


def class_folders(names: Iterable[str]) -> tuple[str, ...] | None:
    """Return the classes that folders tell: <class>/<image> or <split>/<class>/<image>.

    Returns None where the images lie in another way, or in one folder only.
    """
    folders = {name.rpartition("/")[0] for name in names}
    parts = [folder.split("/") for folder in folders]
    depths = {len(part) for part in parts}
    splits = {part[0] for part in parts}
    if "" in folders or depths not in ({1}, {2}):
        return None
    if (depths == {2}) != splits.issubset((*TRAIN, *TEST)):
        return None
    classes = {part[-1] for part in parts}
    return tuple(sorted(classes)) if len(classes) > 1 else None


# ---------------------------------------------------------------------------------------- lists


def is_list(path: Path) -> bool:
    """Tell whether the first line of a file names the columns of a list of labels."""
    if not path.is_file():
        return False
    with files.open_regular(path) as file:
        first = file.readline(1 << 16)
    return _columns(first.decode("utf-8-sig", "replace")) is not None


def _columns(first: str) -> tuple[str, int, int] | None:
    """Return what separates the columns, and the places of the files and of the labels.

    first: the first line. Returns None where it names no such columns.
    """
    separator = max(",;\t", key=first.count)
    columns = [column.strip().strip('"').lower() for column in first.strip().split(separator)]
    named, labelled = (
        next((columns.index(name) for name in known if name in columns), None)
        for known in (FILE_COLUMNS, LABEL_COLUMNS)
    )
    return None if named is None or labelled is None else (separator, named, labelled)


def read_list(data: bytes, where: str | Path) -> dict[str, str] | None:
    """Return the labels of a CSV file by the names of the images, as it writes them.

    Returns None where its first line names no column of files and no column of labels. Raises
    BadFile for a damaged file, and for an image with two labels.
    """
    with files.parsing(where, "CSV file"):
        text = data.decode("utf-8-sig")
        columns = _columns(text.partition("\n")[0])
        if columns is None:
            return None
        separator, named, labelled = columns
        rows = csv.reader(text.splitlines(), delimiter=separator, strict=True)
        labels: dict[str, str] = {}
        for count, row in enumerate(rows):
            if count == 0:
                continue
            if not any(row):
                continue
            if len(row) <= max(named, labelled):
                raise files.BadFile(
                    f"{where}, line {rows.line_num}, has {len(row)} columns, fewer than its first "
                    "line; put it right"
                )
            name, label = row[named].strip().removeprefix("./"), row[labelled].strip()
            if labels.setdefault(name, label) != label:
                raise files.BadFile(
                    f"{where} gives {tree.shown(name)} the labels {tree.shown(labels[name])} and "
                    f"{tree.shown(label)}; leave one of them out"
                )
    return labels


def joined(
    names: Collection[str], rows: Mapping[str, str], home: str = ""
) -> tuple[dict[str, str], list[str]]:
    """Return the label of each image that a list names, and the rows without an image.

    A row names an image by its path below the folder ``home`` of the list, with or without the
    suffix, or by the last part of that path where no other image has it.
    """
    places: dict[str, str | None] = {}
    inside = [name for name in names if name.startswith(home)]
    for name in inside:  # the last part of a path first, so that whole paths come before
        last = name.rpartition("/")[2]
        for known in (last, tree.key_of(last)):
            places[known] = name if known not in places else None
    for name in inside:
        own = name.removeprefix(home)
        places |= {own: name, tree.key_of(own): name}
    labels: dict[str, str] = {}
    missing = []
    for row, label in rows.items():
        last = row.replace("\\", "/").rpartition("/")[2]
        name = places.get(row) or places.get(last)
        if name is None:
            missing.append(row)
        elif labels.setdefault(name, label) != label:
            raise files.BadFile(
                f"two rows give {tree.shown(name)} the labels {tree.shown(labels[name])} and "
                f"{tree.shown(label)}; leave one of them out"
            )
    return labels, missing


def lists_among(others: Iterable[str]) -> list[str]:
    """Return the lists of labels among files, in the folder itself or those of its splits."""
    homes = ("", *TRAIN, *TEST)
    paths = (name for name in others if name.rpartition("/")[0] in homes)
    return sorted(name for name in paths if name.rpartition("/")[2] in LISTS)


def by_lists(
    names: Collection[str],
    contents: Mapping[str, Callable[[], bytes]],
    classes: Sequence[str] | None,
    path: Path,
    given: Path | None = None,
) -> Labelled | None:
    """Return the images with the labels of the lists beside them; None where there is no list.

    contents: the functions that read the lists, by their names. One whose columns are none of a
    list is a file of another kind. given: a list that takes the place of these.
    """
    if given is not None:
        rows = read_list(files.read_regular(given, MOST_BYTES), f"`labels` {given}")
        if rows is None:
            raise ValueError(
                f"`labels` {given} goes with a flat ImageNet val folder, or it is a list whose "
                f"{WANTED}"
            )
        return _by_rows(names, *joined(names, rows), classes, f"`labels` {given}")
    labels: dict[str, str] = {}
    missing: list[str] = []
    used: list[str] = []
    for name, read in contents.items():
        where = f"{path}: {tree.shown(name)[1:-1]}"
        rows = read_list(read(), where)
        if rows is None:
            continue
        folder, slash, _ = name.rpartition("/")
        inside, without = joined(names, rows, folder + slash)
        labels |= inside
        missing += without
        used.append(name)
    if not used:
        return None
    where = f"{path}: {tree.shown(', '.join(used))[1:-1]}"
    return _by_rows(names, labels, missing, classes, where)


def _by_rows(
    names: Collection[str],
    labels: Mapping[str, str],
    missing: Sequence[str],
    classes: Sequence[str] | None,
    where: str,
) -> Labelled:
    if not labels:
        first = f"; it names {tree.shown(missing[0])}" if missing else ""
        raise files.BadFile(f"{where} names none of the {len(names):,} images{first}")
    return with_labels(names, labels, classes, where, missing)


# --------------------------------------------------------------------------------------- labels


def with_labels(
    names: Collection[str],
    labels: Mapping[str, str],
    classes: Sequence[str] | None,
    where: str | Path,
    missing: Sequence[str] = (),
) -> Labelled:
    """Return the images that have a label, each in the folder of its class.

    labels: a class name or the number of one, as text, by the name of the image. classes: their
    names in order (default: the sorted labels, where they are names). where: what tells the labels.
    missing: what it names and is not there. Raises BadFile for an unknown label, and ValueError
    where labels are numbers and nothing tells the names.
    """
    known = class_names(set(labels.values()), classes, where)
    placed: dict[str, str] = {}
    for name in names:
        if name not in labels:
            continue
        target = in_class(name, known[labels[name]])
        other = placed.setdefault(target, name)
        if other != name:
            raise files.BadFile(
                f"{tree.shown(other)} and {tree.shown(name)} would both be {tree.shown(target)} by "
                f"their labels in {where}; rename one of them"
            )
    order = tuple(classes) if classes is not None else tuple(sorted(set(known.values())))
    without = sorted(set(names) - labels.keys())
    notes = []
    if without:
        notes.append(
            f"{len(without):,} images without a label in {where}, such as "
            f"{tree.shown(without[0])[1:-1]}, are left out"
        )
    if missing:
        notes.append(
            f"{where} names {len(missing):,} images that are not there, such as "
            f"{tree.shown(min(missing))[1:-1]}"
        )
    return Labelled(placed, order, "; ".join(notes))


def class_names(
    labels: Collection[str], classes: Sequence[str] | None, where: str | Path
) -> dict[str, str]:
    """Return the class name of each label, which is a name or a number as text."""
    if classes is not None and set(labels) <= set(classes):
        return {label: label for label in labels}
    if all(re.fullmatch(r"\d{1,9}", label) for label in labels):
        if classes is None:
            raise ValueError(
                f"{where} has numbers as labels, and nothing tells the class names; give "
                "`classes`, or put classes.txt beside them, with one name a line"
            )
        largest = max(map(int, labels))
        if largest >= len(classes):
            raise files.BadFile(
                f"{where} has the label {largest}, but there are {len(classes)} classes, whose "
                f"labels are 0..{len(classes) - 1}"
            )
        return {label: classes[int(label)] for label in labels}
    if classes is not None:
        unknown = min(set(labels) - set(classes))
        raise files.BadFile(
            f"{where} has the label {tree.shown(unknown)}, which is none of the {len(classes)} "
            "classes; give the `classes` of these labels, or take the labels away where none are "
            "wanted"
        )
    return {label: label for label in tree.check_classes(sorted(labels), where)}


def in_class(name: str, label: str) -> str:
    """Return the name of an image in the folder of its class, which may be its own already."""
    folder, _, last = name.rpartition("/")
    if folder.rpartition("/")[2] == label:
        return name
    return f"{folder}/{label}/{last}" if folder else f"{label}/{last}"
