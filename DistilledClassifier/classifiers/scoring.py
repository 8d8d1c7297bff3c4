"""The one place where a trained classifier judges images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from DDA import files, tree
from DistilledClassifier.classifiers.network import Network
from DistilledClassifier.classifiers.preprocess import Preprocess


@dataclass(frozen=True)
class Classifier:
    """A trained network in eval mode, with all that its checkpoint tells.

    adapted: the settings of the adapted copies that it learnt from.
    """

    network: Network
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    config: dict = field(default_factory=dict)
    adapted: dict | None = None
    path: Path | None = None

    @torch.no_grad()
    def scores(self, pixels: Sequence[np.ndarray] | np.ndarray, batch_size: int = 128) -> torch.Tensor:
        """Logits (N,K), on the CPU, of images uint8 (H,W,3)."""
        device = next(self.network.parameters()).device
        parts = []
        for i in range(0, len(pixels), batch_size):
            batch = np.stack([self.preprocess.fit(image) for image in pixels[i : i + batch_size]])
            parts.append(self.network(self.preprocess.normalise(torch.from_numpy(batch).to(device)))[1].float().cpu())
        return torch.cat(parts)

    def check_adapted(self, copies: Path) -> None:
        """Raise ValueError where a tree of adapted copies was made with other settings than those that it learnt from."""
        settings = copies / tree.SETTINGS
        if self.adapted is None or not settings.is_file():
            return
        there = files.read_json(settings)
        differ = [f"{name} {there.get(name)} there, {self.adapted.get(name)} in training" for name in {**there, **self.adapted}
                  if there.get(name) != self.adapted.get(name)]  # fmt: skip
        if differ:
            raise ValueError(
                f"{copies} was adapted with other settings than the training copies of {self.path}: {'; '.join(differ)}; "
                "adapt both alike"
            )
