"""Labelled images as a trainer sees them: views of a data set, and the batch of every step.

Which images are in a batch, how they are degraded and how they are changed is drawn from the seed and the step's number alone:
a run that was interrupted, or has more processes, sees the same images. Validation images never change.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from DDA import files, sources, tree
from DDA.sources import Source
from DistilledClassifier import trees
from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.config import Augment, Config

CACHE = 4 << 30  # bytes of decoded images that are kept


class Examples:
    """The labelled images of a folder of a source. ``keys`` are relative to the folder; ``labels`` (N,)."""

    def __init__(self, source: Source, folder: str, classes: Sequence[str], choose: Callable = lambda names: names):
        there = source.list(folder)[0] if _has(source, folder) else []
        names = choose(there)
        if not names:
            part = f"none of the {len(there)} images is chosen" if there else "there are no images"
            raise ValueError(f"{part} in {source.path}/{folder}" + ("; change data.held_out or data.at_most" if there else ""))
        self._source, self.names, self.classes = source, names, tuple(classes)
        self.keys = [tree.key_of(name)[len(folder) + 1 :] for name in names]
        if source.classes and tuple(source.classes) != self.classes:
            raise ValueError(
                f"{source.path} has {len(source.classes)} classes ({', '.join(source.classes[:3])}, …), but the config has "
                f"{len(classes)} ({', '.join(classes[:3])}, …); set data.classes to the list of this data set"
            )
        found = [tree.parse(name, classes)[2] for name in names]
        if None in found:
            raise ValueError(f"{source.where(names[found.index(None)])} has none of the {len(classes)} classes in its name")
        index = {name: i for i, name in enumerate(classes)}
        self.labels = np.array([index[label] for label in found])
        self._pixels: np.ndarray | list | None = None
        first = self._read(0)
        if len(names) * first.nbytes <= CACHE:
            with ThreadPoolExecutor(8) as pool:
                self._pixels = list(pool.map(self._read, range(len(names))))
            if len({image.shape for image in self._pixels}) == 1:
                self._pixels = np.stack(self._pixels)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> np.ndarray:
        """uint8 (H,W,3)."""
        return self._read(row) if self._pixels is None else self._pixels[row]

    def _read(self, row: int) -> np.ndarray:
        return sources.read_pixels(self._source, self.names[row])


def _has(source: Source, folder: str) -> bool:
    above, _, last = folder.rpartition("/")
    try:
        return last in source.folders(above or ".")
    except OSError:
        return False


@dataclass(frozen=True)
class View:
    """The images of one degradation: copies that lie on disk, or ``recipe`` to make them of clean ones."""

    name: str
    examples: Examples
    split: str
    seed: int
    recipe: trees.Recipe | None = None

    def drawn(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H,W,3), degraded at a level drawn by ``rng``."""
        pixels = self.examples.read(row)
        return pixels if self.recipe is None else self.recipe.apply(pixels, rng)

    def fixed(self, row: int) -> np.ndarray:
        """uint8 (H,W,3), always the same: the image that ``make_data.py degrade`` writes with this seed."""
        return self.drawn(row, trees.generator(self.seed, f"{self.name}/{self.split}/{self.examples.keys[row]}"))


def views(config: Config, split: str) -> list[View]:
    """One view for each known degradation, ``split`` being train or val. Raises ValueError naming what is missing."""
    classes = tree.class_list(config.data.classes)
    adapted = config.view == "adapted"
    root = files.find(config.data.adapted if adapted else config.data.root)
    try:
        source = sources.open_source(root, None if root.is_dir() else classes)
    except FileNotFoundError:
        how = "image_sample.py makes it" if adapted else "make_data.py prepare makes it (dataset/README.md)"
        raise ValueError(f"data.{'adapted' if adapted else 'root'}: {root} does not exist; {how}") from None
    share = config.data.held_out
    folder = config.data.train if share else getattr(config.data, split)

    def choose(names: list[str]) -> list[str]:
        if share:
            names = [name for name in names if is_held_out(_key_within(name, folder), share) == (split == "val")]
        return spread(names, config.data.at_most) if split == "train" and config.data.at_most else names

    clean: Examples | None = None
    found = []
    for name in config.known:
        on_disk = adapted or (config.view == "degraded" and config.made == "trees" and name != "clean")
        try:
            if on_disk:
                examples, recipe = Examples(source, f"{name}/{folder}", classes, choose), None
            else:
                clean = clean or Examples(source, f"clean/{folder}", classes, choose)
                examples, recipe = clean, None if name == "clean" else trees.Recipe("", "degrade", name, None, "corrected")
        except ValueError as error:
            raise ValueError(f"{error}{_hint(config, name, on_disk) if 'no images' in str(error) else ''}") from None
        found.append(View(name, examples, folder, config.train.seed, recipe))
    return found


def is_held_out(key: str, share: float) -> bool:
    """Whether a training image is kept for validation: drawn by its key within its cell, such as ``cat_00012``, so that it is
    kept in every view and degradation, and in any part of the images."""
    number = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]
    return int.from_bytes(number, "big") < share * 2**64


def _key_within(name: str, folder: str) -> str:
    return tree.key_of(name).partition(f"{folder}/")[2]


def spread(names: list[str], count: int) -> list[str]:
    """So many of them, evenly spread; all where there are fewer."""
    return [names[i] for i in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)]


def _hint(config: Config, name: str, on_disk: bool) -> str:
    if config.view == "adapted":
        return f"; adapt the copies first: image_sample.py … --corruption {name} --save_dir {config.data.adapted}"
    if on_disk:
        return f"; make them first: make_data.py degrade … --type {name} --save_dir {config.data.root} (or set made: fly)"
    return "; make_data.py prepare writes a data set as this tree"


# ---------------------------------------------------------------------------------------------- batches


class Steps:
    """Item ``step``: the whole batch of one rank, one group of each view after the other; uint8 (B,S,S,3) and labels (B,)."""

    def __init__(self, found: Sequence[View], augment: Augment, preprocess: Preprocess, batch_size: int, seed: int,
                 rank: int, ranks: int):  # fmt: skip
        self._views, self._augment, self._preprocess, self._seed = found, augment, preprocess, seed
        self._batch, self._each, self._rank = batch_size, batch_size // ranks, rank
        self.per_epoch = min(len(view.examples) for view in found) // batch_size

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, place = divmod(step, self.per_epoch)
        first = place * self._batch + self._rank * self._each
        pixels, labels = [], []
        for number, view in enumerate(self._views):
            for row in _order(self._seed, number, epoch, len(view.examples))[first : first + self._each]:
                rng = np.random.default_rng([self._seed, 3, number, epoch, int(row)])
                image = change(view.drawn(int(row), rng), self._augment, self._preprocess, rng)
                pixels.append(image)
                labels.append(view.examples.labels[row])
        return torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.array(labels))

    def loader(self, first: int, last: int, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of the steps first..last-1, prepared ahead by ``workers`` threads.

        Threads, because a process that forks while libraries run threads of their own may hang; the libraries that decode and
        degrade let other threads run.
        """
        if not workers:
            yield from map(self.__getitem__, range(first, last))
            return
        pool = ThreadPoolExecutor(workers, "batches")
        try:
            ahead: deque[Future] = deque()
            for step in range(first, last):
                ahead.append(pool.submit(self.__getitem__, step))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@lru_cache(maxsize=16)
def _order(seed: int, view: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, view, epoch]).permutation(count)


def change(pixels: np.ndarray, augment: Augment, preprocess: Preprocess, rng: np.random.Generator) -> np.ndarray:
    """A training image, uint8 (size,size,3), of any uint8 (H,W,3)."""
    if augment.resized_crop:
        pixels = _resized_crop(pixels, preprocess, rng)
    pixels = preprocess.fit(pixels)
    if augment.crop:
        padded = np.pad(pixels, ((augment.crop, augment.crop), (augment.crop, augment.crop), (0, 0)))
        top, left = rng.integers(0, 2 * augment.crop + 1, 2)
        pixels = padded[top : top + preprocess.size, left : left + preprocess.size]
    if augment.flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels


def _resized_crop(pixels: np.ndarray, preprocess: Preprocess, rng: np.random.Generator) -> np.ndarray:
    """8 to 100 % of the area, sides in 3:4 to 4:3 (Inception's), the whole image where ten tries do not fit."""
    height, width = pixels.shape[:2]
    for _ in range(10):
        area, ratio = rng.uniform(0.08, 1) * height * width, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            pixels = pixels[top : top + h, left : left + w]
            break
    how = Image.Resampling[preprocess.interpolation.upper()]
    return np.asarray(Image.fromarray(pixels).resize((preprocess.size, preprocess.size), how))


def fixed_batches(view: View, preprocess: Preprocess, batch_size: int, rank: int, ranks: int):
    """Every ``ranks``-th image of a view, in batches: uint8 (B,S,S,3) and labels (B,)."""
    rows = range(rank, len(view.examples), ranks)
    for i in range(0, len(rows), batch_size):
        part = rows[i : i + batch_size]
        pixels = np.stack([preprocess.fit(view.fixed(row)) for row in part])
        yield torch.from_numpy(pixels), torch.from_numpy(view.examples.labels[list(part)])
