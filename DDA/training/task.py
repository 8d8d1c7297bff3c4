"""What is trained and how it is judged: all that the loop knows of an experiment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from DDA.ranks import World


class Moment(NamedTuple):
    """Where a training is: steps done, and the share of its budget that is spent, 0..1.

    Both come from the saved state, so that whatever follows them goes on after an interruption.
    """

    step: int
    spent: float


class Task(nn.Module):
    """A method: registered modules learn and are saved; frozen teachers hang on plain tuples.

    monitor: the number of `evaluate` by which the best state is known.
    """

    monitor = "top1"
    higher_is_better = True

    def forward(self, batch: Any, moment: Moment) -> dict[str, torch.Tensor]:
        """Scalars: ``loss``, which is minimised, and its named parts, unweighted.

        One forward holds all passes through what learns, so that gradients of several processes can be averaged. It runs in
        the run's precision; a loss that needs float32 leaves it.
        """
        raise NotImplementedError

    def evaluate(self, world: World) -> dict[str, float]:
        """Numbers of held-out data, with `monitor` among them, each image counted once over all ranks; nothing by default."""
        return {}


class Batches(Protocol):
    """The batches of a run: each a function of the seed and the number of its step."""

    per_epoch: int

    def stream(self, first: int, last: int) -> Iterator[list[Any]]:
        """This rank's batch of each step first..last-1, in parts whose gradients add up; a part has ``to(device)``."""
        ...
