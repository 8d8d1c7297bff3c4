"""Teachers, and their answers to the images of a student's batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from DistilledClassifier.classifiers import Classifier, Network, Seen
from DistilledClassifier.data.batches import Batch
from DistilledClassifier.losses import FROM_TEACHERS


@dataclass(frozen=True, eq=False)
class Panel:
    """Frozen teachers that answer row by row of a student's batch.

    needs: the parts of `Seen` that the losses compare; teachers may differ in the others. sees:
    ``same``, the images that the student sees, or ``clean``, their undegraded twins under the same
    flip and crop. how: ``grouped``, teacher i answers for group i (DiffAUD; FusionDistill step 4),
    or ``averaged``, all answer for all images, and the mean counts (ELODI).
    """

    teachers: tuple[Classifier, ...]
    needs: frozenset[str]
    sees: str = "same"
    how: str = "grouped"

    def __deepcopy__(self, memo: dict) -> Panel:
        return self  # nothing in it changes: averaged weights share it

    def __bool__(self) -> bool:
        return bool(self.teachers)

    def to(self, device: torch.device) -> Panel:
        """Move the teachers to a device."""
        for teacher in self.teachers:
            teacher.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the answers to each image of a batch, by the names of the parts in ``needs``."""
        pixels = batch.pixels if self.sees == "same" else batch.clean
        is_averaged = self.how == "averaged"
        shares = [pixels] * len(self.teachers) if is_averaged else pixels.chunk(batch.groups)
        pairs = zip(self.teachers, shares, strict=True)
        answers = [_ask(teacher, share) for teacher, share in pairs]
        parts = {name: [getattr(answer, name) for answer in answers] for name in self.needs}
        if is_averaged:
            return {name: torch.stack(tensors).mean(0) for name, tensors in parts.items()}
        return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _ask(teacher: Classifier, pixels: torch.Tensor) -> Seen:
    """Return a teacher's answer to images, uint8 (N,H,W,3), scaled where its size is another."""
    size = teacher.preprocess.size
    if pixels.shape[1] != size:
        planes = pixels.permute(0, 3, 1, 2).float()
        scaled = F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
        pixels = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return teacher.network(teacher.preprocess.normalise(pixels)).float()


def needs_of(weights: Mapping[str, float]) -> frozenset[str]:
    """Return the parts of `Seen` that these losses compare with teachers."""
    return frozenset(FROM_TEACHERS[name].of for name in weights if name in FROM_TEACHERS)


def check_teachers(panel: Panel, student: Network, size: int, classes: Sequence[str]) -> None:
    """Raise ValueError for a teacher that does not fit the student or the classes.

    What must agree is what the losses need: the shapes of features or maps. size: the side of the
    student's images in pixels.
    """
    device = next(student.parameters()).device
    blank = torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device)
    was_training = student.training
    try:
        with torch.no_grad():
            own = student.eval()(blank.permute(0, 3, 1, 2).float())
            for teacher in panel.teachers:
                _check_teacher(teacher, _ask(teacher, blank), own, panel.needs, classes)
    except RuntimeError as error:
        raise ValueError(
            f"the classifier does not take images of {size} pixels: {str(error).splitlines()[0]}"
        ) from None
    finally:
        student.train(was_training)


def _check_teacher(
    teacher: Classifier, answer: Seen, own: Seen, needs: frozenset[str], classes: Sequence[str]
) -> None:
    if teacher.classes and len(teacher.classes) != len(classes):
        raise ValueError(
            f"the teacher {teacher.path} has {len(teacher.classes)} classes, but the data have "
            f"{len(classes)}; train it anew"
        )
    for name in needs:
        theirs, ours = (tuple(getattr(seen, name).shape[1:]) for seen in (answer, own))
        if theirs != ours:
            raise ValueError(
                f"the teacher {teacher.path} has {name} of the shape {theirs}, the student of "
                f"{ours}; the loss needs them alike: use the same backbone and size"
            )
