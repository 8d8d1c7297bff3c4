"""Labelled images as a training sees them: views of a data set. Validation images never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from DDA import files, sources, tree
from DDA.sources import Source
from DistilledClassifier import trees
from DistilledClassifier.experiments.config import Config

CACHE = 4 << 30  # bytes of decoded images that are kept


class Examples:
    """The labelled images of a folder of a source. ``keys`` are relative to the folder; ``labels`` (N,)."""

    def __init__(
        self,
        source: Source,
        folder: str,
        classes: Sequence[str],
        choose: Callable = lambda names: names,
    ):
        try:
            there = source.list(folder)[0]
        except (FileNotFoundError, NotADirectoryError):
            there = []
        names = choose(there)
        if not names:
            part = f"none of the {len(there)} images is chosen" if there else "there are no images"
            raise ValueError(
                f"{part} in {source.path}/{folder}"
                + ("; change data.held_out or data.at_most" if there else "")
            )
        self._source, self.names, self.classes = source, names, tuple(classes)
        self.keys = [tree.key_of(name)[len(folder) + 1 :] for name in names]
        if source.classes and tuple(source.classes) != self.classes:
            raise ValueError(
                f"{source.path} has {len(source.classes)} classes ({', '.join(source.classes[:3])}, …), but the config has "
                f"{len(classes)} ({', '.join(classes[:3])}, …); set data.classes to the list of this data set"
            )
        self.labels = tree.labels_of(names, classes, source.where)
        self._rows: dict[str, int] | None = None
        self._pixels: np.ndarray | list | None = None
        first = self._read(0)
        if len(names) * first.nbytes <= CACHE:
            with ThreadPoolExecutor(8) as pool:
                self._pixels = list(pool.map(self._read, range(len(names))))
            if len({image.shape for image in self._pixels}) == 1:
                self._pixels = np.stack(self._pixels)

    def __len__(self) -> int:
        return len(self.names)

    def row_of(self, key: str) -> int:
        """The row of an image. Raises ValueError where it is not there."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.keys)}
        if key not in self._rows:
            raise ValueError(
                f"{self._source.path} has no clean image of {key}, which a teacher is to see"
            )
        return self._rows[key]

    def read(self, row: int) -> np.ndarray:
        """uint8 (H,W,3)."""
        return self._read(row) if self._pixels is None else self._pixels[row]

    def _read(self, row: int) -> np.ndarray:
        return sources.read_pixels(self._source, self.names[row])


@dataclass(frozen=True)
class View:
    """The images of one degradation: copies that lie on disk, or ``recipe`` to make them of clean ones.

    clean: the undegraded images of copies that lie on disk, where their twins are wanted.
    """

    name: str
    examples: Examples
    split: str
    seed: int
    recipe: trees.Recipe | None = None
    clean: Examples | None = None

    def drawn(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H,W,3), degraded at a level drawn by ``rng``."""
        pixels = self.examples.read(row)
        return pixels if self.recipe is None else self.recipe.apply(pixels, rng)

    def twin(self, row: int) -> np.ndarray:
        """uint8 (H,W,3), not degraded. Raises ValueError where there is none."""
        if self.clean is None:
            return self.examples.read(row)
        return self.clean.read(self.clean.row_of(self.examples.keys[row]))

    def fixed(self, row: int) -> np.ndarray:
        """uint8 (H,W,3), always the same: the image that ``make_data.py degrade`` writes with this seed."""
        return self.drawn(
            row, trees.generator(self.seed, f"{self.name}/{self.split}/{self.examples.keys[row]}")
        )


def views(config: Config, split: str, *, twins: bool = False) -> list[View]:
    """One view for each known degradation, ``split`` being train or val.

    twins: whether the undegraded images of copies that lie on disk are wanted. Raises ValueError naming what is missing.
    """
    classes = tree.class_list(config.data.classes)
    adapted = config.view == "adapted"
    root = files.find(config.data.adapted if adapted else config.data.root)
    try:
        source = sources.open_source(root, None if root.is_dir() else classes)
    except FileNotFoundError:
        how = (
            "image_sample.py makes it"
            if adapted
            else "make_data.py prepare makes it (dataset/README.md)"
        )
        raise ValueError(
            f"data.{'adapted' if adapted else 'root'}: {root} does not exist; {how}"
        ) from None
    share = config.data.held_out
    folder = config.data.train if share else getattr(config.data, split)

    def choose(names: list[str]) -> list[str]:
        if share:
            wanted = split == "val"
            names = [
                name
                for name in names
                if tree.is_held_out(tree.key_of(name).partition(f"{folder}/")[2], share) == wanted
            ]
        return (
            tree.spread(names, config.data.at_most)
            if split == "train" and config.data.at_most
            else names
        )

    clean: Examples | None = None
    found = []
    for name in config.known:
        on_disk = adapted or (
            config.view == "degraded" and config.made == "trees" and name != "clean"
        )
        try:
            if on_disk:
                examples, recipe = Examples(source, f"{name}/{folder}", classes, choose), None
            else:
                clean = clean or Examples(source, f"clean/{folder}", classes, choose)
                examples, recipe = (
                    clean,
                    None
                    if name == "clean"
                    else trees.Recipe("", "degrade", name, None, "corrected"),
                )
        except ValueError as error:
            raise ValueError(
                f"{error}{_hint(config, name, on_disk) if 'no images' in str(error) else ''}"
            ) from None
        undegraded = (
            _undegraded(config, folder, classes, choose)
            if twins and on_disk and name != "clean"
            else None
        )
        found.append(View(name, examples, folder, config.train.seed, recipe, undegraded))
    return found


def _undegraded(config: Config, folder: str, classes: Sequence[str], choose: Callable) -> Examples:
    root = files.find(config.data.root)
    return Examples(
        sources.open_source(root, None if root.is_dir() else classes),
        f"clean/{folder}",
        classes,
        choose,
    )


def _hint(config: Config, name: str, on_disk: bool) -> str:
    if config.view == "adapted":
        return f"; adapt the copies first: image_sample.py … --corruption {name} --save_dir {config.data.adapted}"
    if on_disk:
        return f"; make them first: make_data.py degrade … --type {name} --save_dir {config.data.root} (or set made: fly)"
    return "; make_data.py prepare writes a data set as this tree"
