"""The batch of every step, a function of the seed and the number of the step: interruptions and ranks do not change it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.config import Augment
from DistilledClassifier.data.augment import change
from DistilledClassifier.data.views import View


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


def fixed_batches(view: View, preprocess: Preprocess, batch_size: int, rank: int, ranks: int):
    """Every ``ranks``-th image of a view, in batches: uint8 (B,S,S,3) and labels (B,)."""
    rows = range(rank, len(view.examples), ranks)
    for i in range(0, len(rows), batch_size):
        part = rows[i : i + batch_size]
        pixels = np.stack([preprocess.fit(view.fixed(row)) for row in part])
        yield torch.from_numpy(pixels), torch.from_numpy(view.examples.labels[list(part)])
