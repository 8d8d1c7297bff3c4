"""The mean and the standard deviation of training images, where a config does not give them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from DDA import files, shapes, sources, tree
from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.data.views import clean_names
from DistilledClassifier.experiments.config import MEASURED, Config, check

MOST = 10_000  # images that are measured
FILE = "measured.json"  # in the folder of all runs
LEAST_STD = 1 / 255  # images of a single colour have a deviation of 0, which nothing is divided by


class Measured(TypedDict):
    """The content of FILE: of what the numbers are, and the numbers."""

    of: dict[str, Any]
    mean: list[float]
    std: list[float]


def settled(config: Config, save_dir: Path, *, keep: bool = True) -> Config:
    """Return a config whose mean and deviation are numbers.

    They are those of the clean training images in RGB scaled to 0..1, at the size at which the
    network sees them: of all, or of 10,000 that are evenly spread. They are kept in
    ``measured.json`` in ``save_dir``. keep: write that file where it is not there. Raises
    ValueError where there are no such images.
    """
    preprocess = config.raw.get("preprocess", {})
    names = [name for name in ("mean", "std") if preprocess.get(name) == MEASURED]
    if not names:
        return config
    values = _measured(config, save_dir, keep)
    chosen = {name: values[name] for name in names}
    return check({**config.raw, "preprocess": {**preprocess, **chosen}})


def _measured(config: Config, save_dir: Path, keep: bool) -> Measured:
    """Return the mean and the deviation, from the file where it holds them."""
    source, names = clean_names(config)
    seen = config.preprocess
    of = {
        "images": str(source.path.resolve()),
        "train": config.data.train,
        "held_out": config.data.held_out,
        "count": len(names),
        "names": hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest(),
        "size": seen.size,
        "resize": seen.resize,
        "interpolation": seen.interpolation,
    }
    path = save_dir / FILE
    if path.is_file():
        kept = shapes.read_json(path, Measured, "remove it, and it is measured anew")
        if kept["of"] == of:
            return kept
    mean, std = _mean_and_std(source, tree.spread(names, MOST), seen)
    values = Measured(of=of, mean=mean, std=std)
    if keep:
        files.make_folder(save_dir)
        files.write_json(path, dict(values))
    return values


def _mean_and_std(
    source: sources.Source, names: list[str], seen: Preprocess
) -> tuple[list[float], list[float]]:
    """Return the mean and the deviation of each colour of images, in 0..1.

    The sums are whole numbers, so that they do not depend on the order of the images.
    """

    def sums(name: str) -> np.ndarray:
        pixels = seen.fit(sources.read_pixels(source, name)).reshape(-1, 3).astype(np.int64)
        return np.stack([pixels.sum(0), (pixels**2).sum(0)])

    with ThreadPoolExecutor(8) as pool:
        total, squares = sum(pool.map(sums, names)) / (len(names) * seen.size**2)
    std = np.sqrt(np.maximum(squares - total**2, 0))
    colours = (total / 255, np.maximum(std / 255, LEAST_STD))
    mean, deviation = ([round(float(value), 4) for value in numbers] for numbers in colours)
    return mean, deviation
