"""The content of folders in which no images were found, told in words."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from DDA import tree

MOST_FILES = 100_000  # no more are looked at
PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
TABLES = (".parquet", ".arrow", ".tfrecord", ".lmdb", ".mdb", ".h5", ".hdf5")


def holds(place: Path, names: Iterable[str] | None = None) -> str:
    """Return a sentence on what is in a folder, and on what the user can do.

    It begins with "it" and has no full stop. names: those of the images, where ``place`` is a file.
    """
    try:
        content = list(itertools.islice(tree.walk(place) if names is None else names, MOST_FILES))
    except OSError:
        return f"{place} is not there, or no folder"
    folders: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    for name in content:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in tree.SUFFIXES:
            folders[os.path.dirname(name) or "."] += 1
        elif not name.endswith("/"):
            suffixes[suffix or "no suffix"] += 1
    adapted = [name for name in content if name.endswith("/")]
    parts = [
        *([f"images in {_counted(folders)}"] if folders else []),
        *([f"files with {_counted(suffixes)}"] if suffixes else []),
        *([f"folders of adapted images, such as {adapted[0]}"] if adapted else []),
    ]
    advice = _advice(folders, suffixes)
    return f"it holds {' and '.join(parts) or 'nothing'}{f'; {advice}' if advice else ''}"


def _counted(counts: Counter[str], most: int = 4) -> str:
    """Return the most common entries with their numbers."""
    shown = ", ".join(f"{tree.shown(name)[1:-1]} ({count:,})" for name, count in _top(counts, most))
    return shown + (", …" if len(counts) > most else "")


def _top(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:most]


def _advice(folders: Counter[str], suffixes: Counter[str]) -> str:
    if folders:
        return "name one of these folders"
    if any(suffix in PACKED for suffix in suffixes):
        return "unpack them"
    if any(suffix in TABLES for suffix in suffixes):
        return "write the images in them as files first"
    if any(suffix in (".npy", ".npz") for suffix in suffixes):
        return "name the file itself"
    return f"images end in {' '.join(tree.SUFFIXES)}"
