"""One stream of Gaussian noise for each image: the same on every device, in every batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


class NoiseStreams:
    """The noise of a batch: ``streams(k)`` is the k-th draw of every image, float32 (B, *shape).

    An image's draws depend on the seed, its key and k alone. A counter-based generator (Philox)
    is keyed with the SHA-256 of ``"{seed}\\n{key}"`` and its counter starts at k, so draws may be
    asked for in any order, more than once or never. They are made on the CPU.
    """

    def __init__(self, keys: Sequence[str], *, seed: int, shape: tuple[int, ...]):
        self.shape = shape
        self._philox_keys = [_philox_key(seed, key) for key in keys]

    def __call__(self, k: int) -> torch.Tensor:
        draws = torch.empty(len(self._philox_keys), *self.shape, dtype=torch.float32)
        for image, philox_key in zip(draws, self._philox_keys, strict=True):
            generator = np.random.Generator(np.random.Philox(key=philox_key, counter=[0, 0, 0, k]))
            generator.standard_normal(out=image.numpy(), dtype=np.float32)
        return draws


def _philox_key(seed: int, key: str) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogateescape")).digest()
    return np.frombuffer(digest[:16], dtype="<u8")
