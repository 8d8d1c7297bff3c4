"""Images in a zip, in a tar, or in the shards of a webdataset, with the labels that lie beside."""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from DDA import files, tree
from DDA.sources import labels as lists
from DDA.sources.named import Named
from DDA.sources.packed import Member, Packed, is_gzip, tar_members, zip_members

# the files beside an image that may hold its label, with the most bytes of each
BESIDE = {".cls": 1 << 16, ".json": 1 << 20, ".txt": 1 << 16}
ENTRIES = ("label", "cls", "class", "class_name", "target", "category")  # of such a .json
TRIED = 100  # files beside images of which none holds a label, before the others are left alone


def archive(
    path: Path, classes: Sequence[str] | None, labels: Path | None, *, upright: bool
) -> Named | None:
    """Open the images in a zip or a tar; return None for a tar without image files or in gzip.

    labels: a list of labels, where none lies in the archive.
    """
    if path.suffix.lower() == ".zip":
        members = zip_members(path)
    else:
        members = [] if is_gzip(path) else tar_members(path)
        if not any(map(_is_image, members)):
            return None
    return _labelled(path, _inside(members, f"{path.stem}/"), classes, labels, upright=upright)


def shards(
    path: Path,
    folder: Path,
    names: Sequence[str],
    classes: Sequence[str] | None,
    labels: Path | None = None,
    *,
    upright: bool,
) -> Named:
    """Open the images in the tars of a webdataset as one source.

    Those of a shard whose path tells a split, such as train-000.tar, lie in a folder of that name.
    names: of the shards, below ``folder``. path: what the user gave.
    """
    members: dict[str, Member] = {}
    for shard in names:
        split = lists.split_of(shard)
        for member in tar_members(folder / shard):
            name = member.name
            if split is not None and not name.startswith(f"{split}/"):
                name = f"{split}/{name}"
            other = members.setdefault(name, member)
            if other.archive != member.archive and _is_image(member):
                raise files.BadFile(
                    f"{other.where} and {member.where} would be one image; rename one of them, or "
                    "name one shard"
                )
            members[name] = member
    if classes is None:
        classes = tree.read_classes(folder)
    source = _labelled(path, members, classes, labels, upright=upright)
    source.files = [folder / shard for shard in names]
    return source


def _is_image(member: Member) -> bool:
    return member.name.lower().endswith(tree.SUFFIXES)


def _inside(members: Iterable[Member], top: str) -> dict[str, Member]:
    """Return files by their names, without the folder ``top`` where all of them lie in it."""
    named = {member.name: member for member in members}
    if all(name.startswith(top) for name in named):
        return {name.removeprefix(top): member for name, member in named.items()}
    return named


def _labelled(
    path: Path,
    members: Mapping[str, Member],
    classes: Sequence[str] | None,
    labels: Path | None,
    *,
    upright: bool,
) -> Named:
    """Return the images among files in archives, with the labels that the other files tell."""
    names = [name for name in members if name.lower().endswith(tree.SUFFIXES)]
    keys = set(map(tree.key_of, names))
    others = sorted(name for name in members.keys() - set(names) if not _is_beside(name, keys))
    if not names:
        raise files.BadFile(f"{path} holds no images{tree.found_instead(path, others)}")
    tree.unique(path, names)
    if classes is None and tree.CLASSES in members:
        classes = _lines(members[tree.CLASSES])
    contents = {name: members[name].read for name in lists.lists_among(others)}
    placed = lists.by_lists(names, contents, classes, path, labels)
    beside = {} if placed else _beside(members, names, classes)
    if beside:
        placed = lists.with_labels(names, beside, classes, path)
    if placed is None:
        known = classes or lists.class_folders(names)
        placed = lists.Labelled({name: name for name in names}, known, "")
    source = Named(path, placed.classes, upright=upright)
    part = Packed([members[name] for name in placed.names.values()], upright=upright)
    for row, name in enumerate(placed.names):
        source.put(name, part, row)
    source.left_out, source.others = placed.left_out, others
    return source


def _lines(member: Member) -> list[str]:
    with files.parsing(member.where, "list of class names"):
        return [line for line in member.read().decode("utf-8").splitlines() if line.strip()]


# ------------------------------------------------------------------------ labels beside an image


def _beside(
    members: Mapping[str, Member], names: Sequence[str], classes: Sequence[str] | None
) -> dict[str, str]:
    """Return the labels of images in files that have their names and another suffix.

    Texts (.txt) count as labels where all are numbers or names of ``classes``: others are captions.
    """
    for suffix, most in BESIDE.items():
        beside = {
            name: member
            for name in names
            if (member := _partner(members, name, suffix)) and member.size <= most
        }
        labels: dict[str, str] = {}
        for tried, (name, data) in enumerate(_read_all(beside)):
            if label := _label(data, suffix):
                labels[name] = label
            elif tried >= TRIED and not labels:
                break
        is_text = suffix == ".txt" and not set(labels.values()) <= set(classes or ())
        if labels and not (is_text and not all(map(str.isdigit, labels.values()))):
            return labels
    return {}


def _is_beside(name: str, keys: Container[str]) -> bool:
    """Tell whether a file belongs to an image. keys: those of the images."""
    return name.endswith(tuple(BESIDE)) and tree.key_of(name) in keys


def _partner(members: Mapping[str, Member], name: str, suffix: str) -> Member | None:
    """Return the file beside an image; webdataset's keys end at the first dot of a file's name."""
    folder, slash, last = name.rpartition("/")
    partner = members.get(f"{tree.key_of(name)}{suffix}")
    return partner or members.get(f"{folder}{slash}{last.partition('.')[0]}{suffix}")


def _read_all(beside: Mapping[str, Member]) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each image and the bytes of the file beside it, in the order on disk."""
    waiting = sorted(beside.items(), key=lambda item: (str(item[1].archive), item[1].start))
    for archive, group in itertools.groupby(waiting, key=lambda item: item[1].archive):
        with files.open_regular(archive) as file:
            for name, member in group:
                yield name, member.read(file)


def _label(data: bytes, suffix: str) -> str:
    """Return the label that a file beside an image holds, or nothing."""
    text = data.decode("utf-8", "replace").strip()
    if suffix != ".json":
        return text if len(text) <= lists.LABEL_MOST and text.isprintable() else ""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(content, dict):
        return ""
    value = next((content[name] for name in ENTRIES if name in content), None)
    is_label = isinstance(value, int | str) and not isinstance(value, bool)
    return str(value)[: lists.LABEL_MOST] if is_label else ""
