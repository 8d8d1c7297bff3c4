"""The cells of a source: the sub-folders that are adapted and evaluated as one, by the layout of the tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from DDA.sources import Source

LAYOUTS = ("imagenet", "imagenetc", "cifar10", "cifar10c", "digits", "folder")
SPLITS = {
    "imagenet": ("train", "val"),
    "cifar10": ("cifar_train", "cifar_test"),
    "digits": ("train", "test"),
}


def one_severity(severities: Sequence[str]) -> int | None:
    """The number that ``--severity N`` names where it is one alone: it tells of which severity a file is that holds one."""
    return int(severities[0]) if len(severities) == 1 and severities[0].isdigit() else None


def cells_of(
    source: Source,
    layout: str,
    corruptions: Sequence[str],
    severities: Sequence[str],
    *,
    train: bool,
    leave_out: Path | None = None,
) -> list[str]:
    """The cells of a tree as POSIX paths relative to its root, in sorted order; ``.`` is the whole tree.

    corruptions: names, or ``all``; severities: numbers as text, or ``all``, or none for the default (5, and 0 for sequences).
    train chooses the split of layouts that have one; ``leave_out`` is a folder that holds no cell. Raises FileNotFoundError for
    what is not there, listing what is.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"--dataset {layout} is unknown; use one of {', '.join(LAYOUTS)}")
    if layout == "folder" and not corruptions:
        return ["."]
    root = source.path
    found = source.folders(".")
    trees = [name for name in found if not source.is_adapted(name, leave_out)]
    if not corruptions:
        raise ValueError(f"--corruption is missing; {_listing(trees)} in {root} (or: all)")
    missing = sorted(set(corruptions) - set(found) - {"all"})
    if missing:
        raise FileNotFoundError(f"--corruption {missing[0]} is not in {root}; {_listing(trees)}")
    chosen = trees if "all" in corruptions else sorted(set(corruptions))
    if not chosen:
        raise FileNotFoundError(
            f"{root} holds no folders, but --dataset {layout} wants one per corruption"
        )
    if layout == "folder":
        return chosen
    if layout in SPLITS:
        split = SPLITS[layout][0 if train else 1]
        return [
            cell
            for name in chosen
            for cell in _existing(source, name, [split], f"--train {train} wants the split {{}}")
        ]
    if "clean" not in corruptions:
        chosen = [
            name for name in chosen if name != "clean"
        ]  # no corruption, and without severities
    return sorted(cell for name in chosen for cell in _severity_cells(source, name, severities))


def _severity_cells(source: Source, name: str, severities: Sequence[str]) -> list[str]:
    if "all" in severities:
        found = source.folders(name)
        if not found:
            raise FileNotFoundError(
                f"--severity all: {source.path / name} holds no severity folders"
            )
        return [f"{name}/{severity}" for severity in found]
    if name == "clean":
        return [f"{name}/{folder}" for folder in source.folders(name)]  # it has no severities
    wanted = severities or ["0" if "_seq" in name else "5"]
    return _existing(source, name, sorted(set(wanted)), "--severity {} is wanted")


def _existing(source: Source, parent: str, names: Sequence[str], why: str) -> list[str]:
    """The cells of these names in a folder. Raises FileNotFoundError where one is missing."""
    found = source.folders(parent)
    for name in names:
        if name not in found:
            raise FileNotFoundError(
                f"{why.format(name)}, but {source.path / parent / name} does not exist; "
                f"{_listing(found)} in {source.path / parent}"
            )
    return [f"{parent}/{name}" for name in names]


def _listing(names: Sequence[str]) -> str:
    return f"found: {', '.join(names)}" if names else "nothing found"
