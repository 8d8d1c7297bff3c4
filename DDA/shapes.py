"""State files of ours: what they hold is compared with a shape before anybody uses it.

A shape is a type hint: text, numbers, unions, lists, pairs and mappings of these, a TypedDict, or a
dataclass. ``Annotated[float, (0, 1)]`` is a number from 0 to 1; ``Annotated[shape, "words"]`` says
in words of its own what is expected. Entries that a TypedDict or a dataclass does not know pass:
other versions write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints, is_typeddict

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
    return _checked(path, files.read_yaml(path, remedy), shape, remedy)


def _checked(path: Path, content: Any, shape: Any, remedy: str) -> Any:
    """Return the content of a file if it has a shape; raise BadFile otherwise."""
    fault = fault_of(content, shape)
    if fault is not None:
        raise files.BadFile(f"{path} is damaged: {fault}; {remedy}")
    return content


class Fault(NamedTuple):
    """A value that has not its shape: its name in the file, and the words for what was expected.

    An entry that is missing has no such words.
    """

    name: str
    value: Any = None
    expected: str | None = None

    def __str__(self) -> str:
        """Return the fault as a message on a file says it."""
        where = f"the entry {self.name}" if self.name else "it"
        if self.expected is None:
            return f"{where} is missing"
        return f"{where} is {tree.shown(self.value)}, but it should be {self.expected}"

    def as_setting(self) -> str:
        """Return the fault as a message on a setting says it."""
        if self.expected is None:
            return f"`{self.name}` is missing"
        return f"`{self.name}` must be {self.expected}, not {tree.shown(self.value)}"


def fault_of(value: Any, shape: Any, name: str = "") -> str | None:
    """Return in words the first fault of a value that has not the shape, or None.

    name: that of the value in the file.
    """
    fault = first_fault(value, shape, name)
    return None if fault is None else str(fault)


def first_fault(value: Any, shape: Any, name: str = "") -> Fault | None:
    """Return the first fault of a value that has not the shape, or None."""
    if is_typeddict(shape) or is_dataclass(shape):
        return _fault_of_entries(value, shape, name)
    kind, inner = get_origin(shape) or shape, get_args(shape)
    if kind is Annotated:
        return _fault_of_annotated(value, *inner, name)
    if kind in (list, tuple, Sequence):
        return _fault_of_list(value, kind, inner, name)
    if kind in (dict, Mapping):
        return _fault_of_group(value, inner, name)
    return None if settings.is_of(value, shape) else Fault(name, value, settings.words_of(shape))


def _fault_of_annotated(value: Any, shape: Any, note: Any, name: str) -> Fault | None:
    """Return the fault of a value that has words of its own, or a span of numbers, or None."""
    if isinstance(note, str):
        return None if first_fault(value, shape) is None else Fault(name, value, note)
    least, most = note
    if settings.is_of(value, shape) and least <= value <= most:
        return None
    return Fault(name, value, f"{settings.words_of(shape)} from {least:g} to {most:g}")


def _fault_of_list(value: Any, kind: Any, inner: tuple[Any, ...], name: str) -> Fault | None:
    """Return the first fault of a list, or of a tuple that has as many values as shapes."""
    if not isinstance(value, list | tuple):
        return Fault(name, value, settings.words_of(list))
    if kind is tuple and inner and len(value) != len(inner):
        return Fault(name, value, f"a list of {len(inner)} values")
    return _fault_of_each(enumerate(value), inner[0] if inner else Any, name)


def _fault_of_group(value: Any, inner: tuple[Any, ...], name: str) -> Fault | None:
    """Return the first fault of a mapping from any names to values of one shape."""
    if not isinstance(value, Mapping):
        return Fault(name, value, settings.words_of(dict))
    return _fault_of_each(value.items(), inner[1] if inner else Any, name)


def _fault_of_each(items: Iterable[tuple[Any, Any]], shape: Any, name: str) -> Fault | None:
    """Return the first fault of values that all have one shape, each with its own name."""
    for key, item in items:
        # to name each value would cost more than all else
        if first_fault(item, shape) is not None:
            return first_fault(item, shape, _below(name, key))
    return None


def _fault_of_entries(value: Any, shape: type, name: str) -> Fault | None:
    """Return the first fault of a group of entries whose names are known."""
    if not isinstance(value, dict):
        return Fault(name, value, settings.words_of(dict))
    hints, needed = _entries_of(shape)
    if not needed <= value.keys():
        return Fault(_below(name, min(needed - value.keys())))
    faults = (
        first_fault(value[entry], hint, _below(name, entry))
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
