"""Losses, by the field's names. A new one is a function here and an entry in a table below.

Features are (N,C), maps (N,C,H,W), logits (N,K), labels (N,) of whole numbers. Each loss is a
scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F


class Seen(Protocol):
    """The answer of a network to a batch."""

    features: torch.Tensor
    logits: torch.Tensor
    maps: torch.Tensor


def cross_entropy(student: Seen, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy with labels (N,), or with targets (N,K)."""
    return F.cross_entropy(student.logits, labels)


def cosine_inheritance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean over the batch of 1 - cos(student, teacher), each flattened.

    FusionDistill and DiffAUD call it COS. The teacher gets no gradient. Raises ValueError where the
    shapes differ.

    >>> cosine_inheritance(torch.eye(2), torch.eye(2)).item()
    0.0
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"features of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} "
            "differ in shape"
        )
    towards = torch.ones(len(student), device=student.device)
    return F.cosine_embedding_loss(student.flatten(1), teacher.detach().flatten(1), towards)


class FromTeacher(NamedTuple):
    """A loss of a student and a teacher on the same images.

    of: the part of `Seen` that it compares.
    """

    of: str
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# losses of a student and the labels (N,), or targets (N,K)
SUPERVISED: dict[str, Callable[[Seen, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
}
FROM_TEACHERS: dict[str, FromTeacher] = {
    "cosine_inheritance": FromTeacher("features", cosine_inheritance),
    "cosine_inheritance_maps": FromTeacher("maps", cosine_inheritance),
}


def smoothed(labels: torch.Tensor, classes: int, share: float) -> torch.Tensor:
    """Return targets (N,K) of labels (N,), where ``share`` is spread over all classes.

    This is label smoothing (Szegedy et al., arXiv:1512.00567, section 7).
    """
    return F.one_hot(labels, classes) * (1 - share) + share / classes


def objective(
    student: Seen,
    labels: torch.Tensor,
    teachers: Mapping[str, torch.Tensor] | None,
    weights: Mapping[str, float],
    *,
    groups: int = 1,
) -> dict[str, torch.Tensor]:
    """Return ``loss``, the weighted sum, and beside it each loss of ``weights``, unweighted.

    DiffAUD's objective is w0 CE + w1 times the sum over teachers of COS.

    labels: (N,), or targets (N,K). teachers: their answers to the images of the batch, by the names
    of the parts of `Seen`. groups: the number of groups of equally many images that follow each
    other in the batch; a loss from teachers is summed over them.
    """
    parts = {name: SUPERVISED[name](student, labels) for name in weights if name in SUPERVISED}
    each = len(labels) // groups
    rows = [slice(i * each, (i + 1) * each) for i in range(groups)]
    for name in weights:
        if name in FROM_TEACHERS and teachers is not None:
            of, loss = FROM_TEACHERS[name]
            parts[name] = sum(loss(getattr(student, of)[part], teachers[of][part]) for part in rows)
    return {"loss": sum(weights[name] * value for name, value in parts.items()), **parts}
