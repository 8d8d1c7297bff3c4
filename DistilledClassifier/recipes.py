"""Recipes: how the images of a tree are made, each with a random stream of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from DistilledClassifier import degradations


@dataclass(frozen=True)
class Recipe:
    """The work on each image of one folder of the tree.

    kind: "copy", "degrade", "sequence" or "corrupt". name: that of the degradation, sequence or
    corruption; "combined" is one of the known degradations by chance. level: the level or severity;
    None draws a degradation's for each image. how: the behavior of a degradation, or the constants
    of a corruption.
    """

    folder: str
    kind: str
    name: str = ""
    level: float | None = None
    how: str = ""

    def draw(self, rng: np.random.Generator) -> tuple[str, float | None]:
        """Return the name and the level for one image; those that are open are drawn."""
        if self.kind != "degrade":
            return self.name, self.level
        name = degradations.draw_name(self.name, rng)
        return name, degradations.draw_level(name, rng) if self.level is None else self.level

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the image made of an image, both uint8 (H,W,3)."""
        name, level = self.draw(rng)
        if self.kind == "degrade":
            return degradations.DEGRADATIONS[name](image, level, rng, self.how)
        if self.kind == "sequence":
            return degradations.sequence(image, name, rng)
        if self.kind == "corrupt":
            from DistilledClassifier.corruptions import corrupt

            return corrupt(image, name, level, constants=self.how, rng=rng)
        return image


def generator(seed: int, key: str) -> np.random.Generator:
    """Return the random stream of one image. It depends on the seed and the image's key alone."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
