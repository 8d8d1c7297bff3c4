"""Patterns of files, such as photos/*.jpg, photos/**/*.png and shards-{000..012}.tar."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from DDA import tree

MAGIC = re.compile(r"[*?[{]")
BRACES = re.compile(r"\{([^{}]*)\}")
MOST_WORDS = 1_000_000  # the files that one pair of braces may name


def is_pattern(path: str | Path) -> bool:
    """Tell whether a path is a pattern, because it has one of the signs * ? [ {."""
    return MAGIC.search(str(path)) is not None


def matches(pattern: str | Path) -> tuple[Path, list[str]]:
    """Return the folder above the first sign of a pattern, and the sorted matches below it.

    They are files, as relative POSIX paths. ``**`` stands for any folders, {a,b} for one of the
    words and {000..012} for one of the numbers. Folders that the system shows itself in, hidden
    ones and circles of links are not entered. Raises ValueError for braces of too many words.
    """
    parts = Path(pattern).parts
    count = next(place for place, part in enumerate(parts) if is_pattern(part))
    folder = Path(*parts[:count])
    if not folder.is_dir():
        return folder, []
    words = _unfolded("/".join(parts[count:]))
    return folder, sorted({name for word in words for name in _files(folder, word.split("/"))})


def _unfolded(pattern: str) -> list[str]:
    """Return the patterns without braces that a pattern with braces stands for."""
    pieces = BRACES.split(pattern)  # every second one stood in braces
    choices = [[piece] if i % 2 == 0 else _words(piece) for i, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_WORDS:
        raise ValueError(f"the braces of {pattern} stand for more than {MOST_WORDS:,} files")
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _words(braces: str) -> Sequence[str]:
    """Return what stands in braces: numbers as wide as the first one, or words."""
    span = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", braces)
    if span is None:
        return braces.split(",")
    first, last = int(span[1]), int(span[2])
    if last - first >= MOST_WORDS:
        raise ValueError(f"the braces {{{braces}}} stand for more than {MOST_WORDS:,} files")
    return [f"{number:0{len(span[1])}}" for number in range(first, last + 1)]


def _files(folder: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield the files below a folder that a pattern matches, part by part."""
    if "**" in parts:
        patterns = [*parts, "*"] if parts[-1] == "**" else parts
        names = (name for name in tree.walk(folder) if not name.endswith("/"))
        yield from (name for name in names if _fits(name.split("/"), patterns))
        return
    if not is_pattern("/".join(parts)):  # braces name many files: each is looked up, not searched
        path = folder.joinpath(*parts)
        if path.exists() and not path.is_dir():
            yield "/".join(parts)
        return
    places = [""]
    for part in parts[:-1]:
        places = [f"{place}{name}/" for place in places for name in _inside(folder / place, part)]
    for place in places:
        yield from (place + name for name in _inside(folder / place, parts[-1], folders=False))


def _inside(folder: Path, pattern: str, *, folders: bool = True) -> list[str]:
    """Return the names in a folder that match: its folders, or all but these."""
    entries = [entry for entry in tree.entries(folder) or [] if fnmatchcase(entry.name, pattern)]
    return [entry.name for entry in entries if tree.is_folder(entry) == folders]


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Tell whether the parts of a path match those of a pattern, among which ``**`` may be."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[skipped:], patterns[1:]) for skipped in range(len(names)))
    is_first = bool(names) and fnmatchcase(names[0], patterns[0])
    return is_first and _fits(names[1:], patterns[1:])
