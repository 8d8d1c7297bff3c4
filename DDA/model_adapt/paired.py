"""Two views of the same images, joined by key: nothing is matched by its place in a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from DDA import ledger, tree
from DDA.sources import Source, found_instead
from DDA.sources.cells import ORIENTATIONS


@dataclass(frozen=True)
class Cell:
    """The images of one corruption and severity.

    keys: sorted. labels: (N,). first, second: the images' names in the two sources; an image
    without an adapted copy has no second name.
    """

    name: str
    keys: tuple[str, ...]
    labels: np.ndarray
    first: tuple[str, ...]
    second: tuple[str | None, ...]


def named(source: Source, cell: str, partial: bool = False) -> dict[str, str]:
    """Return the name of each image in a cell, by its key.

    partial: the cell may be absent, because none of its images needed a copy. Raises ValueError for
    any other absent cell.
    """
    try:
        return {tree.key_of(name): name for name in source.list(cell)[0]}
    except FileNotFoundError:
        if partial:
            return {}
        raise ValueError(
            f"{source.path} has no {cell}: adapt it, or name the cells that are there "
            "(`corruption`, `severity`)"
        ) from None


def join(
    first: Source,
    second: Source,
    cell: str,
    classes: Sequence[str],
    choose: Callable[[list[str]], list[str]],
    gated: bool,
) -> Cell:
    """Pair the images of a cell in two sources.

    choose: returns the wanted keys from the sorted keys of the first source. gated: images may have
    no partner in ``second``. Raises ValueError, which names keys that have no partner or no class.
    """
    names = [named(first, cell), named(second, cell, partial=gated)]
    keys = tuple(choose(sorted(names[0])))
    if not gated:
        refuse(
            keys,
            names[1],
            f"of {cell} have no copy in {second.path}",
            "adapt them too; where only the images that a gate asks for were adapted, give "
            "`rules` gate alone",
        )
    refuse(
        names[1],
        names[0],
        f"of {cell} in {second.path} have no partner in {first.path}",
        "remove them, or give the images that they were made of",
    )
    if not keys:
        raise ValueError(f"{first.path} has no images in {cell}{found_instead(first, [cell])}")
    own = tuple(names[0][key] for key in keys)
    copies = tuple(names[1].get(key) for key in keys)
    return Cell(cell, keys, tree.labels_of(own, classes, first.where), own, copies)


def agreed_orientation(given: str | None, adapted: Path) -> str:
    """Return how the images of which there are copies are turned, so that both views agree.

    given: the setting, which is for copies that do not tell how they were made (default: ignore).
    Raises ValueError where it contradicts the settings of the copies.
    """
    made = ledger.read_choice(adapted, "orientation", ORIENTATIONS)
    if given is not None and made not in (None, given):
        raise ValueError(
            f"`orientation` {given}, but the copies in {adapted} were made with {made}: leave it "
            "out, or adapt the images again"
        )
    return made or given or "ignore"


def refuse(keys: Iterable[str], others: Iterable[str], what: str, advice: str) -> None:
    """Raise ValueError that counts and names the keys that are not among the others, if any."""
    missing = sorted(set(keys) - set(others))
    if missing:
        shown = ", ".join(tree.shown(key, 300)[1:-1] for key in missing[:3])
        shown += ", …" if len(missing) > 3 else ""
        hint = tree.other_form(missing, others)
        raise ValueError(f"{len(missing)} images {what}: {shown}; {advice}{hint}")
