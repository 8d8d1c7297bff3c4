"""Views of a data set: labelled images as a training sees them. Validation images never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from DDA import files, sources, tree
from DDA.sources import Source
from DistilledClassifier.experiments.config import Config
from DistilledClassifier.recipes import Recipe, generator

CACHE = 4 << 30  # bytes of decoded images that are kept
CLEAN = "clean"  # the folder of undegraded images in a tree of several degradations

Choose = Callable[[list[str]], list[str]]


class Examples:
    """The labelled images of a folder of a source.

    names: their names in the source. keys: their keys, relative to the folder. labels (N,): whole
    numbers, by the place of their class in ``classes``. choose: picks the images that are used.
    Raises ValueError where there are none, or where the source has other classes.
    """

    def __init__(
        self,
        source: Source,
        folder: str,
        classes: Sequence[str],
        choose: Choose | None = None,
    ):
        names = _names(source, folder, choose)
        self._source, self.names, self.classes = source, names, tuple(classes)
        self.keys = [tree.key_of(name)[len(folder) + 1 :] for name in names]
        check_classes(source, self.classes)
        self.labels = tree.labels_of(names, classes, source.where)
        self._rows: dict[str, int] | None = None
        self._pixels: np.ndarray | list[np.ndarray] | None = None
        if len(names) * self._read(0).nbytes <= CACHE:
            self._pixels = self._read_all()

    def __len__(self) -> int:
        return len(self.names)

    def row_of(self, key: str) -> int:
        """Return the row of an image. Raises ValueError where there is no such image."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.keys)}
        if key not in self._rows:
            raise ValueError(
                f"{self._source.path} has no clean image of {key}, which a teacher is to see"
            )
        return self._rows[key]

    def read(self, row: int) -> np.ndarray:
        """Return an image, uint8 (H,W,3)."""
        return self._read(row) if self._pixels is None else self._pixels[row]

    def _read(self, row: int) -> np.ndarray:
        return sources.read_pixels(self._source, self.names[row])

    def _read_all(self) -> np.ndarray | list[np.ndarray]:
        with ThreadPoolExecutor(8) as pool:
            pixels = list(pool.map(self._read, range(len(self))))
        return np.stack(pixels) if len({image.shape for image in pixels}) == 1 else pixels


def _names(source: Source, folder: str, choose: Choose | None) -> list[str]:
    """Return the names of the images that are used. Raises ValueError where there are none."""
    try:
        names = source.list(folder)[0]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    if not names:
        instead = sources.found_instead(source, [folder])
        raise ValueError(f"there are no images in {source.path}/{folder}{instead}")
    chosen = names if choose is None else choose(names)
    if not chosen:
        raise ValueError(
            f"none of the {len(names)} images is chosen in {source.path}/{folder}; change "
            "`data.held_out` or `data.at_most`"
        )
    return chosen


@dataclass(frozen=True)
class View:
    """The images of one degradation.

    examples: copies that lie on disk, or clean images of which ``recipe`` makes the copies. clean:
    the undegraded images of copies that lie on disk, where their twins are wanted.
    """

    name: str
    examples: Examples
    split: str
    seed: int
    recipe: Recipe | None = None
    clean: Examples | None = None

    def drawn(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """Return an image, uint8 (H,W,3), degraded at a level that ``rng`` draws."""
        pixels = self.examples.read(row)
        return pixels if self.recipe is None else self.recipe.apply(pixels, rng)

    def twin(self, row: int) -> np.ndarray:
        """Return the undegraded image, uint8 (H,W,3). Raises ValueError where there is none."""
        if self.clean is None:
            return self.examples.read(row)
        return self.clean.read(self.clean.row_of(self.examples.keys[row]))

    def fixed(self, row: int) -> np.ndarray:
        """Return an image, uint8 (H,W,3), that is always the same.

        It is the one that ``make_data.py degrade`` writes with this seed.
        """
        key = f"{self.name}/{self.split}/{self.examples.keys[row]}"
        return self.drawn(row, generator(self.seed, key))


def views(config: Config, split: str, *, twins: bool = False) -> list[View]:
    """Return one view for each known degradation.

    split: train or val. twins: whether the undegraded images of copies that lie on disk are wanted.
    Raises ValueError, which names what is missing.
    """
    images = _Images(config, split)
    return [images.view(name, twins=twins) for name in config.known]


def clean_names(config: Config) -> tuple[Source, list[str]]:
    """Return the undegraded images of an experiment and the names of those that are trained on.

    Raises ValueError, which names what is missing.
    """
    images = _Images(replace(config, view=CLEAN), "train")
    try:
        return images.source, _names(images.source, images.folder(CLEAN), images.choose)
    except ValueError as error:
        hint = _hint(images.config, CLEAN, False) if "no images" in str(error) else ""
        raise ValueError(f"{error}{hint}") from None


class _Images:
    """The images of a split of an experiment, opened once for all its views."""

    def __init__(self, config: Config, split: str):
        self.config, self._split = config, split
        self._classes = config.data.class_names
        self._folder = config.data.train if config.data.held_out else getattr(config.data, split)
        self._is_adapted = config.view == "adapted"
        self.source = self._open("adapted" if self._is_adapted else "root")
        self._clean: Examples | None = None

    def view(self, name: str, *, twins: bool) -> View:
        """Return the view of one degradation."""
        config = self.config
        is_clean = name == CLEAN
        is_degraded = config.view == "degraded" and config.made == "trees" and not is_clean
        on_disk = self._is_adapted or is_degraded
        try:
            examples = self._examples(self.source, name) if on_disk else self._clean_examples()
        except ValueError as error:
            hint = _hint(config, name, on_disk) if "no images" in str(error) else ""
            raise ValueError(f"{error}{hint}") from None
        recipe = None
        if not (on_disk or is_clean):
            recipe = Recipe("", "degrade", name, None, "corrected")
        undegraded = None
        if twins and on_disk and not is_clean:
            undegraded = self._examples(self._open("root"), CLEAN)
        return View(name, examples, self._folder, config.train.seed, recipe, undegraded)

    def _clean_examples(self) -> Examples:
        """Return the undegraded images, which the views that are made on the fly share."""
        if self._clean is None:
            self._clean = self._examples(self.source, CLEAN)
        return self._clean

    def _examples(self, source: Source, name: str) -> Examples:
        """Return the images of one folder of a tree."""
        return Examples(source, self.folder(name, source), self._classes, self.choose)

    def folder(self, name: str, source: Source | None = None) -> str:
        """Return the folder of a degradation in a source.

        Clean images may also lie in ``<split>``, without the folder ``clean`` above.
        """
        if name == CLEAN and _is_plain(source or self.source, self._folder):
            return self._folder
        return f"{name}/{self._folder}"

    def choose(self, names: list[str]) -> list[str]:
        """Return the images of the split, spread evenly where only some are wanted."""
        data = self.config.data
        if data.held_out:
            is_val = self._split == "val"
            names = [name for name in names if self._is_held_out(name) == is_val]
        is_part = self._split == "train" and data.at_most
        return tree.spread(names, data.at_most) if is_part else names

    def _is_held_out(self, name: str) -> bool:
        key = tree.key_of(name).partition(f"{self._folder}/")[2]
        return tree.is_held_out(key, self.config.data.held_out)

    def _open(self, entry: str) -> Source:
        """Open the images of an entry of ``data``. Raises ValueError where there are none."""
        root = files.find(getattr(self.config.data, entry))
        try:
            classes = None if root.is_dir() else self._classes
            return sources.open_source(root, classes, upright=sources.is_upright(root))
        except FileNotFoundError:
            how = "make_data.py prepare makes it (dataset/README.md)"
            if entry == "adapted":
                how = "image_sample.py makes it"
            raise ValueError(f"`data.{entry}` {root} does not exist; {how}") from None


def _is_plain(source: Source, split: str) -> bool:
    """Tell whether a folder holds its splits directly, as a folder of one's own does."""
    folders = source.folders(".")
    return CLEAN not in folders and split.partition("/")[0] in folders


def _hint(config: Config, name: str, on_disk: bool) -> str:
    """Return how images are made that are missing."""
    if config.view == "adapted":
        return (
            f"; adapt the copies first: image_sample.py with `corruption` {name} and `save_dir` "
            f"{config.data.adapted}"
        )
    if on_disk:
        return (
            f"; make them first: make_data.py degrade with `type` {name} and `save_dir` "
            f"{config.data.root} (or set made: fly)"
        )
    return (
        "; clean images lie in clean/<split> or in <split> of `data.root`; make_data.py prepare "
        "writes a data set as such a tree"
    )


def check_classes(source: Source, classes: Sequence[str]) -> None:
    """Raise ValueError where a source tells other classes than those of a config."""
    if source.classes and tuple(source.classes) != tuple(classes):
        theirs, own = (", ".join(some[:3]) for some in (source.classes, classes))
        raise ValueError(
            f"{source.path} has {len(source.classes)} classes ({theirs}, …), but the config "
            f"has {len(classes)} ({own}, …); set `data.classes` to the list of this data set"
        )
