"""The images of a report: clean, degraded and adapted, with the answers of the columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from DDA import images, sources, tree
from DDA.model_adapt import html, originals, results
from DDA.model_adapt.originals import CLEAN, VIEWS
from DDA.model_adapt.paired import named
from DDA.model_adapt.results import Answers
from DDA.model_adapt.settings import Facts
from DDA.sources import Source


class Gallery:
    """The images that were evaluated, opened again.

    columns: those whose answers stand below an image. clean: the place of the clean originals,
    where the degraded tree does not tell it. Raises FileNotFoundError and ValueError for trees that
    are gone.
    """

    def __init__(self, facts: Facts, columns: Sequence[str], clean: Path | None) -> None:
        self._facts, self._columns = facts, columns
        degraded = _open(facts.degraded, facts, upright=facts.orientation == "apply")
        adapted = _open(facts.adapted, facts)
        names: dict[str, dict[str, str]] = {}
        copies: dict[str, str] = {}
        for cell in facts.cells:
            names[cell] = named(degraded, cell, partial=facts.partial)
            copies |= named(adapted, cell, partial=facts.partial)
        own = {key: name for each in names.values() for key, name in each.items()}
        clean_places = originals.find(degraded, names, clean)
        self._places: dict[str, dict[str, tuple[Source, str]]] = {
            CLEAN: clean_places,
            "degraded": {key: (degraded, name) for key, name in own.items()},
            "adapted": {key: (adapted, name) for key, name in copies.items()},
        }

    @property
    def has_originals(self) -> bool:
        """Tell whether any clean original was found."""
        return bool(self._places[CLEAN])

    def views(self, key: str) -> list[str]:
        """Return the views of an image that exist."""
        return [view for view, places in self._places.items() if key in places]

    def read(self, view: str, key: str) -> np.ndarray:
        """Return the pixels of an image in a view, uint8 (H,W,3)."""
        return sources.read_pixels(*self._places[view][key])

    def likeness(self, keys: dict[str, Sequence[str]]) -> originals.Likeness:
        """Return how near both views come to the originals. keys: those of each cell."""
        whole = {CLEAN, *VIEWS}
        comparable = {
            cell: [key for key in each if whole <= set(self.views(key))]
            for cell, each in keys.items()
        }
        return originals.likeness(comparable, self.read)

    def figures(self, answers: Answers, chosen: Sequence[int]) -> str:
        """Show some images in every view, with their class and those that the columns predict."""
        figures = "".join(self._figure(answers, row) for row in chosen)
        return f"<div class=gallery>{figures}</div>"

    def _figure(self, answers: Answers, row: int) -> str:
        key, classes = str(answers.keys[row]), self._facts.classes
        cells = (cell for cell in self._facts.cells if key.startswith(f"{cell}/"))
        where = html.safe(next(cells, ""))  # there is none where the whole tree is one cell
        label = html.safe(classes[answers.labels[row]])
        shown = []
        for name in self._columns:
            predicted = classes[answers.predicted[name][row]]
            title = results.title(name, self._facts)
            shown.append((f"{title}: {predicted}", bool(answers.right(name)[row])))
        views = {view: self.read(view, key) for view in self.views(key)}
        return html.figure(key, views, f"<b>{label}</b> {where}", shown)

    def sheet(self, groups: dict[str, Answers], columns: int = 8) -> np.ndarray:
        """Draw some images of each group in every view, uint8 (H,W,3).

        A frame is green where the classifier that sees the view is right, else red. Where there is
        a clean classifier, its answers decide. An image without a copy is shown degraded.
        """
        rows: dict[str, list[np.ndarray]] = {}
        frames: dict[str, list[str]] = {}
        pairs = (("source", "source_adapted"), ("first", "second"), ("first", "combined"))
        for group, answers in groups.items():
            judges = next(pair for pair in pairs if set(pair) <= set(answers.predicted))
            chosen = tree.spread(range(len(answers.keys)), columns)
            keys = [str(answers.keys[row]) for row in chosen]
            if all(CLEAN in self.views(key) for key in keys):
                rows[f"{group} {CLEAN}"] = [self.read(CLEAN, key) for key in keys]
                frames[f"{group} {CLEAN}"] = ["white"] * len(keys)
            for view, judge in zip(VIEWS, judges, strict=True):
                shown = [view if view in self.views(key) else "degraded" for key in keys]
                rows[f"{group} {view}"] = list(map(self.read, shown, keys))
                verdicts = answers.right(judge)[chosen]
                colours = ["seagreen" if is_right else "crimson" for is_right in verdicts]
                frames[f"{group} {view}"] = colours
        heads = [""] * max(map(len, rows.values()))
        return np.asarray(images.contact_sheet(rows, heads, side=64, frames=frames))


def _open(path: str, facts: Facts, *, upright: bool = False) -> Source:
    if not sources.exists(path):
        raise FileNotFoundError(
            f"{path}, whose images were evaluated, is gone; `images` 0 leaves the galleries out"
        )
    classes = None if Path(path).is_dir() else facts.classes
    return sources.open_source(Path(path), classes, facts.severity, upright=upright)
