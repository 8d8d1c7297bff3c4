"""State files of ours: what they hold is compared with a shape before anybody uses it.

A shape is a type hint: text, numbers, unions, lists, pairs and mappings of these, a TypedDict, or a
dataclass. ``Annotated[float, (0, 1)]`` is a number from 0 to 1. Entries that a TypedDict or a
dataclass does not know pass: other versions write them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

from DDA import files, settings, tree

REMEDY = "remove it or put it right"
Share = Annotated[float, (0, 1)]


def read_json(path: Path, shape: Any, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the entries of a JSON file of ours that has a shape.

    remedy: what the user does about a file of another shape. Raises BadFile that names the file,
    the entry and what was expected.
    """
    return _checked(path, files.read_json(path, remedy), shape, remedy)


def read_yaml(path: Path, shape: Any, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the entries of a YAML file of ours that has a shape, as `read_json` does."""
    return _checked(path, files.read_yaml(path), shape, remedy)


def _checked(path: Path, content: Any, shape: Any, remedy: str) -> Any:
    """Return the content of a file if it has a shape; raise BadFile otherwise."""
    fault = fault_of(content, shape)
    if fault is not None:
        raise files.BadFile(f"{path} is damaged: {fault}; {remedy}")
    return content


def fault_of(value: Any, shape: Any, name: str = "") -> str | None:
    """Return in words the first fault of a value that has not the shape, or None.

    name: that of the value in the file.
    """
    if is_typeddict(shape) or is_dataclass(shape):
        return _fault_of_entries(value, shape, name)
    kind, inner = get_origin(shape) or shape, get_args(shape)
    if kind is Annotated:
        return _fault_of_number(value, *inner, name)
    if (
        kind is tuple
        and inner
        and not (isinstance(value, list | tuple) and len(value) == len(inner))
    ):
        return _wrong(value, f"a list of {len(inner)} values", name)
    if kind in (list, tuple, Sequence):
        items = enumerate(value) if isinstance(value, list | tuple) else None
        return _fault_of_each(value, items, list, inner, name)
    if kind is dict or kind is Mapping:
        items = value.items() if isinstance(value, dict) else None
        return _fault_of_each(value, items, dict, inner, name)
    return None if settings.is_of(value, shape) else _wrong(value, settings.words_of(shape), name)


def _fault_of_number(value: Any, kind: type, span: tuple[float, float], name: str) -> str | None:
    """Return the fault of a number that is none, or lies outside a span, or None."""
    least, most = span
    if settings.is_of(value, kind) and least <= value <= most:
        return None
    return _wrong(value, f"{settings.words_of(kind)} from {least:g} to {most:g}", name)


def _fault_of_each(
    value: Any, items: Any, kind: type, inner: tuple[Any, ...], name: str
) -> str | None:
    """Return the first fault of a list or of a mapping.

    items: its values by their names, or None where it is neither. inner: the shapes of a list's
    values, or of a mapping's names and values.
    """
    if items is None:
        return _wrong(value, settings.words_of(kind), name)
    shape = inner[-1] if inner else Any
    for key, item in items:
        if fault_of(item, shape) is not None:  # a name for each value would cost more than it all
            return fault_of(item, shape, _below(name, key))
    return None


def _fault_of_entries(value: Any, shape: type, name: str) -> str | None:
    """Return the first fault of a group of entries whose names are known."""
    if not isinstance(value, dict):
        return _wrong(value, settings.words_of(dict), name)
    hints, needed = _entries_of(shape)
    if not needed <= value.keys():
        return f"the entry {_below(name, min(needed - value.keys()))} is missing"
    faults = (
        fault_of(value[entry], hint, _below(name, entry))
        for entry, hint in hints.items()
        if entry in value
    )
    return next((fault for fault in faults if fault is not None), None)


@lru_cache(maxsize=100)
def _entries_of(shape: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the shapes of the entries by their names, and the names that may not be missing."""
    hints = get_type_hints(shape, include_extras=True)
    if is_typeddict(shape):
        return hints, frozenset(shape.__required_keys__)
    optional = {
        item.name
        for item in fields(shape)
        if (item.default, item.default_factory) != (MISSING, MISSING)
    }
    return hints, frozenset(hints) - optional


def _below(name: str, entry: object) -> str:
    """Return the name of an entry as a message says it: on one line, and not too long."""
    text = str(entry)
    text = text if text.isprintable() and len(text) <= 80 else tree.shown(text)
    return f"{name}.{text}" if name else text


def _wrong(value: Any, expected: str, name: str) -> str:
    where = f"the entry {name}" if name else "it"
    return f"{where} is {tree.shown(value)}, but it should be {expected}"
