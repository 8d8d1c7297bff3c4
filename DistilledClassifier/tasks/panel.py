"""Teachers, and what they say of the images of a student's batch."""

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

    needs: the parts of `Seen` that the losses compare; teachers may differ in the others. sees: ``same``, the images that the
    student sees; ``clean``, their undegraded twins under the same flip and crop. how: ``grouped``, teacher i answers for group
    i (DiffAUD; FusionDistill step 4); ``averaged``, all answer for all, and the mean counts (ELODI).
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
        """What the teachers make of each image of a batch, by the names of what is needed."""
        pixels = batch.pixels if self.sees == "same" else batch.clean
        shares = (
            [pixels] * len(self.teachers) if self.how == "averaged" else pixels.chunk(batch.groups)
        )
        answers = [
            _ask(teacher, share) for teacher, share in zip(self.teachers, shares, strict=True)
        ]
        parts = {name: [getattr(answer, name) for answer in answers] for name in self.needs}
        if self.how == "averaged":
            return {name: torch.stack(tensors).mean(0) for name, tensors in parts.items()}
        return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _ask(teacher: Classifier, pixels: torch.Tensor) -> Seen:
    size = teacher.preprocess.size
    if pixels.shape[1] != size:  # a teacher of another size sees the images scaled
        scaled = F.interpolate(
            pixels.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", antialias=True
        )
        pixels = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return teacher.network(teacher.preprocess.normalise(pixels)).float()


def needs_of(weights: Mapping[str, float]) -> frozenset[str]:
    """The parts of `Seen` that these losses compare with teachers."""
    return frozenset(FROM_TEACHERS[name].of for name in weights if name in FROM_TEACHERS)


def check_teachers(panel: Panel, student: Network, size: int, classes: Sequence[str]) -> None:
    """Raise ValueError for a teacher that does not fit what the losses need: shapes of features or maps, or classes.

    size: pixels of the student's images.
    """
    blank = torch.zeros(
        2, size, size, 3, dtype=torch.uint8, device=next(student.parameters()).device
    )
    was_training = student.training
    try:
        with torch.no_grad():
            own = student.eval()(blank.permute(0, 3, 1, 2).float())
            for teacher in panel.teachers:
                other = _ask(teacher, blank)
                if teacher.classes and len(teacher.classes) != len(classes):
                    raise ValueError(
                        f"the teacher {teacher.path} has {len(teacher.classes)} classes, but the data have "
                        f"{len(classes)}; train it anew"
                    )
                for name in panel.needs:
                    shapes = [tuple(getattr(seen, name).shape[1:]) for seen in (other, own)]
                    if shapes[0] != shapes[1]:
                        raise ValueError(
                            f"the teacher {teacher.path} has {name} of the shape {shapes[0]}, the student of "
                            f"{shapes[1]}; the loss needs them alike: use the same backbone and size"
                        )
    except RuntimeError as error:
        raise ValueError(
            f"the classifier does not take images of {size} pixels: {str(error).splitlines()[0]}"
        ) from None
    finally:
        student.train(was_training)
