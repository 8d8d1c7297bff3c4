"""Classification. A teacher is trained as a student whose panel of teachers is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from DDA.ranks import World
from DDA.training.task import Moment, Task
from DistilledClassifier.classifiers import Network, Preprocess, Seen
from DistilledClassifier.data.batches import Batch, fixed_batches
from DistilledClassifier.data.views import View
from DistilledClassifier.losses import objective, smoothed
from DistilledClassifier.tasks.panel import Panel


class Classify(Task):
    """A network that learns from labels, and from a panel of teachers where there is one.

    weights: the weights of the losses, by name. held_out: the views by which it is judged.
    label_smoothing: the share of the target that is spread over all classes.
    """

    monitor, higher_is_better = "top1", True

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        weights: Mapping[str, float],
        *,
        panel: Panel | None = None,
        held_out: Sequence[View] = (),
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.network = network
        self._preprocess, self._weights, self._held_out = preprocess, dict(weights), tuple(held_out)
        self._panel, self._label_smoothing = panel or Panel((), frozenset()), label_smoothing

    def forward(self, batch: Batch, moment: Moment) -> dict[str, torch.Tensor]:
        """Return the loss and its parts, computed in float32."""
        student = self.network(self._preprocess.normalise(batch.pixels))
        teachers = self._panel(batch) if self._panel else None
        groups = batch.groups if self._panel.how == "grouped" else 1
        with torch.autocast(batch.pixels.device.type, enabled=False):
            targets = self._targets(batch, student)
            return objective(student.float(), targets, teachers, self._weights, groups=groups)

    def _targets(self, batch: Batch, student: Seen) -> torch.Tensor:
        """Return the labels (N,), or targets (N,K) where they are smoothed."""
        share = self._label_smoothing
        return smoothed(batch.labels, student.logits.shape[1], share) if share else batch.labels

    @torch.no_grad()
    def evaluate(self, world: World) -> dict[str, float]:
        """Return top-1 and top-5 in per cent and the cross-entropy: means, and of each view."""
        measured: dict[str, float] = {}
        for view in self._held_out:
            count, first, five, loss = world.total(self._count(view, world).tolist())
            measured |= {
                f"{view.name}_top1": 100 * first / count,
                f"{view.name}_top5": 100 * five / count,
                f"{view.name}_loss": loss / count,
            }
        means = {
            name: float(np.mean([measured[f"{view.name}_{name}"] for view in self._held_out]))
            for name in ("top1", "top5", "loss")
        }
        return {**means, **measured}

    def _count(self, view: View, world: World) -> np.ndarray:
        """Return sums over this process's images: their number, top-1, top-5, cross-entropy."""
        device = next(self.network.parameters()).device
        sums = np.zeros(4)
        for pixels, labels in fixed_batches(view, self._preprocess, 256, world.rank, world.size):
            seen = self.network(self._preprocess.normalise(pixels.to(device)))
            logits = seen.logits.float().cpu()
            hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums += [len(labels), float(hits[:, 0].sum()), float(hits.sum()), float(loss)]
        return sums
