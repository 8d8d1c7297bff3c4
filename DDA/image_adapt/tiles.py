"""A network on images that are too large for it at once: overlapping tiles, smoothly blended."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

MOST = 4  # squares of the prior's size that the network sees at once; longer images are tiled

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Tiled:
    """A network that predicts tile by tile where an image is longer than ``most`` squares.

    The predictions of each step are blended, so guidance and projection act on the whole image.
    network: called with x (B,3,H,W) and t (B,). size: the side of the prior's images, and at least
    the shorter side of any image here. step: tiles begin at multiples of it, where the network's
    grids of lower resolution do.
    """

    def __init__(self, network: Network, size: int, step: int, most: int = MOST):
        self._network, self._size, self._step, self._most = network, size, step, most

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the network's output (B,C,H,W) for images (B,3,H,W) at times (B,)."""
        axis = -1 if x.shape[-1] >= x.shape[-2] else -2
        length, tile = x.shape[axis], self._most * self._size
        if length <= tile:
            return self._network(x, t)
        starts = tile_starts(length, tile, self._size // 2, self._step)
        weights = tile_weights(length, tile, self._size // 2, starts).to(x)
        blended: torch.Tensor | float = 0.0
        for start, weight in zip(starts, weights, strict=True):
            output = self._predict(x.narrow(axis, start, tile), t)
            place = [start, length - start - tile]
            padding = place if axis == -1 else [0, 0, *place]
            output = output * (weight if axis == -1 else weight[:, None])
            blended = blended + torch.nn.functional.pad(output, padding)
        return blended

    def _predict(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the network's output for a tile; its graph is not kept, but made again."""
        if not x.requires_grad:
            return self._network(x, t)
        return checkpoint(self._network, x, t, use_reentrant=False, preserve_rng_state=False)


def tile_starts(length: int, tile: int, overlap: int, step: int) -> list[int]:
    """Return where the tiles of a side begin: at multiples of ``step``, evenly spread.

    Neighbours share at least ``overlap`` values but for ``step`` of them. length, tile: multiples
    of ``step``.
    """
    count = 1 + math.ceil((length - tile) / (tile - overlap))
    return [i * (length - tile) // (count - 1) // step * step for i in range(count)]


def tile_weights(length: int, tile: int, overlap: int, starts: list[int]) -> torch.Tensor:
    """Return the weights of the values of each tile, float64 (tiles,tile).

    They rise and fall over ``overlap`` values at each end within the image, and their sum at each
    place of the image is 1.
    """
    rise = torch.sin(torch.pi / 2 * (torch.arange(overlap, dtype=torch.float64) + 0.5) / overlap)
    weights = torch.ones(len(starts), tile, dtype=torch.float64)
    weights[1:, :overlap] *= rise**2
    weights[:-1, tile - overlap :] *= rise.flip(0) ** 2
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return torch.stack(
        [w / total[start : start + tile] for start, w in zip(starts, weights, strict=True)]
    )
