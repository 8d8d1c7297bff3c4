"""The cells of a source: the sub-folders that are adapted and evaluated as one, by its layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from DDA.sources import Source

LAYOUTS = ("imagenet", "imagenetc", "cifar10", "cifar10c", "digits", "folder")
ORIENTATIONS = ("apply", "ignore")  # whether photographs are turned as their EXIF data say
SPLITS = {
    "imagenet": ("train", "val"),
    "cifar10": ("cifar_train", "cifar_test"),
    "digits": ("train", "test"),
}


def orientation_of(layout: str, *, published: bool = False) -> str:
    """Return how the images of a layout are turned by default.

    One's own photographs are shown as they were taken. The published layouts and the published
    behaviour ignore EXIF data, as the reference code does.
    """
    return "apply" if layout == "folder" and not published else "ignore"


def fit_of(layout: str, *, published: bool = False) -> str:
    """Return how the images of a layout are fitted to a prior by default (`DDA.fitting.Fit`).

    One's own photographs are kept whole. The published layouts and the published behaviour keep the
    middle square, as the reference code does.
    """
    return "whole" if layout == "folder" and not published else "square"


def one_severity(severities: Sequence[str]) -> int | None:
    """Return the severity that is given, if it is a single number; else None.

    It is the severity of the images in a file that holds only one.
    """
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
    """Return the cells of a tree as sorted POSIX paths relative to its root.

    ``.`` is the whole tree.

    corruptions: names, or ``all``. severities: numbers as text, ``all``, or none for the default
    (5, and 0 for sequences). train: whether the split is the training split, for layouts that have
    splits. leave_out: a folder that holds no cell. Raises FileNotFoundError for a cell that does
    not exist; the message lists those that do.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` {layout} is unknown; use one of {', '.join(LAYOUTS)}")
    if layout == "folder" and not corruptions:
        return ["."]
    root, folders = source.path, source.folders(".")
    trees = [name for name in folders if not source.is_adapted(name, leave_out)]
    if not corruptions:
        raise ValueError(f"`corruption` is missing; {_listing(trees)} in {root} (or: all)")
    missing = sorted(set(corruptions) - set(folders) - {"all"})
    if missing:
        raise FileNotFoundError(f"`corruption` {missing[0]} is not in {root}; {_listing(trees)}")
    chosen = trees if "all" in corruptions else sorted(set(corruptions))
    if not chosen:
        raise FileNotFoundError(
            f"{root} holds no folders, but `layout` {layout} wants one for each corruption"
        )
    if layout == "folder":
        return chosen
    if layout in SPLITS:
        split = SPLITS[layout][0 if train else 1]
        why = f"`train` {train} wants the split {{}}"
        return [cell for name in chosen for cell in _existing(source, name, [split], why)]
    if "clean" not in corruptions:  # clean images are no corruption and have no severities
        chosen = [name for name in chosen if name != "clean"]
    return sorted(cell for name in chosen for cell in _severity_cells(source, name, severities))


def _severity_cells(source: Source, name: str, severities: Sequence[str]) -> list[str]:
    if "all" in severities:
        folders = source.folders(name)
        if not folders:
            raise FileNotFoundError(
                f"`severity` all: {source.path / name} holds no severity folders"
            )
        return [f"{name}/{severity}" for severity in folders]
    if name == "clean":  # clean images have no severities
        return [f"{name}/{folder}" for folder in source.folders(name)]
    wanted = severities or ["0" if "_seq" in name else "5"]
    return _existing(source, name, sorted(set(wanted)), "`severity` {} is wanted")


def _existing(source: Source, parent: str, names: Sequence[str], why: str) -> list[str]:
    """Return the cells of these names in a folder. Raises FileNotFoundError for a missing one."""
    folders = source.folders(parent)
    for name in names:
        if name not in folders:
            raise FileNotFoundError(
                f"{why.format(name)}, but {source.path / parent / name} does not exist; "
                f"{_listing(folders)} in {source.path / parent}"
            )
    return [f"{parent}/{name}" for name in names]


def _listing(names: Sequence[str]) -> str:
    return f"found: {', '.join(names)}" if names else "nothing found"
