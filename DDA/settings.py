"""Settings that people write, in YAML or as arguments, compared with what takes them."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from DDA import tree
from DDA.progress import printable

WORDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "a group of entries",
    tuple: "a list",
    list: "a list",
    Path: "a pathlib.Path",
    frozenset: "a frozenset",
    NoneType: "nothing",
}
# the words for a hint that a whole number does not fit, because it is too large
LIMITED = {**WORDS, int: "a whole number below 2**63", float: "a number below 1.8e308"}


def check_names(names: Iterable[object], known: Iterable[str], prefix: str = "") -> None:
    """Raise ValueError for an unknown name, with the one that was meant or all that exist."""
    known = list(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise ValueError(f"{_quoted(prefix, name)} is unknown; {advice}")


def check_one_of(name: str, value: Any, known: Iterable[object]) -> None:
    """Raise ValueError for a value that is none of those known."""
    known = list(known)
    if value not in known:
        choices = ", ".join(str(one) for one in known if one is not None)
        raise ValueError(f"`{name}`: {value!r} is unknown; use one of {choices}")


def check_at_least(least: float, **values: float | None) -> None:
    """Raise ValueError for the first of these settings that is given (not None) and too small."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(plain(value), int | float):
            raise ValueError(f"`{name}` must be a number, not {tree.shown(value)}")
        if not value >= least:
            raise ValueError(f"`{name}` {value} must be at least {least}")


def check_writable(name: str, folder: Path) -> None:
    """Raise ValueError, which names the setting, where a folder cannot be made or written to."""
    existing = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(f"`{name}` {folder} cannot be a folder: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"`{name}` {folder} cannot be written: no permission for {existing}")


def check_kinds(entries: Mapping[str, Any], hints: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ValueError for an entry whose value does not fit the type hint of its name.

    Names without a hint pass.
    """
    for name, value in entries.items():
        if name in hints and not is_of(value, hints[name]):
            is_too_large = isinstance(value, int) and not isinstance(value, bool)
            expected = words_of(hints[name], LIMITED if is_too_large else WORDS)
            shown = tree.shown(plain(value))
            raise ValueError(f"{_quoted(prefix, name)} must be {expected}, not {shown}")


def _quoted(prefix: str, name: object) -> str:
    """Return the name of an entry in backquotes; a prefix such as "data." belongs to the name."""
    where, colon, group = prefix.rpartition(": ")
    return f"{where}{colon}`{printable(f'{group}{name}')}`"


def plain(value: Any) -> Any:
    """Return one number of numpy or torch as one of Python, and any other value as it is.

    >>> import numpy
    >>> plain(numpy.int64(4)), plain("four")
    (4, 'four')
    """
    is_one = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_one else value


def is_of(value: Any, hint: Any) -> bool:
    """Tell whether a value fits a type hint.

    Hints are unions, text, numbers that are finite, and lists and mappings of anything. Numbers of
    numpy are numbers.
    """
    value = plain(value)
    if get_origin(hint) in (Union, UnionType):
        return any(is_of(value, one) for one in get_args(hint))
    kind = get_origin(hint) or hint
    if kind is float:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max
        )
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return kind is Any or isinstance(value, (list, tuple) if kind in (list, tuple) else kind)


def words_of(hint: Any, words: Mapping[type, str] = WORDS) -> str:
    """Return a type hint as a message says it, such as ``a number or nothing``."""
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return " or ".join(words[get_origin(one) or one] for one in hints)


def names_of(values: Any) -> tuple[str, ...]:
    """Return the names or numbers that were given, one or several, as texts.

    >>> names_of("fog,snow"), names_of([3, 5])
    (('fog', 'snow'), ('3', '5'))
    """
    if values is None:
        return ()
    several = [values] if isinstance(values, str | int) else list(values)
    parts = ",".join(map(str, several)).split(",")
    return tuple(part.strip() for part in parts if part.strip())


def as_list(value: Any) -> list[Any]:
    """Return the values of an entry that holds one value or several."""
    return list(value) if isinstance(value, list | tuple) else [value]


def as_path(setting: str, value: object) -> Path:
    """Return a path that was given as text or as a path. Raises ValueError for anything else."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"`{setting}` must be a path, not {tree.shown(value)}")
    return Path(os.path.expanduser(value))
