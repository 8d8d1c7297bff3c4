"""Losses, by the field's names. A new one is a function here and its entry in the table under it.

Features are (N,C), maps (N,C,H,W), logits (N,K), labels (N,) of whole numbers. Each returns a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F


class Seen(Protocol):
    """What a network makes of a batch."""

    features: torch.Tensor
    logits: torch.Tensor
    maps: torch.Tensor


def cosine_inheritance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean over the batch of 1 - cos(student, teacher), each flattened (FusionDistill and DiffAUD: COS)."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"features of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape"
        )
    towards = torch.ones(len(student), device=student.device)
    return F.cosine_embedding_loss(student.flatten(1), teacher.detach().flatten(1), towards)


class FromTeacher(NamedTuple):
    """A loss of a student and a teacher on the same images, and the part of `Seen` of which it is."""

    of: str
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# of a student and the labels (N,), or targets (N,K)
SUPERVISED: dict[str, Callable[[Seen, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": lambda student, labels: F.cross_entropy(student.logits, labels),
}
FROM_TEACHERS: dict[str, FromTeacher] = {
    "cosine_inheritance": FromTeacher("features", cosine_inheritance),
    "cosine_inheritance_maps": FromTeacher("maps", cosine_inheritance),
}


def smoothed(labels: torch.Tensor, classes: int, share: float) -> torch.Tensor:
    """Targets (N,K) of labels (N,): ``share`` is spread over all classes (Szegedy et al., arXiv:1512.00567, section 7)."""
    return F.one_hot(labels, classes) * (1 - share) + share / classes


def objective(
    student: Seen,
    labels: torch.Tensor,
    teachers: Mapping[str, torch.Tensor] | None,
    weights: Mapping[str, float],
    *,
    groups: int = 1,
) -> dict[str, torch.Tensor]:
    """``loss``, the weighted sum, and each loss of ``weights``, unweighted (DiffAUD: w0 CE + w1 sum over teachers of COS).

    teachers: what they make of each image of the batch, by the names of the parts of `Seen`. The batch is ``groups`` groups
    of equally many images, one after the other; a loss from teachers is summed over the groups.
    """
    parts = {name: SUPERVISED[name](student, labels) for name in weights if name in SUPERVISED}
    each = len(labels) // groups
    rows = [slice(i * each, (i + 1) * each) for i in range(groups)]
    for name in weights:
        if name in FROM_TEACHERS and teachers is not None:
            of, loss = FROM_TEACHERS[name]
            parts[name] = sum(loss(getattr(student, of)[part], teachers[of][part]) for part in rows)
    return {"loss": sum(weights[name] * value for name, value in parts.items()), **parts}
