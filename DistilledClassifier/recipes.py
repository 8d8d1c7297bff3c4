"""Recipes:

what is done to each image of a tree of made images, drawn from the image's own random stream.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from DistilledClassifier import degradations


@dataclass(frozen=True)
class Recipe:
    """What is done to each image of one folder of the tree.

    kind: "copy", "degrade", "sequence" or "corrupt"; name: of the degradation ("combined": one of
    the known ones by chance), sequence or corruption; level: as the functions take it, None to
    draw it for each image; how: behaviour of a degradation or constants of a corruption.
    """

    folder: str
    kind: str
    name: str = ""
    level: float | None = None
    how: str = ""

    def draw(self, rng: np.random.Generator) -> tuple[str, float | None]:
        """The degradation and level of an image; takes from ``rng`` what it draws."""
        if self.kind != "degrade":
            return self.name, self.level
        name = degradations.draw_name(self.name, rng)
        return name, degradations.draw_level(name, rng) if self.level is None else self.level

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H,W,3) to uint8 (H,W,3)."""
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
    """The random stream of one image: of the seed and its key in the tree, and of nothing else."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
