"""Check a tree of images: against its manifests, against clean images, or cell against cell."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from DDA import files, images, ledger, tree


class MadeImage(TypedDict):
    """The entry of an image in a manifest of made images."""

    sha256: str


class Manifest(TypedDict):
    """A manifest of made images. folder: that of the tree which it is about."""

    folder: str
    state: str
    settings: dict[str, Any]
    images: dict[str, MadeImage]
    failures: dict[str, str]
    source_sha256: dict[str, str]


def read_manifests(save_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Read the manifests of made images in a tree. Raises ValueError where one is damaged."""
    for path in sorted(save_dir.glob("made*.json")):
        yield path, ledger.read_manifest(path, Manifest)


def verify(save_dir: Path, expected: Iterable[str] = ()) -> tuple[dict[str, int], dict[str, str]]:
    """Check a tree, and return the number of images in each cell and the faults of files by name.

    Where a folder has a manifest, its files must be those of the manifest, byte for byte. Every
    other cell must hold the expected images. Every image must be whole and have a class of
    classes.txt. Raises FileNotFoundError where there is no tree, and ValueError where it is empty.

    expected: names in a cell, <class>/<image> or <class>_<index>. By default these are the names
    that most of the cells have.
    """
    if not save_dir.is_dir():
        raise FileNotFoundError(f"`save_dir` {save_dir} is not a folder")
    classes = tree.read_classes(save_dir) or ()
    names, others, _ = tree.list_images(save_dir)
    if not names:
        instead = tree.found_instead(save_dir, others)
        raise ValueError(f"`save_dir` {save_dir} holds no images{instead}")
    faults = dict.fromkeys((name for name in others if not name.endswith(".npy")), "no image")
    made: dict[str, str] = {}
    finished: list[str] = []
    unfinished: list[str] = []
    for path, manifest in read_manifests(save_dir):
        folder = "" if manifest["folder"] == "." else f"{manifest['folder']}/"
        for name, entry in manifest["images"].items():
            made[name] = entry["sha256"]
        for name, reason in manifest["failures"].items():
            faults[name] = f"failed when it was made: {reason}"
        if manifest["state"] == ledger.RUNNING:
            faults[path.name] = "the run that made this folder did not end; run it again"
            unfinished.append(folder)
        else:
            finished.append(folder)
    covered = _below(names, finished)
    faults |= _compare(covered, _below(made, finished), classes)
    rest = set(names) - covered - _below(names, unfinished)
    faults |= _compare(rest, _wanted(rest, expected, classes), classes)
    for name in names:
        if fault := _fault(save_dir, name, made.get(name), classes):
            faults[name] = fault
    return dict(Counter(tree.parse(name, classes)[0] for name in names)), faults


def _below(names: Iterable[str], folders: Sequence[str]) -> set[str]:
    """Return the names that lie in one of the folders."""
    return {name for name in names if name.startswith(tuple(folders))}


def _fault(save_dir: Path, name: str, digest: str | None, classes: Sequence[str]) -> str | None:
    """Return the fault of one file, or None.

    A file without a fault is a whole image with a class, and is the file that was made.
    """
    try:
        images.read_rgb(save_dir / name)
    except Exception as error:  # PIL and its plugins raise many types for damaged files
        return f"truncated or damaged: {error}"
    if digest is not None and files.sha256(save_dir / name) != digest:
        return "altered: it is not the file that was made"
    if classes and tree.parse(name, classes)[2] is None:
        return f"mislabelled: its name has none of the classes in {tree.CLASSES}"
    return None


def _wanted(present: set[str], expected: Iterable[str], classes: Sequence[str]) -> set[str]:
    """Return the names that cells without a manifest should have.

    In each cell these are the expected names, or those that most cells have.
    """
    cells: dict[str, set[str]] = {}
    for name in present:
        cell = tree.parse(name, classes)[0]
        cells.setdefault(cell, set()).add(name if cell == "." else name[len(cell) + 1 :])
    inside = set(expected) or _majority(cells, classes)
    return {name if cell == "." else f"{cell}/{name}" for cell in cells for name in inside}


def _majority(cells: Mapping[str, set[str]], classes: Sequence[str]) -> set[str]:
    """Return the names of the images in most cells, each with the class that most of them give."""
    own = {name: tree.parse(name, classes)[1] for names in cells.values() for name in names}
    if any(len({own[name] for name in names}) < len(names) for names in cells.values()):
        # classes share image names, so that only whole names tell images apart
        own = {name: name for name in own}
    votes: dict[str, Counter] = {}
    for name in itertools.chain.from_iterable(cells.values()):
        votes.setdefault(own[name], Counter())[name] += 1
    return {vote.most_common(1)[0][0] for vote in votes.values() if 2 * vote.total() > len(cells)}


def _compare(present: set[str], wanted: set[str], classes: Sequence[str]) -> dict[str, str]:
    """Return the names that are missing or extra, with the fault of each.

    One of each with the same cell and own name is one mislabelled image.
    """
    missing: dict[tuple, list[str]] = {}
    for name in sorted(wanted - present):
        missing.setdefault(tree.parse(name, classes)[:2], []).append(name)
    faults = {}
    for name in sorted(present - wanted):
        others = missing.get(tree.parse(name, classes)[:2])
        if others:
            faults[name] = f"mislabelled: it should be {others.pop()}"
        else:
            faults[name] = "extra: nothing like it is expected"
    return faults | {name: "missing" for names in missing.values() for name in names}
