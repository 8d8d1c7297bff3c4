"""Two views of the same images, joined by key: nothing is matched by its place in a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from DDA import images
from DDA.datasets import Source
from DistilledClassifier import trees


@dataclass(frozen=True)
class Cell:
    """The images of one corruption and severity. keys: sorted; labels (N,); first, second: names in the sources;
    an image without adapted copy has no second."""

    name: str
    keys: tuple[str, ...]
    labels: np.ndarray
    first: tuple[str, ...]
    second: tuple[str | None, ...]


def named(source: Source, cell: str, partial: bool = False) -> dict[str, str]:
    """Key to name of the images in a cell. partial: the cell may be absent, none of its images being there."""
    try:
        return {images.key_of(name): name for name in source.list(cell)[0]}
    except FileNotFoundError:
        if partial:
            return {}
        raise


def join(
    first: Source,
    second: Source,
    cell: str,
    classes: Sequence[str],
    choose: Callable[[list[str]], list[str]] = lambda keys: keys,
    gated: bool = False,
) -> Cell:
    """Pair the images of a cell in two sources.

    choose: of the sorted keys, those that are wanted. gated: images may have no partner in ``second``. Raises ValueError naming
    keys that have no partner, or no class.
    """
    names = [named(first, cell), named(second, cell, partial=gated)]
    for (there, where), (other, elsewhere) in (
        ((names[0], first), (names[1], second)),
        ((names[1], second), (names[0], first)),
    ):
        alone = sorted(set(there) - set(other))
        if alone and not (gated and where is first):
            shown = ", ".join(alone[:3]) + (", …" if len(alone) > 3 else "")
            raise ValueError(
                f"{len(alone)} of {len(there)} images of {where.path} have no partner in {elsewhere.path}: {shown}; "
                "run the adaptation again, or remove them"
            )
    keys = tuple(choose(sorted(names[0])))
    if not keys:
        raise ValueError(f"{first.path} has no images in {cell}")
    index = {label: i for i, label in enumerate(classes)}
    labels = [trees.parse(names[0][key], classes)[2] for key in keys]
    if None in labels:
        raise ValueError(
            f"{first.where(names[0][keys[labels.index(None)]])} has none of the {len(classes)} classes in its name"
        )
    found = np.array([index[label] for label in labels])
    return Cell(cell, keys, found, tuple(names[0][key] for key in keys), tuple(names[1].get(key) for key in keys))
