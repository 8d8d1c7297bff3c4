"""The batch of every step. It depends on the seed and the number of the step alone.

Interruptions and the number of processes do not change it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from DDA.ahead import prepared
from DDA.training.loop import Recipe
from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.data.augment import change
from DistilledClassifier.data.views import View
from DistilledClassifier.experiments.config import Augment


@dataclass(frozen=True)
class Batch:
    """The images of a step, or of a part of it: one group of each view after the other.

    pixels: uint8 (B,S,S,3). labels: (B,). groups: how many groups there are, of equally many
    images. clean: the undegraded twins under the same changes, uint8 (B,S,S,3), where teachers see
    them. keys: the keys of the images within their view.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    groups: int = 1
    clean: torch.Tensor | None = None
    keys: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        clean = None if self.clean is None else self.clean.to(device)
        return replace(
            self, pixels=self.pixels.to(device), labels=self.labels.to(device), clean=clean
        )


class Steps:
    """The batches of a rank.

    A step has ``batch_size`` images of each view over all ranks, in ``accumulate`` parts. threads:
    how many prepare the next batches. twins: whether each image comes with its undegraded twin.
    """

    def __init__(
        self,
        views: Sequence[View],
        augment: Augment,
        preprocess: Preprocess,
        recipe: Recipe,
        *,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 0,
        twins: bool = False,
    ):
        self._views, self._augment, self._preprocess = views, augment, preprocess
        self._seed = recipe.seed
        self._rank, self._threads, self._twins = rank, threads, twins
        self._batch, self._parts = recipe.batch_size, recipe.accumulate
        self._each = recipe.batch_size // (ranks * recipe.accumulate)
        self.per_epoch = min(len(view.examples) for view in views) // recipe.batch_size

    def stream(self, first: int, last: int) -> Iterator[list[Batch]]:
        """Yield this rank's batch of each step first..last-1, in its parts."""
        return prepared(self.__getitem__, range(first, last), threads=self._threads)

    def __getitem__(self, step: int) -> list[Batch]:
        """Return the parts of this rank's batch of a step."""
        epoch, place = divmod(step, self.per_epoch)
        first = place * self._batch + self._rank * self._parts * self._each
        return [self._part(epoch, first + part * self._each) for part in range(self._parts)]

    def _part(self, epoch: int, first: int) -> Batch:
        """Return a part of a batch: of each view the images from place ``first`` of the epoch."""
        images, labels, keys = [], [], []
        for number, view in enumerate(self._views):
            order = _order(self._seed, number, epoch, len(view.examples))
            for row in order[first : first + self._each].tolist():
                images.append(self._image(number, view, epoch, row))
                labels.append(view.examples.labels[row])
                keys.append(view.examples.keys[row])
        pixels = torch.from_numpy(np.stack([image for image, _ in images]))
        clean = torch.from_numpy(np.stack([twin for _, twin in images])) if self._twins else None
        return Batch(
            pixels, torch.from_numpy(np.array(labels)), len(self._views), clean, tuple(keys)
        )

    def _image(
        self, number: int, view: View, epoch: int, row: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return an image under this epoch's changes, and its twin where there are twins."""
        rng = np.random.default_rng([self._seed, 3, number, epoch, row])
        degraded = view.drawn(row, rng)
        twin = None
        if self._twins:  # the same changes: the same draws
            same = copy.deepcopy(rng)
            twin = change(view.twin(row), self._augment, self._preprocess, same)
        return change(degraded, self._augment, self._preprocess, rng), twin


@lru_cache(maxsize=16)
def _order(seed: int, view: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of a view's images in an epoch."""
    return np.random.default_rng([seed, 1, view, epoch]).permutation(count)


def fixed_batches(
    view: View, preprocess: Preprocess, batch_size: int, rank: int, ranks: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield every ``ranks``-th image of a view, in batches: uint8 (B,S,S,3) and labels (B,)."""
    rows = range(rank, len(view.examples), ranks)
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        pixels = np.stack([preprocess.fit(view.fixed(row)) for row in part])
        yield torch.from_numpy(pixels), torch.from_numpy(view.examples.labels[list(part)])
