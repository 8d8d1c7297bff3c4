"""Classification: a teacher is a student whose panel is empty."""

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
    """A network that learns labels, and from a panel of teachers where there is one.

    weights: of the losses, by name; held_out: the views by which it is judged.
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
        student = self.network(self._preprocess.normalise(batch.pixels))
        teachers = self._panel(batch) if self._panel else None
        groups = batch.groups if self._panel.how == "grouped" else 1
        with torch.autocast(batch.pixels.device.type, enabled=False):
            return objective(
                student.float(),
                self._targets(batch, student),
                teachers,
                self._weights,
                groups=groups,
            )

    def _targets(self, batch: Batch, student: Seen) -> torch.Tensor:
        """The labels (N,), or targets (N,K) where they are smoothed."""
        share = self._label_smoothing
        return smoothed(batch.labels, student.logits.shape[1], share) if share else batch.labels

    @torch.no_grad()
    def evaluate(self, world: World) -> dict[str, float]:
        """Top-1 and top-5 in per cent and cross-entropy: means over the views, and those of each view."""
        device = next(self.network.parameters()).device
        measured: dict[str, float] = {}
        for view in self._held_out:
            sums = np.zeros(4)
            for pixels, labels in fixed_batches(
                view, self._preprocess, 256, world.rank, world.size
            ):
                logits = (
                    self.network(self._preprocess.normalise(pixels.to(device))).logits.float().cpu()
                )
                ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
                loss = F.cross_entropy(logits, labels, reduction="sum")
                sums += [len(labels), float(ranked[:, 0].sum()), float(ranked.sum()), float(loss)]
            count, first, five, loss = world.total(sums.tolist())
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
