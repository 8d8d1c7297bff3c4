"""The interface between the loop and an experiment: a `Task` and its `Batches`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from DDA.ranks import World


class Moment(NamedTuple):
    """The progress of a training.

    Both values come from the saved state, so a ramp that follows them survives an interruption.
    """

    step: int  # steps that are done
    spent: float  # share of the budget that is spent, 0..1


class Task(nn.Module):
    """A method of training: networks, their loss, and a measure of success.

    Registered modules learn and are saved. Frozen teachers are kept in plain tuples, which torch
    does not register. monitor: the name of the number of `evaluate` that tells the best state.
    """

    monitor = "top1"
    higher_is_better = True

    def forward(self, batch: Any, moment: Moment) -> dict[str, torch.Tensor]:
        """Return scalars: ``loss``, which is minimised, and its named parts, unweighted.

        One call holds all passes through the modules that learn, so that the gradients of several
        processes can be averaged. It runs in the precision of the run; a loss that needs float32
        converts its inputs.
        """
        raise NotImplementedError

    def evaluate(self, world: World) -> dict[str, float]:
        """Return numbers measured on held-out data, with `monitor` among them.

        Each image counts once over all ranks. A task without held-out data returns an empty dict.
        """
        return {}


class Batches(Protocol):
    """The batches of a run. Each follows from the seed and the number of its step."""

    per_epoch: int  # steps of an epoch

    def stream(self, first: int, last: int) -> Iterator[list[Any]]:
        """Return an iterator over this rank's batches of the steps first..last-1.

        A batch is a list of parts whose gradients are added up. A part has a method ``to(device)``.
        """
        ...
