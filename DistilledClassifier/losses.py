"""Losses, by the field's names. A new one is a function here and its entry in the table under it.

Features are (N,C) or (N,C,H,W), logits (N,K), labels (N,) of whole numbers. Each returns a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


def cosine_inheritance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean over the batch of 1 - cos(student, teacher), features flattened (FusionDistill and DiffAUD: COS)."""
    if student.shape != teacher.shape:
        raise ValueError(f"features of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
    towards = torch.ones(len(student), device=student.device)
    return F.cosine_embedding_loss(student.flatten(1), teacher.detach().flatten(1), towards)


@dataclass(frozen=True)
class Seen:
    """What a network makes of a batch."""

    features: torch.Tensor
    logits: torch.Tensor

    def part(self, rows: slice) -> Seen:
        return Seen(self.features[rows], self.logits[rows])


# of a student and the labels; of a student and one teacher on the same images
SUPERVISED: dict[str, Callable[[Seen, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": lambda student, labels: F.cross_entropy(student.logits, labels),
}
FROM_TEACHERS: dict[str, Callable[[Seen, Seen], torch.Tensor]] = {
    "cosine_inheritance": lambda student, teacher: cosine_inheritance(student.features, teacher.features),
}


def objective(
    student: Seen, labels: torch.Tensor, teachers: Sequence[Seen], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Each loss of ``weights``, unweighted, and ``loss``, their weighted sum (DiffAUD: w0 CE + w1 sum over teachers of COS).

    The batch is one group of equally many images for each teacher, in order; a loss from teachers is summed over the groups.
    """
    parts = {name: SUPERVISED[name](student, labels) for name in weights if name in SUPERVISED}
    each = len(labels) // max(1, len(teachers))
    groups = [student.part(slice(i * each, (i + 1) * each)) for i in range(len(teachers))]
    for name in weights:
        if name in FROM_TEACHERS:
            parts[name] = sum(FROM_TEACHERS[name](group, teacher) for group, teacher in zip(groups, teachers, strict=True))
    return {"loss": sum(weights[name] * value for name, value in parts.items()), **parts}
